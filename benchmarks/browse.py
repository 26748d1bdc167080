"""How fast the browser answers: `python benchmarks/browse.py --json`.

Makes an index of pictures with random vectors under the name of `mini` in a fresh home, and measures

- the first frame: from the start of the command in a pseudo-terminal until the query line is on the screen. Its floor
  is the first frame of a Textual program that has a line to type in and nothing else;
- a key: from the press until its hits are there, by words before the model is loaded, by meaning once it is; a tenth of
  a second of that is the rest for which the browser waits for the next key;
- scrolling through 10,000 hits, a page at a time: how long a page takes, and the memory of the process after each of
  three turns.

Each has a median and a range. The machine's load is printed, for it counts: `--rounds` asks for more rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import pty
import re
import select
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ITEMS = 12_000
PICTURES = 200
TURNS = 3
FIRST = b"type what to look for"
COMMAND = "from tsembed_search.cli.main import run; run()"
BARE = f"""
from textual.app import App
from textual.widgets import Input
class Bare(App):
    def compose(self):
        yield Input(placeholder={FIRST.decode()!r})
Bare().run()
"""
WORDS = "red blue green old new house tree boat car dog cat hill lake snow sun".split()
SIZE = (120, 40)
_STYLES = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")


def main() -> None:
    """Runs all and prints a line each; with `--json`, one object last."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=ITEMS)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--pages", type=int, default=400)
    parser.add_argument("--json", action="store_true")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TSEMBED_HOME"] = f"{folder}/home"
        make(Path(folder), wanted.items)
        frames = [(first_frame(COMMAND), first_frame(BARE)) for _ in range(wanted.rounds)]
        keys = asyncio.run(pressed(wanted.rounds))
        scrolled = asyncio.run(scroll(wanted.pages))
    figures = {
        "benchmark": "browse",
        "items": wanted.items,
        **spread("first_frame_seconds", [own for own, _ in frames]),
        **spread("first_frame_of_an_empty_program_seconds", [bare for _, bare in frames]),
        **spread("first_frame_times_the_empty_program", [own / bare for own, bare in frames]),
        **spread("key_to_words_seconds", keys["words"]),
        **spread("key_to_meaning_seconds", keys["meaning"]),
        **scrolled,
        "load": round(os.getloadavg()[0], 1),
        "cores": os.cpu_count(),
    }
    for key, value in figures.items():
        print(f"{key:>45}: {value}")
    if wanted.json:
        print(json.dumps(figures))


def spread(name: str, values: list[float]) -> dict[str, Any]:
    """The median and the range, rounded to milliseconds."""
    return {name: round(statistics.median(values), 3), f"{name}_range": [round(min(values), 3), round(max(values), 3)]}


def make(folder: Path, items: int) -> None:
    """An index of so many items with random vectors. Their files are a few small pictures, each many times."""
    import numpy as np
    from PIL import Image

    from tsembed_search.model import registry
    from tsembed_search.model.backbone import ModelInfo
    from tsembed_search.model.backbones import mini_spec
    from tsembed_search.paths import IndexAddress
    from tsembed_search.store import opening
    from tsembed_search.store.base import Point, StoreSettings
    from tsembed_search.store.schema import IndexMetadata, place_of, point_id

    random = np.random.default_rng(0)
    files = folder / "files"
    files.mkdir()
    paths = [files / f"{WORDS[n % 15]}-{WORDS[n // 15 % 15]}-{n:03}.jpg" for n in range(PICTURES)]
    for path in paths:
        blocks = Image.fromarray(random.integers(0, 255, (6, 8, 3), dtype=np.uint8))
        blocks.resize((640, 480), Image.Resampling.BICUBIC).save(path, quality=80)
    ref = registry.resolve("mini")
    info = ModelInfo(ref.name, ref.fingerprint, 384, 0, "cpu", "float32", calibration=mini_spec.CALIBRATION)
    store = opening.open_or_create(IndexAddress(), StoreSettings(info.dim))
    store.write_metadata(IndexMetadata.of(info).to_json())
    vectors = random.standard_normal((items, info.dim), dtype="float32")
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    points = []
    for number in range(items):
        place = place_of(str(paths[number % PICTURES]), str(files), int((1.2e9 + number * 30_000) * 1e9))
        payload = {
            **place, "kind": "image", "places": [place], "page": None, "chunk": None, "text": None, "width": 640,
            "height": 480, "bytes": 30_000, "sha": f"{number:064x}", "model": info.fingerprint, "indexed_at": 0.0,
        }  # fmt: skip
        points.append(Point(point_id(str(payload["sha"]), None, None, info.fingerprint), vectors[number], payload))
    for start in range(0, items, 1000):
        store.upsert(points[start : start + 1000])
    store.optimize()
    store.close()
    (IndexAddress().folder / "manifest.sqlite").touch()


def first_frame(program: str) -> float:
    """The seconds from the start of a program until the line to type in is there."""
    main, other = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(SIZE[0]), "LINES": str(SIZE[1])}
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", program, "browse"],
        stdin=other,
        stdout=subprocess.DEVNULL,
        stderr=other,
        env=environment,
        start_new_session=True,
    )
    os.close(other)
    seen = b""
    try:
        while FIRST not in _STYLES.sub(b"", seen):  # the cursor stands on its first letter
            if not select.select([main], [], [], 60)[0]:
                raise SystemExit("There was no first frame within a minute.")
            seen += os.read(main, 1 << 16)
        return time.perf_counter() - started
    finally:
        process.kill()
        process.wait()
        os.close(main)


@contextmanager
def source(warm: threading.Event) -> Iterator[Any]:
    """The source of the index, which does not load its model before it may."""
    from tsembed_search.cli.browse.in_process import InProcess
    from tsembed_search.index import Index

    class Waiting(InProcess):
        """Loads its model when it is told to."""

        def warm(self) -> None:
            warm.wait()
            super().warm()

    made = Waiting(Index.open())
    yield made
    warm.set()
    made.close()


async def pressed(rounds: int) -> dict[str, list[float]]:
    """The seconds from a key to its hits: by words, and by meaning."""
    from tsembed_search.cli.browse.app import Browser

    found: dict[str, list[float]] = {"words": [], "meaning": []}
    warm = threading.Event()
    with source(warm) as made:
        app = Browser(made)
        async with app.run_test(size=SIZE) as pilot:
            await met(lambda: app.found.by)
            for way in found:
                if way == "meaning":
                    warm.set()
                    await met(lambda: made.is_warm)
                for number in range(rounds + 1):
                    app.desk.typed.value = WORDS[number % 15][:-1]
                    await asyncio.sleep(1)
                    before, started = app.found, time.perf_counter()
                    # The press ends later: when all panes have drawn what has come.
                    pressing = asyncio.create_task(pilot.press(WORDS[number % 15][-1]))
                    await met(lambda b=before: app.found is not b)
                    found[way].append(time.perf_counter() - started)
                    await pressing
                    assert way in app.found.by, app.found.by
                del found[way][0]
    return found


async def scroll(pages: int) -> dict[str, Any]:
    """The seconds for a page of 10,000 hits, and the memory after each time that so many pages were gone through."""
    from tsembed_search.cli.browse.app import Browser
    from tsembed_search.cli.browse.source import Wish

    warm = threading.Event()
    warm.set()
    seconds: list[float] = []
    with source(warm) as made:
        app = Browser(made, Wish("house"))
        async with app.run_test(size=SIZE) as pilot:
            await met(lambda: made.is_warm and app.found.hits)
            while len(app.found.hits) < 10_000:
                before = app.found
                await pilot.press("G")
                await met(lambda b=before: app.found is not b)
            memory = []
            for _ in range(TURNS):
                await pilot.press("g")
                for _ in range(pages):
                    started = time.perf_counter()
                    await pilot.press("pagedown")
                    seconds.append(time.perf_counter() - started)
                await asyncio.sleep(1)
                memory.append(resident())
    return {**spread("page_seconds", seconds), "hits": 10_000, "megabytes_after_each_turn": memory}


async def met(condition: Callable[[], object]) -> None:
    """Waits until it is so."""
    end = time.monotonic() + 120
    while not condition():
        if time.monotonic() > end:
            raise SystemExit("The browser did not answer within two minutes.")
        await asyncio.sleep(0.002)


def resident() -> int:
    """The memory of this process, in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1_000_000


if __name__ == "__main__":
    main()
