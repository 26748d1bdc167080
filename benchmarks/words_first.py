"""Words first: how soon a folder can be searched by its words, and what that costs: `python benchmarks/words_first.py`.

Every figure is of whole processes, from their start to their end, as a person meets them: `tsembed index --words`, and
a run that stores the words first and then makes the vectors, as `tsembed index` does where there is much to do, beside
a run that makes all at once. The encyclopaedia leads come with a
package (see `queries.py`); the pictures are made up, of the size that cameras' smallest are. Prints for each round and
as medians with the least and the most:

- the seconds until the leads are searchable by words, and files per second of pictures stored by words;
- the run with words first over the run at once, in wall time and in processor time. 1 is nothing.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from PIL import Image
from queries import write_leads

_RUN = """
import sys
from tsembed_search import Index
from tsembed_search.store.base import StoreSettings

with Index.open(create=StoreSettings(0)) as index:
    index.add(sys.argv[1], words_first=1 if sys.argv[2] == "words-first" else None)
"""


class Spent(NamedTuple):
    """Seconds of a process and of those that it started: by the clock, and of processors."""

    wall: float
    cpu: float


def main(
    leads: Annotated[int, typer.Option(help="Leads to index.")] = 2000,
    pictures: Annotated[int, typer.Option(help="Pictures to index.")] = 1000,
    rounds: Annotated[int, typer.Option(help="Times that everything is measured.")] = 3,
    whole: Annotated[bool, typer.Option(help="Also measure what the vectors cost after words, and at once.")] = True,
    package: Annotated[Path | None, typer.Option("--leads-package", help="The folder of the package of leads.")] = None,
    work: Annotated[Path | None, typer.Option(help="Where files and indexes are kept.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object last.")] = False,
) -> None:
    """Measure, and print the figures."""
    with nullcontext(str(work)) if work else tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_leads(folder / "leads", package, leads, 1)
        make_pictures(folder / "pictures", pictures)
        measured = [one_round(folder, pictures, whole) for _ in range(rounds)]
    figures = {key: [one[key] for one in measured] for key in measured[0]}
    for key, values in figures.items():
        print(f"{key:48}{statistics.median(values):>9.2f}   ({min(values):.2f} to {max(values):.2f})")
    if as_json:
        print(json.dumps(figures))


def make_pictures(folder: Path, count: int) -> None:
    """Write JPEG files of 640 x 480, all different, unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"{number:05}.jpg"
        if not path.exists():
            small = rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)
            Image.fromarray(small).resize((640, 480), Image.Resampling.BICUBIC).save(path, quality=85)


def one_round(folder: Path, pictures: int, whole: bool) -> dict[str, float]:
    """Index leads and pictures, each with words first and at once."""
    words, _ = index(folder / "leads", "--words", home=folder / "first")
    found, said = tsembed("search", "--words", "only", "--json", "history", home=folder / "first")
    assert said["hits"], "words are not searchable"
    seen, _ = index(folder / "pictures", "--words", home=folder / "seen")
    figures = {
        "leads searchable by words, s": words.wall,
        "the same, processor s": words.cpu,
        "a search by words, whole process, s": found.wall,
        "pictures stored by words, files/s": pictures / seen.wall,
        "the same, files per processor s": pictures / seen.cpu,
    }
    if whole:
        first, once = (whole_run(folder / "leads", way, folder / way) for way in ("words-first", "at-once"))
        figures["leads at once, s"] = once.wall
        figures["leads: words first / at once"] = first.wall / once.wall
        figures["the same, of processor time"] = first.cpu / once.cpu
    return figures


def whole_run(files: Path, way: str, home: Path) -> Spent:
    """Index a folder in a process of its own, in a new index, with words first or at once."""
    shutil.rmtree(home, ignore_errors=True)
    return _spent([sys.executable, "-c", _RUN, str(files), way], home)[0]


def index(files: Path, *options: str, home: Path) -> tuple[Spent, dict[str, Any]]:
    """Index a folder in a process of its own, in a new index."""
    shutil.rmtree(home, ignore_errors=True)
    return tsembed("index", str(files), "--json", "--quiet", *options, home=home)


def tsembed(*arguments: str, home: Path) -> tuple[Spent, dict[str, Any]]:
    """Run a command; returns what it took, and its JSON document."""
    spent, said = _spent([str(Path(sys.executable).with_name("tsembed")), *arguments], home)
    return spent, json.loads(said)


def _spent(command: list[str], home: Path) -> tuple[Spent, bytes]:
    before, started = _children(), time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, env=os.environ | {"TSEMBED_HOME": str(home)})
    return Spent(time.perf_counter() - started, _children() - before), done.stdout


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    typer.run(main)
