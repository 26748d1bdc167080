"""A watch that is killed while files change: the one that is started next makes the index whole."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.indexing import Indexing

WATCH = """
import sys, threading
from pathlib import Path
from tsembed_search.index import Index
from tsembed_search.indexer.report import IndexOptions
from tsembed_search.indexer.watching.loop import Pace, Watcher
from tsembed_search.store.base import StoreSettings

class Runs:
    def run(self, roots, options):
        with Index.open(create=StoreSettings(0)) as index:
            return index.add(roots, options)

    def began(self, folders):
        print("began", flush=True)

    def failed(self, error, pause):
        print(error, file=sys.stderr, flush=True)

home, files = map(Path, sys.argv[1:])
pace = Pace(quiet=0.2, longest=0.6, disks=0.5)
Watcher([files], IndexOptions(words_only=True, workers=1), home, Runs(), threading.Event(), pace).follow()
"""
KILLS = int(os.environ.get("TSEMBED_WATCH_KILLS", "2"))
"""More of them: TSEMBED_WATCH_KILLS=30."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TSEMBED_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    return tmp_path / "home/indexes/default"


def indexed() -> dict[str, str]:
    """The text of each file that the index has."""
    from tsembed_search.index import Index

    with Index.open() as index:
        records = list(index.store.scroll())
    return {place["path"]: record.payload["text"] for record in records for place in record.payload["places"]}


def test_killed_while_files_change(indexing: Indexing, home: Path) -> None:
    chance = random.Random(KILLS)
    files = indexing.files
    for number in range(40):
        indexing.write(f"stays/{number}.txt", f"text {number} that stays")
    number = 0
    for kill in range(KILLS + 1):
        command = [sys.executable, "-c", WATCH, str(home), str(files)]
        watch = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert watch.stdout is not None and watch.stdout.readline() == "began\n"
        end = time.monotonic() + chance.uniform(0.3, 0.8)
        while time.monotonic() < end:
            number += 1
            indexing.write(f"{chance.choice('abc')}/{number % 30}.txt", f"words number {number}")
            if number % 5 == 0:
                next(path for path in files.glob("[abc]/*.txt")).unlink()
            if number % 40 == 0:
                (files / chance.choice("abc")).rename(files / f"old{number}")
            time.sleep(0.005)
        if kill == KILLS:
            end = time.monotonic() + 30
            wanted = {str(path): path.read_text() for path in files.rglob("*.txt")}
            time.sleep(0.7)  # longer than it stays quiet: from now on it has the index only if something is left to do
            while (found := _found(wanted)) != wanted:
                assert time.monotonic() < end, found.keys() ^ wanted.keys()
        watch.send_signal(signal.SIGKILL)
        watch.wait()
        watch.stdout.close()


def _found(wanted: dict[str, str]) -> dict[str, str]:
    from tsembed_search.errors import IndexBusyError

    try:
        return indexed()
    except IndexBusyError:
        time.sleep(0.1)
        return {}
