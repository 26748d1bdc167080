"""What a run costs when little has changed: `python benchmarks/changes.py --json`.

Indexes many small texts with `mini` in a fresh home, then times whole `tsembed index` processes: over unchanged files,
and after a thousand files (a tenth) were renamed. The floor is the first run, which embeds everything. Also says which
heavy libraries the process over unchanged files has imported: none is right.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HEAVY = ("torch", "transformers", "numpy", "qdrant_client")
COMMAND = (
    "import atexit, sys; from tsembed_search.cli.main import run; sys.argv[0] = 'tsembed'; "
    f"atexit.register(lambda: print('IMPORTED', *[m for m in {HEAVY} if m in sys.modules], file=sys.stderr)); run()"
)


def main() -> None:
    """Runs the rounds and prints a line each; with `--json`, one object last."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder) / "files"
        make(files, wanted.files)
        home = Path(folder) / "home"
        first = run(home, files)
        unchanged = [run(home, files) for _ in range(wanted.rounds)]
        moved = [rename(files, wanted.files // 10, number) or run(home, files) for number in range(wanted.rounds)]
    figures: dict[str, Any] = {
        "benchmark": "changes",
        "files": wanted.files,
        "first_run_seconds": first["wall"],
        "unchanged_seconds": statistics.median(each["wall"] for each in unchanged),
        "unchanged_seconds_range": [min(each["wall"] for each in unchanged), max(each["wall"] for each in unchanged)],
        "unchanged": min(each["files"]["unchanged"] for each in unchanged),
        "heavy_imports": sorted({name for each in unchanged for name in each["imported"]}),
        "renamed": min(each["files"]["renamed"] for each in moved),
        "embedded_after_renames": max(each["items"]["embedded"] for each in moved),
        "renamed_seconds": statistics.median(each["wall"] for each in moved),
    }
    for key, value in figures.items():
        print(f"{key:>26}: {value}")
    if wanted.json:
        print(json.dumps(figures))


def make(folder: Path, count: int) -> None:
    """Small texts, a hundred to a folder."""
    for number in range(count):
        path = folder / f"{number // 100:04}" / f"{number:06}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"Note {number}: the {number % 97}th letter of the {number % 89}th drawer.\n", "utf-8")


def rename(folder: Path, count: int, number: int) -> None:
    """Gives `count` files new names."""
    for path in sorted(folder.rglob("*.txt"))[:count]:
        path.rename(path.with_name(f"{path.stem.partition('-')[0]}-{number}.txt"))


def run(home: Path, files: Path) -> dict[str, Any]:
    """One `tsembed index` as a process: its report, `wall` seconds, and what it `imported`."""
    environment = os.environ | {"TSEMBED_HOME": str(home)}
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "index", str(files), "--json", "--quiet"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    wall = time.perf_counter() - started
    imported = done.stderr.rpartition("IMPORTED")[2].split()
    return {**json.loads(done.stdout), "wall": wall, "imported": imported}


if __name__ == "__main__":
    main()
