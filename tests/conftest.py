"""What holds for all tests: those that need a device that is not there are skipped, and none touches a user's data."""

from __future__ import annotations

import functools
import gc
import itertools
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Benchmarks and the factory of mini are scripts that import one another by their file names. They come last, so that
# none hides a package.
ROOT = Path(__file__).parents[1]
sys.path += [str(ROOT / "benchmarks"), str(ROOT / "benchmarks" / "method"), str(ROOT / "examples" / "mini")]
MEMORY, ROOM = Path("/dev/shm"), 4 << 30
"""A file system in memory, and the bytes that must be free there."""


MANY = 100
"""So many modules more are worth another look at what is garbage."""
_modules = 0


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores, which a fifth of the time were not all in use."""
    return (os.cpu_count() or 1) + 1


def pytest_configure() -> None:
    """Temporary files lie in memory where there is room: the engine waits for a disk each time it makes a shard.

    Garbage is not collected while tests are: all that they import stays.
    """
    gc.disable()
    if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > ROOM:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


def pytest_collection_finish() -> None:
    """What is imported by now is no garbage: looking at all of torch each time takes a third of a second."""
    gc.collect()
    gc.freeze()
    gc.enable()
    gc.set_threshold(5_000, 10, 30)  # models and graphs are large, and few of them are garbage


@pytest.hookimpl(trylast=True)
def pytest_runtest_logfinish() -> None:
    """Nor is what a test has imported. Each look at torch and transformers takes a third of a second."""
    global _modules
    if len(sys.modules) > _modules + MANY:
        _modules = len(sys.modules)
        gc.collect()
        gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips `gpu` tests on a machine without CUDA."""
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


@pytest.fixture(scope="session")
def _homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """New folders, one after the other."""
    folder = tmp_path_factory.mktemp("homes")
    return (folder / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def _own_home(_homes: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    home = next(_homes)
    home.mkdir()
    monkeypatch.setenv("TSEMBED_HOME", str(home))


@pytest.fixture(autouse=True)
def graphs(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's graph of a model is made once, not in the home of each test: that takes a second."""
    from tsembed_search.model import engine

    kept = tmp_path_factory.getbasetemp() / "graphs" / "cache" / "engine"
    monkeypatch.setattr(engine, "_folder", lambda: kept)


@pytest.fixture
def plots() -> None:
    """Asks for the plots of a run's report."""


@pytest.fixture(autouse=True)
def no_plots(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing them takes many times as long as a tiny run."""
    if "plots" not in request.fixturenames:
        from tsembed_search.trainer import report

        monkeypatch.setattr(report, "_plots", lambda kinds: None)


@pytest.fixture(scope="session", autouse=True)
def _hashed_once() -> Iterator[None]:
    """An installed file of `mini` is hashed once, not each time that a test loads it: that is half of loading it."""
    from tsembed_search.model.backbones import mini_spec

    hashed, verify = set(), mini_spec.verified

    def verified(name: str) -> Path:
        if (path := mini_spec.file_path(name)) not in hashed:
            verify(name)
            hashed.add(path)
        return path

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mini_spec, "verified", verified)
        yield


@pytest.fixture(scope="session", autouse=True)
def _read_once() -> Iterator[None]:
    """The tokenizer of `mini` is read once: models and chunkers share one, and none of them changes it."""
    from tokenizers import Tokenizer

    from tsembed_search.model.backbones import mini_spec

    read, known = Tokenizer.from_file, str(mini_spec.file_path("tokenizer"))
    shared = functools.cache(read)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tokenizer, "from_file", lambda path: shared(path) if path == known else read(path))
        yield


@pytest.fixture(scope="session", autouse=True)
def _warm_decoders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Decoding processes are forked from a warm one: a run of a few files spends most of its time on starting one."""
    from helpers.warm_decoders import serving

    with serving(tmp_path_factory.mktemp("decoders")):
        yield


@pytest.fixture
def cold_decoders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding processes start as they do for a user."""
    import subprocess

    from helpers import warm_decoders

    monkeypatch.delenv(warm_decoders.ADDRESS, raising=False)
    monkeypatch.setattr(warm_decoders.decoders, "subprocess", subprocess)


@pytest.fixture(scope="session", autouse=True)
def _one_command() -> Iterator[None]:
    """Typer's runner builds all commands anew for each call, which takes longer than most of them run."""
    from typer.main import get_command

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("typer.testing._get_command", functools.cache(get_command), raising=False)
        yield
