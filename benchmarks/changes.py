"""What a run costs when little has changed: `python benchmarks/changes.py --json`.

Indexes many small texts with `mini` in a fresh home, then times whole `tsembed index` processes: over unchanged files,
and after a tenth of them were renamed. The floor is the first run, which embeds everything. Also says how much memory
the process over unchanged files had at most, and which heavy libraries it has imported: none is right.

With `--stand-in`, the first run goes through the indexer with random vectors of 16 numbers in place of the model's, so
that 200,000 files take minutes: `python benchmarks/changes.py --stand-in --files 200000 --rounds 3`.
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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HEAVY = ("torch", "transformers", "numpy", "qdrant_client")
COMMAND = f"""
import atexit, json, re, resource, sys
from pathlib import Path
from tsembed_search.cli.main import run
def told():
    used = resource.getrusage(resource.RUSAGE_SELF)
    # What `resource` calls the most is that of the process which started this one, where that is more.
    peak = re.search("VmHWM:[^0-9]*([0-9]+)", Path("/proc/self/status").read_text())
    imported = [name for name in {HEAVY} if name in sys.modules]
    facts = {{"cpu": used.ru_utime + used.ru_stime, "megabytes": int(peak[1]) / 1024, "imported": imported}}
    print("USED", json.dumps(facts), file=sys.stderr)
atexit.register(told)
sys.argv[0] = "tsembed"
run()
"""


def main() -> None:
    """Runs the rounds and prints a line each; with `--json`, one object last."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--stand-in", action="store_true", help="random vectors for the first run")
    parser.add_argument("--json", action="store_true")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder) / "files"
        make(files, wanted.files)
        home = Path(folder) / "home"
        first = stood_in(home, files) if wanted.stand_in else run(home, files)["wall"]
        unchanged = [run(home, files) for _ in range(wanted.rounds)]
        moved = [rename(files, wanted.files // 10, number) or run(home, files) for number in range(wanted.rounds)]
    figures: dict[str, Any] = {
        "benchmark": "changes",
        "files": wanted.files,
        "first_run_seconds": first,
        "unchanged_seconds": statistics.median(each["wall"] for each in unchanged),
        "unchanged_seconds_range": [min(each["wall"] for each in unchanged), max(each["wall"] for each in unchanged)],
        "unchanged_cpu_seconds": statistics.median(each["cpu"] for each in unchanged),
        "unchanged_megabytes": max(each["megabytes"] for each in unchanged),
        "unchanged": min(each["files"]["unchanged"] for each in unchanged),
        "heavy_imports": sorted({name for each in unchanged for name in each["imported"]}),
        "renamed": min(each["files"]["renamed"] for each in moved),
        "embedded_after_renames": max(each["items"]["embedded"] for each in moved),
        "renamed_seconds": statistics.median(each["wall"] for each in moved),
        "renamed_cpu_seconds": statistics.median(each["cpu"] for each in moved),
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
    """One `tsembed index` as a process: its report, `wall` and `cpu` seconds, `megabytes`, and what it `imported`."""
    environment = os.environ | {"TSEMBED_HOME": str(home)}
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "index", str(files), "--json", "--quiet"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    wall = time.perf_counter() - started
    return {**json.loads(done.stdout), "wall": wall, **json.loads(done.stderr.rpartition("USED")[2])}


def stood_in(home: Path, files: Path) -> float:
    """Indexes the files in this process, as `mini` would but for the vectors; returns the seconds."""
    os.environ["TSEMBED_HOME"] = str(home)
    from tsembed_search.index import Index
    from tsembed_search.model.embedder import Embedder
    from tsembed_search.store.base import StoreSettings

    started = time.perf_counter()
    with Index.open(embedder=Embedder(StandIn()), create=StoreSettings(0)) as index:
        index.add(files)
    return time.perf_counter() - started


class StandIn:
    """Random vectors under the name of `mini`."""

    batch_tokens = 1024

    def __init__(self) -> None:
        import numpy as np

        from tsembed_search.model import registry
        from tsembed_search.model.backbone import ModelInfo
        from tsembed_search.model.backbones import mini_spec

        fingerprint = registry.resolve("mini").fingerprint
        self.info = ModelInfo("mini", fingerprint, 16, 0, "cpu", "float32", calibration=mini_spec.CALIBRATION)
        self.inputs = mini_spec.inputs()
        self._random = np.random.default_rng(0)

    def prepare(self, item: Any, role: str = "document") -> Any:
        from tsembed_search.model.backbone import Prepared

        return Prepared(16, None)

    def forward(self, batch: Sequence[Any]) -> Any:
        import torch

        from tsembed_search.model.backbone import Encoded

        vectors = torch.from_numpy(self._random.standard_normal((len(batch), 16), dtype="float32"))
        return Encoded(torch.nn.functional.normalize(vectors), None)


if __name__ == "__main__":
    main()
