"""`tsembed search`: what goes to stdout, what to stderr, and the exit codes."""

from __future__ import annotations

import io
import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import Result

from helpers import colours
from helpers.colours import ColourBackbone
from tsembed_search.cli.main import COMMANDS
from tsembed_search.cli.render.hits import print_hits
from tsembed_search.index import Index
from tsembed_search.search.results import Hit

Run = Callable[..., Result]


def hits_of(output: str) -> list[dict]:
    return json.loads(output)["hits"]


def test_plain_output_when_not_a_terminal(run: Run) -> None:
    done = run("search", "all", "about", "red", "-k", "2")
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split()[0] == "1" and lines[0].endswith("  notes/red.txt")
    assert "all about red" in lines[1]
    assert "\x1b" not in done.stdout + done.stderr


@pytest.mark.parametrize("there", [True, False])
def test_a_terminal_is_offered_the_same_search_in_browse(
    run: Run, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    """What is offered is safe to paste into a shell, and only what there is."""
    monkeypatch.setattr("tsembed_search.cli.render.text.is_terminal", lambda **_: True)
    commands = {name: entry for name, entry in COMMANDS._entries.items() if name != "browse"}
    monkeypatch.setattr(COMMANDS, "_entries", commands | ({"browse": "unused:unused"} if there else {}))
    done = run("search", "it's", "red; rm x", "--image", "red.png", "-w", "kind=text")
    told = " ".join(done.stderr.split())
    offered = "tsembed browse 'it'\"'\"'s' 'red; rm x' --image red.png --where kind=text"
    assert (offered in told) is there, told
    assert "browse" not in run("search", "red", "--quiet").stderr + run("search", "--like", "red.png").stderr


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model knows from which scores on hits are good matches."""
    limits = {("text", "text"): 0.8, ("text", "image"): 0.75}
    monkeypatch.setattr(colours, "CALIBRATION", replace(colours.CALIBRATION, limits=limits))


class TestGoodMatches:
    def test_they_come_first_and_are_counted(self, run: Run, limits: None) -> None:
        done = run("search", "red", "-k", "4")
        lines = [line for line in done.stdout.splitlines() if not line.startswith("     ")]
        assert [line.endswith("  good match") for line in lines] == [True, True, False, False], done.stdout
        assert "2 good matches; 2 weaker." in done.stderr
        assert json.loads(run("search", "red", "-k", "4", "--json").stdout)["good"] == 2
        assert "good match" not in run("search", "red", "--quiet").stderr

    def test_only_these(self, run: Run, limits: None, palette: Path) -> None:
        done = run("search", "red", "--good", "-0")
        assert sorted(done.stdout.split("\0")[:-1]) == [f"{palette}/notes/red.txt", f"{palette}/red.png"]

    def test_nothing_is_good(self, run: Run, limits: None) -> None:
        done = run("search", "purple", "elephants")
        assert done.exit_code == 0 and done.stdout and "Nothing here is a good match; these are" in done.stderr
        done = run("search", "purple", "elephants", "--good")
        assert done.exit_code == 1 and not done.stdout
        assert (
            "Nothing here is a good match for 'purple elephants'." in done.stderr and "leave out --good" in done.stderr
        )

    def test_nobody_can_tell(self, run: Run) -> None:
        done = run("search", "red")
        assert done.exit_code == 0 and "hits." in done.stderr and "good" not in done.stdout + done.stderr
        done = run("search", "red", "--good")
        assert done.exit_code == 1 and "nothing tells good matches" in done.stderr

    def test_headings_in_a_terminal(self) -> None:
        fields = {"score": 0.9, "similarity": 0.4, "route_similarity": 0.0, "id": "x", "kind": "image", "page": None,
                  "chunk": None, "snippet": None}  # fmt: skip
        hits = [Hit(rank=rank, path=f"/{rank}.png", good=rank != 2, **fields) for rank in (1, 3, 2)]  # type: ignore[arg-type]
        on = Console(file=io.StringIO(), width=80)
        print_hits(hits, on=on)
        lines = on.file.getvalue().splitlines()  # type: ignore[attr-defined]
        assert lines.index("2 good matches") < lines.index("1 weaker")
        assert [line.split()[1] for line in lines if ".png" in line] == ["/1.png", "/3.png", "/2.png"]
        assert lines.index("1 weaker") > next(at for at, line in enumerate(lines) if "/3.png" in line)


def test_json_is_one_document_with_the_fields_of_the_contract(run: Run, palette: Path) -> None:
    done = run("search", "red", "--json", "-k", 3)
    document = json.loads(done.stdout)
    assert set(document) == {"hits", "good", "seconds"}
    assert set(document["seconds"]) == {"load", "embed", "search"}
    assert [hit["rank"] for hit in document["hits"]] == [1, 2, 3]
    found = {hit["path"]: hit for hit in document["hits"]}
    picture = found[f"{palette}/red.png"]
    assert picture["kind"] == "image" and picture["snippet"] is None and picture["page"] is None
    assert 0 <= picture["score"] <= 1 and -1 <= picture["similarity"] <= 1
    assert {"route_similarity", "id", "chunk", "top_experts"} <= set(picture)


def test_picture_joint_and_like_queries(run: Run, palette: Path) -> None:
    by_picture = hits_of(run("search", "--image", "blue.png", "--json", "-k", 1).stdout)
    assert by_picture[0]["path"].endswith("/blue.png")
    joint = hits_of(run("search", "about", "--image", "blue.png", "--json", "-k", 5, "-w", "kind=text").stdout)
    assert joint[0]["path"].endswith("/notes/blue.txt")
    like = hits_of(run("search", "--like", "blue.png", "--json", "-k", 12).stdout)
    assert f"{palette}/blue.png" not in [hit["path"] for hit in like]
    by_id = hits_of(run("search", "--like", by_picture[0]["id"], "--json", "-k", 12).stdout)
    assert [hit["id"] for hit in by_id] == [hit["id"] for hit in like]


def test_filters_and_scores(run: Run) -> None:
    several = hits_of(run("search", "red", "-w", "kind=text", "-w", "path~notes", "--json", "-k", 20).stdout)
    assert len(several) == 6
    best = several[0]["score"]
    assert len(hits_of(run("search", "red", "--min-score", best - 1e-6, "--json", "-w", "kind=text").stdout)) == 1


def test_pages_chunks_and_limits(run: Run) -> None:
    pages = hits_of(run("search", "tulips", "--json", "-k", 2).stdout)
    assert [hit["page"] for hit in pages] == [2, 1]


def test_paths_for_pipes(run: Run, palette: Path) -> None:
    lines = run("search", "red", "-k", 2, "--paths").stdout
    assert sorted(lines.splitlines()) == sorted([f"{palette}/red.png", f"{palette}/notes/red.txt"])
    nul = run("search", "red", "-k", 2, "-0").stdout
    assert sorted(nul.split("\0")) == sorted(["", *lines.splitlines()])
    tulips = run("search", "tulips", "-k", 2, "--paths").stdout
    assert tulips.splitlines() == [f"{palette}/flowers.pdf"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["red", "-w", "page=77"], ["Nothing found for 'red'", "No item matches the filter: page=77"]),
        (["red", "--min-score", "1"], ["Nothing found", "lower --min-score"]),
        (["red", "--index", "empty"], ["Nothing found", "index 'empty' is empty", "tsembed index"]),
    ],
)
def test_nothing_found_is_said_and_is_exit_code_1(run: Run, arguments: list[str], words: list[str]) -> None:
    done = run("search", *arguments)
    assert done.exit_code == 1
    assert done.stdout == ""
    assert all(word in done.stderr for word in words)
    as_json = run("search", *arguments, "--json")
    assert as_json.exit_code == 1
    assert hits_of(as_json.stdout) == []
    assert run("search", *arguments, "--quiet").stderr == ""


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, ["nothing to search for", "--image"]),
        ([" "], 2, ["argument is empty"]),
        (["x", "--image", "missing.png"], 2, ["There is no file missing.png"]),
        (["--image", "notes/red.txt"], 1, ["notes/red.txt"]),
        (["x", "--like", "red.png"], 2, ["--like cannot be combined", "--image"]),
        (["--like", "missing.png"], 2, ["neither the id"]),
        (["x", "--where", "kind=picture"], 2, ["kind=picture", "image"]),
        (["x", "--where", "colour=red"], 2, ["'colour' is not a field", "kind"]),
        (["x", "--where", "page<"], 2, ["page<"]),
        (["x", "--index", "missing"], 1, ["no index called 'missing'", "tsembed index FOLDER --index missing"]),
        (["x", "--index", "../up"], 2, ["cannot name an index"]),
        (
            ["x", "--model", "mini"],
            1,
            ["made by the model colours", "mini", "--index", "--model", "under another name"],
        ),
        (["x", "--model", "nosuch"], 1, ["nosuch"]),
        (["x", "--device", "quantum"], 1, ["quantum"]),
        (["x", "-k", "0"], 2, ["0 is not a number of hits"]),
        (["x", "-k", "many"], 2, ["-k"]),
        (["x", "--min-score", "2"], 2, ["Scores lie between 0 and 1"]),
        (["x", "--rerank", "magic"], 2, ["magic", "none"]),
        (["x", "--json", "--paths"], 2, ["--json and --paths cannot be used together"]),
        (["x", "--open", "0"], 2, ["counts hits from 1"]),
        (["x", "--images"], 2, ["needs a terminal"]),
        (["x", "--no-such-option"], 2, ["--no-such-option"]),
        (["--queries", "missing.jsonl"], 2, ["Cannot read missing.jsonl"]),
        (["x", "--queries", "q.jsonl"], 2, ["--queries cannot be combined"]),
    ],
)
def test_bad_input_says_what_to_do(run: Run, arguments: list[str], code: int, words: list[str]) -> None:
    done = run("search", *arguments)
    assert done.exit_code == code, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


def test_batch_of_queries_with_bad_lines(run: Run, tmp_path: Path, palette: Path) -> None:
    (tmp_path / "picture.png").write_bytes((palette / "green.png").read_bytes())
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    lines = [
        '{"id": "words", "text": "all about red"}', "", "{oops", '{"id": 3, "image": "picture.png"}',
        '{"text": "blue", "image": "picture.png"}', '{"id": "none"}', '["list"]', '{"id": 8, "text": 5}',
        '{"image": "gone.png"}', '{"txt": "red"}', '{"id": "bad", "image": "broken.png"}',
    ]  # fmt: skip
    file = tmp_path / "q.jsonl"
    file.write_text("\n".join(lines), encoding="utf-8-sig")
    done = run("search", "--queries", file, "-k", 2)
    assert done.exit_code == 1
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["id"] for answer in answers] == ["words", 3, 5]
    assert all(set(answer) == {"id", "hits"} for answer in answers)
    assert answers[0]["hits"][0]["path"].endswith("/notes/red.txt")
    assert answers[1]["hits"][0]["path"].endswith("/green.png")
    for number in (3, 6, 7, 8, 9, 10, 11):
        assert f"{file}:{number}: " in done.stderr
    assert "\x1b" not in done.stderr


def test_batch_from_stdin_loads_the_model_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[ColourBackbone] = []

    def load(device: str = "auto") -> ColourBackbone:
        loaded.append(ColourBackbone(device))
        return loaded[-1]

    monkeypatch.setattr(colours, "load", load)
    text = "".join(f'{{"id": {number}, "text": "red {number}"}}\n' for number in range(150))
    done = run("search", "--queries", "-", "-k", 1, stdin=text)
    assert done.exit_code == 0, done.stderr
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == list(range(150))
    assert len(loaded) == 1


def test_batch_that_finds_nothing_is_exit_code_1(run: Run, tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"id": 1, "text": "red"}\n')
    done = run("search", "--queries", tmp_path / "q.jsonl", "--min-score", 1)
    assert done.exit_code == 1
    assert json.loads(done.stdout) == {"id": 1, "hits": []}


def test_open_hands_the_hit_to_the_desktop(run: Run, palette: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[list[str]] = []

    def fake(arguments: list[str], **options: object) -> subprocess.CompletedProcess[bytes]:
        opened.append(arguments)
        return subprocess.CompletedProcess(arguments, 0)

    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(subprocess, "run", fake)
    assert run("search", "about red", "-k", 1, "--open", 2).exit_code == 0
    assert opened[0][0] == "xdg-open" and Path(opened[0][1]).is_file()
    gone = run("search", "tulips", "--open", 1)
    assert gone.exit_code == 1 and "no longer there" in gone.stderr
    far = run("search", "red", "-w", "page=1", "--open", 9)
    assert far.exit_code == 2 and "no hit number 9" in far.stderr


def test_ls_lists_files_by_path_folder_and_filter(run: Run, palette: Path) -> None:
    everything = json.loads(run("ls", "--json").stdout)["files"]
    assert len(everything) == 13
    assert [file["path"] for file in everything] == sorted(file["path"] for file in everything)
    pdf = next(file for file in everything if file["path"].endswith(".pdf"))
    assert pdf["items"] == {"text": 2}
    assert len(run("ls", "notes", "--paths").stdout.splitlines()) == 6
    assert run("ls", "red.png", "--paths").stdout == f"{palette}/red.png\n"
    assert len(run("ls", "-w", "kind=image", "-0").stdout.split("\0")) == 7
    assert "1 image" in run("ls", "red.png").stdout
    none = run("ls", "nowhere")
    assert none.exit_code == 1 and "Nothing indexed matches" in none.stderr


def test_models_are_listed(run: Run) -> None:
    assert "mini" in run("models").stdout
    document = json.loads(run("models", "--json").stdout)
    assert document["default"] == "mini"
    assert {"name", "family", "where", "base", "prompt"} == set(document["models"][0])


def test_unexpected_errors_are_short_unless_asked(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("boom [red]\x1b[31m")

    monkeypatch.setattr(Index, "open", fail)
    monkeypatch.delenv("TSEMBED_DEBUG", raising=False)
    done = run("search", "x")
    assert done.exit_code == 1
    assert "Unexpected RuntimeError: boom [red]\\x1b[31m" in done.stderr and "TSEMBED_DEBUG=1" in done.stderr
    monkeypatch.setenv("TSEMBED_DEBUG", "1")
    assert isinstance(run("search", "x").exception, RuntimeError)


def test_interruption_is_130_and_says_how_to_go_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Index, "open", interrupt)
    done = run("search", "x")
    assert done.exit_code == 130
    assert "Interrupted" in done.stderr and "go on" in done.stderr


@pytest.mark.parametrize("command", ["index", "search", "status", "ls", "rm", "models", "doctor"])
def test_help_of_every_command_has_examples(run: Run, command: str) -> None:
    done = run(command, "--help")
    assert done.exit_code == 0
    assert "Examples" in done.stdout and f"tsembed {command}" in done.stdout


def test_commands_are_listed_and_nonsense_is_refused(run: Run) -> None:
    listed = run("--help").stdout
    for command in ("index", "search", "status", "ls", "rm", "models", "doctor"):
        assert f" {command} " in listed
    wrong = run("serach", "x")
    assert wrong.exit_code == 2 and "search" in wrong.stderr
    assert run("--version").stdout.startswith("tsembed ")
    assert run().exit_code == 2


def test_completion_of_index_names_and_fields(palette: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tsembed_search.cli import options

    monkeypatch.setenv("TSEMBED_HOME", str(palette.parent / "home"))
    assert options.index_names("") == ["default", "empty"]
    assert options.index_names("e") == ["empty"]
    assert "kind=image" in options.where_fields("ki")
    assert options.where_fields("kind=text and pa") == ["kind=text and path", "kind=text and page"]
    assert options.rerankers("n") == ["none"]
    assert "mini" in options.model_names("mi")
    monkeypatch.setenv("TSEMBED_HOME", os.devnull)
    assert options.index_names("") == []
