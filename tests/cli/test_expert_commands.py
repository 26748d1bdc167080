"""`explain` and `status --experts` as commands, in a pipe and in terminals of several widths."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from helpers.colour_index import Maker, solid
from helpers.colours import COLOURS, FINGERPRINT, ColourBackbone
from helpers.indexing import copy_index
from helpers.store_points import address_of
from tsembed_search.cli.explain import draw
from tsembed_search.cli.render.hits import print_hits
from tsembed_search.cli.status import print_usage
from tsembed_search.index import Index
from tsembed_search.items import Item
from tsembed_search.model.backbone import BuiltIn
from tsembed_search.model.embedder import Embedder
from tsembed_search.model.registry import MODELS
from tsembed_search.store import opening
from tsembed_search.store.base import StoreSettings
from tsembed_search.store.schema import IndexMetadata

Run = Callable[..., Result]


def recording(width: int) -> Console:
    """A terminal of that width that remembers what it was given."""
    return Console(width=width, record=True, force_terminal=True, color_system="truecolor", file=io.StringIO())


@pytest.fixture(scope="module")
def routed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with an index `default` of a model with experts."""
    root = tmp_path_factory.mktemp("routed")
    embedder = Embedder(ColourBackbone(experts=True))
    store = opening.open_or_create(address_of(root / "indexes/default"), StoreSettings(embedder.info.dim))
    store.write_metadata(IndexMetadata.of(embedder.info).to_json())
    maker = Maker(store, embedder, root / "files")
    for colour, rgb in COLOURS.items():
        maker.add(Item(image=solid(*rgb)), f"{colour}.png")
        maker.add(Item(f"all about {colour}"), f"notes \x1b[31m[bold]/{colour}.txt", chunk=0)
    store.close()
    return root


@pytest.fixture
def run_routed(routed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    monkeypatch.setenv("TSEMBED_HOME", str(routed))
    monkeypatch.setitem(
        MODELS._entries, "colours", BuiltIn("colours", fingerprint=FINGERPRINT, loader="helpers.colours:load_experts")
    )
    from tsembed_search.cli.main import app

    yield lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


class TestHits:
    """What a search says about experts to people."""

    def test_plain_lines(self, run_routed: Run) -> None:
        hits = json.loads(run_routed("search", "red", "-k", 3, "--json").stdout)["hits"]
        done = run_routed("search", "red", "-k", 3, "--explain")
        told = done.stdout.splitlines()
        assert "b0e1 is expert 1 of block 0." in done.stderr
        lines = [line.split() for line in told if line.split()[0] == "similarity"]
        for line, hit in zip(lines, hits, strict=True):
            assert float(line[1]) == pytest.approx(hit["similarity"], abs=6e-4)
            assert float(line[line.index("routes") + 1]) == pytest.approx(hit["route_similarity"], abs=6e-4)
            if hit["words"]:
                assert float(line[line.index("words") + 1]) == pytest.approx(hit["words"], abs=6e-4)
            assert line[line.index("experts") + 1 :] == hit["shared_experts"][:3]

    def test_only_who_asks_is_told(self, run_routed: Run) -> None:
        done = run_routed("search", "all about red", "-k", 3)
        assert len(done.stdout.splitlines()) == 5  # three hits, and the words of two
        assert not any(word in done.stdout for word in ("similarity", "words", "routes", "experts"))
        with Index.open("default") as index:
            found = index.search("all about red").hits[0]
        screen = recording(100)
        print_hits([replace(found, top_experts=["b0e0"])], on=screen)
        drawn = screen.export_text()
        assert "red.txt" in drawn and "all about red" in drawn
        assert not any(word in drawn for word in ("similarity", "words", "routes", "b0e0"))

    def test_shared_experts_stand_out_in_a_terminal(self, run_routed: Run) -> None:
        with Index.open("default") as index:
            found = index.search("red").hits[0]
        found = replace(found, top_experts=["b0e0", "b1e1"], shared_experts=["b1e1"])
        screen = recording(100)
        print_hits([found], on=screen, explain=True)
        styles = {segment.text.strip(): str(segment.style) for segment in screen._record_buffer}
        assert "green" in styles["b1e1"]
        assert "green" not in styles["b0e0"]

    def test_a_model_without_experts_says_nothing_of_them(self, run: Run) -> None:
        assert "routes" not in run("search", "red").stdout


class TestReranking:
    """A model whose routes count for nothing says so; it would look as if it had reranked."""

    @pytest.mark.parametrize("weight", [0.0, 0.3])
    def test_a_weight_of_zero_is_said(
        self, run_routed: Run, routed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weight: float
    ) -> None:
        copy_index(routed, tmp_path / "home")
        monkeypatch.setenv("TSEMBED_HOME", str(tmp_path / "home"))
        store = opening.open(address_of(tmp_path / "home/indexes/default"))
        store.write_metadata({**store.metadata, "route_weight": weight})
        store.close()
        done = run_routed("search", "red", "--rerank", "expert")
        assert done.exit_code == 0 and done.stdout
        assert ("--route-weight" in done.stderr) == (weight == 0)
        assert not run_routed("search", "red", "--rerank", "expert", "--quiet").stderr
        assert "--route-weight" not in run_routed("search", "red", "--rerank", "expert", "--route-weight", 0).stderr


class TestExplain:
    def test_json(self, run_routed: Run) -> None:
        hits = json.loads(run_routed("search", "red", "--json").stdout)["hits"]
        told = json.loads(run_routed("explain", "red", "2", "--json").stdout)
        assert told["query"] == {"text": "red", "image": None}
        assert "rank" not in told["hit"]
        for name, value in told["hit"].items():
            assert value == (pytest.approx(hits[1][name], abs=1e-5) if isinstance(value, float) else hits[1][name])
        assert told["shared_experts"] == hits[1]["shared_experts"]
        assert [block["block"] for block in told["blocks"]] == [0, 1]
        total = sum(expert["agreement"] for block in told["blocks"] for expert in block["experts"])
        assert total == pytest.approx(hits[1]["route_similarity"], abs=1e-5)

    def test_words(self, run_routed: Run, routed: Path) -> None:
        done = run_routed("explain", "all", "about", "red", routed / "files/red.png")
        assert done.exit_code == 0
        lines = done.stdout.splitlines()
        assert lines[0].endswith("red.png")
        assert [line.split()[:2] for line in lines[2:4]] == [["block", "0"], ["block", "1"]]
        (words,) = (line for line in lines if line.startswith("words 0."))
        assert "red 0." in words and "all 0.00" in words and "they count" not in words
        assert re.fullmatch(r"b(\d)e(\d) is expert \2 of block \1\.", lines[-1])
        assert "\x1b" not in run_routed("explain", "red", "1").stdout

    def test_few_words_say_that_they_count_for_less(self, run_routed: Run, routed: Path) -> None:
        done = run_routed("explain", "red", routed / "files/notes \x1b[31m[bold]/red.txt")
        (words,) = (line for line in done.stdout.splitlines() if line.startswith("words "))
        assert words.startswith("words 1.00: red 1.00  (they count for 25%: ")
        told = json.loads(run_routed("explain", "red", routed / "files/notes \x1b[31m[bold]/red.txt", "--json").stdout)
        assert told["words_count"] == 0.25

    def test_a_picture(self, run_routed: Run, palette: Path) -> None:
        done = run_routed("explain", "--image", palette / "red.png", "1", "--json")
        assert json.loads(done.stdout)["query"]["image"] == str(palette / "red.png")
        assert json.loads(done.stdout)["hit"]["path"].endswith("red.png")

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["1"], "query is missing"),
            (["red", "77"], "no hit number 77"),
            (["red", "nothing.txt"], "neither the id of an item nor an indexed path"),
            (["--image", "none.png", "1"], "no file none.png"),
        ],
    )
    def test_wrong(self, run_routed: Run, arguments: list[str], words: str) -> None:
        done = run_routed("explain", *arguments)
        assert done.exit_code == 2
        assert words in done.stderr

    def test_without_experts(self, run: Run) -> None:
        for arguments in (["explain", "red", "1"], ["status", "--experts"]):
            done = run(*arguments)
            assert done.exit_code == 2
            assert "holds no routing vectors" in done.stderr
            assert "--model" in done.stderr

    @pytest.mark.parametrize("width", [24, 40, 80, 160])
    def test_drawing(self, routed: Path, width: int, run_routed: Run) -> None:
        with Index.open("default") as index:
            found = index.explain("red", str(routed / "files/notes \x1b[31m[bold]/red.txt"))
        screen = recording(width)
        assert found.agreement is not None
        draw(screen, found, found.agreement)
        drawn = screen.export_text()
        assert all(len(line.rstrip()) <= width for line in drawn.splitlines())
        assert "[bold]" in drawn.replace("\n", "")
        assert "▀" in drawn
        assert f"{found.agreement.blocks[1]:+.3f}" in drawn
        assert "\x1b" not in drawn  # the one in the file's name has not reached the terminal


class TestUsage:
    def test_not_with_skipped(self, run_routed: Run) -> None:
        assert run_routed("status", "--experts", "--skipped").exit_code == 2

    def test_json(self, run_routed: Run) -> None:
        told = json.loads(run_routed("status", "--experts", "--json").stdout)
        assert told["total"] == 12
        assert (told["experts"]["blocks"], told["experts"]["experts"]) == (2, 3)
        groups = told["experts"]["groups"]
        assert [(group["of"], group["items"]) for group in groups] == [
            ("all", 12), ("kind", 6), ("kind", 6), ("folder", 6), ("folder", 6),
        ]  # fmt: skip
        assert all(len(group[what]) == 2 and len(group[what][0]) == 3 for group in groups for what in ("share", "mean"))
        assert "experts" not in json.loads(run_routed("status", "--json").stdout)

    def test_words(self, run_routed: Run) -> None:
        done = run_routed("status", "--experts")
        assert done.exit_code == 0
        assert done.stdout.startswith("all (12 items): b")
        assert len(done.stdout.splitlines()) == 5
        assert "\x1b" not in done.stdout

    @pytest.mark.parametrize("width", [12, 20, 80, 160])
    def test_drawing(self, run_routed: Run, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
        screen = recording(width)
        monkeypatch.setattr("tsembed_search.cli.render.text.is_terminal", lambda **_: True)
        monkeypatch.setattr("tsembed_search.cli.render.text.console", lambda **_: screen)
        with Index.open("default") as index:
            groups = index.usage()
        print_usage(groups)
        drawn = screen.export_text()
        assert all(len(line) <= width for line in drawn.splitlines())
        assert drawn.count("b1") == 5
        assert "\x1b" not in drawn
        assert (f"{groups[0].share[0, 0] * 100:.0f}" in drawn) is (width >= 20)


def test_ls_and_rm_know_the_experts_that_search_knows(run_routed: Run) -> None:
    for where in ("expert=b0e1", "expert in (b0e1, b9e9)", "not expert=b0e1", "expert!=b9e9"):
        found = run_routed("search", "red", "-k", "100", "--all-chunks", "--paths", "-w", where).stdout.splitlines()
        assert sorted(run_routed("ls", "--paths", "-w", where).stdout.splitlines()) == sorted(found), where
        assert json.loads(run_routed("rm", "--dry-run", "--json", "-w", where).stdout)["files"] == len(found), where
    assert run_routed("ls", "-w", "expert=b0e1").exit_code == 0
