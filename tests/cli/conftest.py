"""A small palette on disk, indexed with the colours model, and a way to run the command on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from helpers.colour_index import Maker, solid
from helpers.colours import COLOURS, FINGERPRINT, ColourBackbone
from helpers.store_points import address_of
from tsembed_search.items import Item
from tsembed_search.model.backbone import BuiltIn
from tsembed_search.model.embedder import Embedder
from tsembed_search.model.registry import MODELS
from tsembed_search.store import opening
from tsembed_search.store.base import StoreSettings
from tsembed_search.store.schema import IndexMetadata

Run = Callable[..., Result]


@pytest.fixture(scope="session")
def palette(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of pictures and texts; beside it `home` with the index called `default`, and an empty one, `empty`."""
    root = tmp_path_factory.mktemp("palette")
    files = root / "files"
    (files / "notes").mkdir(parents=True)
    embedder = Embedder(ColourBackbone())
    for name in ("default", "empty"):
        store = opening.open_or_create(address_of(root / "home/indexes" / name), StoreSettings(embedder.info.dim))
        store.write_metadata(IndexMetadata.of(embedder.info).to_json())
        if name == "default":
            maker = Maker(store, embedder, files)
            for colour, rgb in COLOURS.items():
                Image.fromarray(solid(*rgb)).save(files / f"{colour}.png")
                maker.add(Item(image=solid(*rgb)), f"{colour}.png")
                (files / "notes" / f"{colour}.txt").write_text(f"all about {colour}")
                maker.add(Item(f"all about {colour}"), f"notes/{colour}.txt", chunk=0)
            maker.add(Item("tulips of many colours"), "flowers.pdf", page=1, chunk=0)
            maker.add(Item("tulips again"), "flowers.pdf", page=2, chunk=0)
        store.close()
    return files


@pytest.fixture
def run(palette: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs `tsembed ARGUMENTS` in this process; stdout and stderr of the result are apart."""
    monkeypatch.setenv("TSEMBED_HOME", str(palette.parent / "home"))
    monkeypatch.setitem(
        MODELS._entries, "colours", BuiltIn("colours", fingerprint=FINGERPRINT, loader="helpers.colours:load")
    )
    monkeypatch.chdir(palette)
    from tsembed_search.cli.main import app

    def invoke(*arguments: object, stdin: str | None = None) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)

    yield invoke


@pytest.fixture
def fresh(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without indexes, and a folder of files, the current one."""
    files = tmp_path / "files"
    files.mkdir()
    monkeypatch.setenv("TSEMBED_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(files)
    return files
