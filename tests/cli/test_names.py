"""Names in both of Unicode's forms: composed, as keyboards type them, and decomposed, as Macs write them."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import Result

from tsembed_search.paths import existing, name_form

Run = Callable[..., Result]
COLOURS = ("--model", "colours", "--workers", "1", "--quiet")


def composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def decomposed(text: str) -> str:
    return unicodedata.normalize("NFD", text)


FORMS = (composed, decomposed)
FILES = {"Zürich/Café-Müller.txt": "all about red", "Ålesund/brücke.txt": "all about blue", "plain/Cafe.txt": "green"}


@pytest.fixture(params=FORMS)
def typed(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """The form in which names are typed."""
    form: Callable[[str], str] = request.param
    return form


@pytest.fixture
def kept(typed: Callable[[str], str]) -> Callable[[str], str]:
    """The form in which they are on the disk: the other one."""
    return decomposed if typed is composed else composed


@pytest.fixture
def on_disk(fresh: Path, kept: Callable[[str], str]) -> Path:
    """The files with their names in that form."""
    for name, text in FILES.items():
        path = fresh / kept(name)
        path.parent.mkdir()
        path.write_text(text)
    return fresh


def listed(run: Run, *arguments: str) -> list[str]:
    """The names that `ls` gives, composed, without the folder that all lie in."""
    files = json.loads(run("ls", "--json", *arguments).stdout)["files"]
    return sorted(composed("/".join(Path(file["path"]).parts[-2:])) for file in files)


CAFE, BRIDGE, PLAIN = FILES


def test_a_name_is_found_however_it_was_typed(run: Run, on_disk: Path, typed: Callable[[str], str]) -> None:
    assert run("index", ".", *COLOURS).exit_code == 0
    for where, found in {
        "path~Zürich/": [CAFE],
        "path~Zürich": [CAFE],
        "path~*Café*": [CAFE],
        "path~'Zürich/*.txt'": [CAFE],
        "path~'**/Caf?-M[ü]ller.txt'": [CAFE],
        "path=Café-Müller.txt": [CAFE],
        "path=Zürich/Café-Müller.txt": [CAFE],
        f"path={on_disk}/Zürich/Café-Müller.txt": [CAFE],
        f"path~{on_disk}/Ålesund": [BRIDGE],
        "path~./Ålesund": [BRIDGE],
        "path in (Café-Müller.txt, brücke.txt)": [BRIDGE, CAFE],
        "path~*Cafe*": [PLAIN],
        "not path~Zürich and path!=brücke.txt": [PLAIN],
    }.items():
        assert sorted(listed(run, "-w", typed(where))) == sorted(composed(name) for name in found), where
    for where, count in (("path~Zürich/", 1), ("path in (Café-Müller.txt, brücke.txt)", 2)):
        hits = run("search", "red", "--paths", "-w", typed(where)).stdout.splitlines()
        assert len(hits) == count and all(Path(hit).is_file() for hit in hits), where
    assert listed(run, typed("Zürich")) == listed(run, typed(CAFE)) == [composed(CAFE)]
    like = run("search", "--like", typed(CAFE), "--paths", "-k", "1")
    assert like.exit_code == 0 and CAFE not in composed(like.stdout)
    assert "removed" in run("rm", typed("Ålesund")).stdout.lower()
    assert composed(BRIDGE) not in listed(run)


def test_patterns_and_paths_of_a_run(run: Run, on_disk: Path, typed: Callable[[str], str]) -> None:
    assert run("index", ".", "--exclude", typed("Zürich"), *COLOURS).exit_code == 0
    assert listed(run) == sorted([PLAIN, composed(BRIDGE)])
    (on_disk / ".tsembedignore").write_text(typed("brücke.*\n"))
    assert run("index", ".", "--include", typed("Café*"), "--include", typed("brücke.txt"), *COLOURS).exit_code == 0
    assert composed(BRIDGE) not in listed(run) and composed(CAFE) in listed(run)
    assert run("index", typed("Ålesund"), *COLOURS).exit_code == 0
    assert composed(BRIDGE) in listed(run), "the ignore file lies above what was named"
    assert run("index", typed("Nürnberg"), *COLOURS).exit_code == 2


def test_files_that_are_only_read(
    run: Run, on_disk: Path, kept: Callable[[str], str], typed: Callable[[str], str]
) -> None:
    run("index", ".", *COLOURS)
    (on_disk / "Bücher").mkdir()
    (on_disk / kept("Bücher-é.jsonl")).write_text('{"text": "red"}\n')
    assert run("search", "--queries", typed("Bücher-é.jsonl")).exit_code == 0
    (on_disk / kept("süß.txt")).write_text("all about red")
    assert run("search", "--like", typed("süß.txt")).exit_code == 0


def test_rows_and_the_pictures_that_they_name(
    run: Run, fresh: Path, kept: Callable[[str], str], typed: Callable[[str], str]
) -> None:
    folder = fresh / kept("Übung")
    (folder / kept("Häuser")).mkdir(parents=True)
    for colour in ("red", "blue"):
        Image.new("RGB", (8, 8), colour).save(folder / kept(f"Häuser/schön {colour}.png"))
    rows = [{"query": colour, "positive": {"image": typed(f"Häuser/schön {colour}.png")}} for colour in ("red", "blue")]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    commands = [("data", "check"), ("eval", "--model", "colours")]
    if typed is composed:  # it reads as the others do, and then trains for seconds
        commands.append(("train", "--dry-run"))
    for command in commands:
        done = run(*command, typed("Übung/rows.jsonl"), "--json")
        assert done.exit_code == 0, done.stderr
    assert json.loads(run("data", "check", typed("Übung"), "--json").stdout)["tasks"][0]["rows"] == 2


def test_two_files_whose_names_differ_in_form_only(run: Run, fresh: Path) -> None:
    for number, form in enumerate(FORMS):
        (fresh / form("Café.txt")).write_text(f"all about {('red', 'blue')[number]}")
    if len(list(fresh.iterdir())) < 2:
        pytest.skip("this file system has one form")
    run("index", ".", *COLOURS)
    assert listed(run, "Café.txt") == listed(run, decomposed("Café.txt")) == [f"files/{composed('Café.txt')}"] * 2
    for form in FORMS:
        like = run("search", "--like", form("Café.txt"), "--paths", "-k", "1").stdout.strip()
        assert Path(like).is_file() and Path(like).name != form("Café.txt"), "the one that was typed is left out"


def test_bytes_that_are_no_text_have_a_form_too() -> None:
    assert name_form("a\udcff" + decomposed("é")) == "a\udcff" + composed("é")


def test_what_is_on_the_disk_in_neither_form_stays(tmp_path: Path) -> None:
    (tmp_path / decomposed("Zürich")).mkdir()
    wanted = tmp_path / composed("Zürich") / "new" / "ä.txt"
    assert existing(wanted) == tmp_path / decomposed("Zürich") / "new" / "ä.txt"
    assert existing(Path("ä/ö")) == Path("ä/ö")


FIELDS = {
    "kind": "kind=text", "path": "path~notes", "ext": "ext=png", "page": "page>=1", "modified": "modified>2000",
    "expert": "expert=b0e1", "sha": "sha='sha of red.png'", "model": "model=colours-1",
}  # fmt: skip


def test_a_filter_means_the_same_to_every_command(run: Run, palette: Path) -> None:
    from helpers.colours import FINGERPRINT
    from tsembed_search.store.filters import PAYLOAD_KEYS

    assert set(FIELDS) == set(PAYLOAD_KEYS) - {"concept"}, "a new field needs a line here"
    for command in (("search", "red"), ("ls",), ("rm", "--dry-run")):
        refused = run(*command, "-w", "concept=dog")  # this index was made by a model that tells none
        assert refused.exit_code == 2, command
        assert "does not know what its pictures show" in refused.stderr
    whole = set(run("ls", "--paths").stdout.splitlines())
    for where in (*FIELDS.values(), f"model={FINGERPRINT}", "expert!=b0e1", "not page=1", "sha!=x"):
        found = set(run("search", "red", "-k", "100", "--all-chunks", "--paths", "-w", where).stdout.splitlines())
        assert set(run("ls", "--paths", "-w", where).stdout.splitlines()) == found <= whole, where
        removal = json.loads(run("rm", "--dry-run", "--json", "-w", where).stdout)
        assert removal["files"] == len(found), where


def test_a_folder_with_the_name_of_a_built_in_model_is_not_that_model(run: Run, fresh: Path) -> None:
    (fresh / "colours").mkdir()
    (fresh / "colours" / "red.txt").write_text("all about red")
    assert run("index", ".", *COLOURS).exit_code == 0
    for arguments in (("search", "red"), ("search", "red", "--model", "colours"), ("index", ".", "--workers", "1")):
        assert run(*arguments).exit_code == 0
    assert json.loads(run("status", "--json").stdout)["model"] == "colours"
