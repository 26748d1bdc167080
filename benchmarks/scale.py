"""How an index behaves at size: the embedded engine with synthetic vectors and real payloads.

    python benchmarks/scale.py --items 100000 --dims 384 1536 --quantize none scalar binary
    python benchmarks/scale.py --items 1000000 --dims 384 --quantize scalar --keep FOLDER --runs FILE.jsonl

A run is one size of vector with one kind of quantisation. With `--runs` each is written to that file as soon as it is
done, and those that the file has already are not done again. With `--keep` the indexes stay in that folder: an index
that is there is searched without building it again, and one that is not complete is continued.

For every size of vector and kind of quantisation:

- *Building*: points per second, seconds to build the graph, the longest wait of a search meanwhile; the same for 1%
  more points; disk per item, and the most memory that each process had.
- *Searching*: seconds to open the index, p50 and p95 of a search for 10 hits without and with filters, recall@10
  against an exhaustive search, memory. Half of the queries lie in a cluster, half between two. The floor of
  each search is the exhaustive one; each is timed in several rounds, and the quietest round counts. On a busy machine,
  the milliseconds of computing say more than those by the clock.
- *Managing*: seconds and memory to make the manifest anew, for status, for listing all files, and to remove some.

Each of the three has a process of its own, so that the memory of one does not count for another.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsembed_search.index import Index
from tsembed_search.indexer import mending
from tsembed_search.indexer.manifest import NAME, Manifest
from tsembed_search.paths import IndexAddress
from tsembed_search.search.where import parse_where
from tsembed_search.store.base import Payload, Point, StoreSettings
from tsembed_search.store.edge.store import EDGE, EdgeStore
from tsembed_search.store.filters import Filter
from tsembed_search.store.schema import IndexMetadata, point_id

BATCH = 256
QUERIES = 200
PER_CLUSTER = 100
NOISE = 0.7
BLOCKS, EXPERTS = 24, 8
ROUNDS = 3
BETWEEN_SEARCHES = 0.2
REMOVED = 100
BUILT = "built.json"
WORDS = (
    *("light", "river", "stone", "harbour", "window", "letter", "garden", "winter"),
    *("engine", "paper", "music", "market", "island", "signal", "copper"),
)
FILTERS = {
    "a kind": "kind=image",
    "first pages": "page<=3",
    "a folder": "path~/home/me/photos/2007",
    "a pattern": "path~'2007/*.jpg'",
    "recent half": "modified>=@1750000000",
    "two conditions": "kind=text and modified>=@1725000000",
    "an expert": "expert=b3e5",
}


class Corpus:
    """`items` points in clusters, made a batch at a time; query vectors come from the same clusters.

    Cluster centres and the noise around them are unit normal in every dimension, the noise scaled by `NOISE`: two items
    of a cluster have a cosine of about 0.67, as near-duplicates have, and items of different clusters about 0.
    """

    def __init__(self, items: int, dim: int, seed: int = 0) -> None:
        self.items = items
        self.seed = seed
        rng = np.random.default_rng(seed)
        self.centres = rng.standard_normal((max(16, items // PER_CLUSTER), dim)).astype(np.float32)

    def vectors(self, count: int, *stream: int) -> NDArray[np.float32]:
        """Unit vectors `[count, dim]`; the same for the same `stream`."""
        rng = np.random.default_rng((self.seed, *stream))
        chosen = self.centres[rng.integers(len(self.centres), size=count)]
        made = chosen + NOISE * rng.standard_normal(chosen.shape).astype(np.float32)
        return made / np.linalg.norm(made, axis=1, keepdims=True)

    def between(self, count: int) -> NDArray[np.float32]:
        """Unit vectors `[count, dim]` half-way between two centres: their nearest items are far, and much alike."""
        rng = np.random.default_rng((self.seed, 4))
        pairs = self.centres[rng.integers(len(self.centres), size=(count, 2))].sum(axis=1)
        made = pairs + NOISE * rng.standard_normal(pairs.shape).astype(np.float32)
        return np.asarray(made / np.linalg.norm(made, axis=1, keepdims=True), dtype=np.float32)

    def batches(self, first: int, last: int) -> Iterator[list[Point]]:
        """The points from number `first` to before number `last`, `BATCH` at a time."""
        for start in range(first // BATCH * BATCH, last, BATCH):
            count = min(BATCH, last - start)
            rng = np.random.default_rng((self.seed, 1, start))
            for_all = zip(range(start, start + count), self.vectors(count, 2, start), strict=True)
            yield [
                Point(point_id(f"{n:064x}", None, None, "synthetic"), vector, payload(n, rng)) for n, vector in for_all
            ]


def payload(number: int, rng: np.random.Generator) -> Payload:
    """A payload as the indexer writes them, of a model with `BLOCKS` times `EXPERTS` routing weights."""
    kind = ("image", "text", "page")[int(rng.integers(3))]
    ext = {"image": "jpg", "text": "md", "page": "pdf"}[kind]
    year = 1990 + int(rng.integers(30))
    root = "/home/me"
    rel = f"photos/{year}/{WORDS[number % 15]}-{number}.{ext}"
    mtime = round(1.7e9 + 1e8 * float(rng.random()), 6)
    place = {"path": f"{root}/{rel}", "root": root, "rel": rel, "ext": ext, "mtime": mtime}
    route = rng.standard_normal(BLOCKS * EXPERTS).astype(np.float32)
    top = rng.integers((BLOCKS, EXPERTS), size=(3, 2))
    return {
        "kind": kind,
        **place,
        "places": [place],
        "page": None if kind == "image" else int(rng.integers(1, 20)),
        "chunk": int(rng.integers(5)) if kind == "text" else None,
        "text": " ".join(rng.choice(WORDS, size=60)) if kind == "text" else None,
        "width": 1200 if kind == "image" else None,
        "height": 800 if kind == "image" else None,
        "bytes": int(rng.integers(10_000, 5_000_000)),
        "sha": f"{number:064x}",
        "model": "synthetic",
        "indexed_at": mtime,
        "route": (route / np.linalg.norm(route)).tolist(),
        "top_experts": [f"b{block}e{expert}" for block, expert in top],
    }


def _address(folder: Path) -> IndexAddress:
    return IndexAddress(folder.name, f"edge:{folder.parent}")


def build(folder: Path, items: int, dim: int, quantize: str) -> dict[str, Any]:
    """Indexes the corpus, then one percent more; goes on where an earlier run was ended."""
    address, file = _address(folder), folder / BUILT
    built = json.loads(file.read_text()) if file.exists() else {}
    if EDGE.exists(address):
        store = EDGE.open(address, writing=True)
    else:
        store = EDGE.create(address, StoreSettings(dim, quantize))  # type: ignore[arg-type]
        store.write_metadata(IndexMetadata("mini", "synthetic", dim).to_json())
    corpus = Corpus(items, dim)
    for name, last in (("first", items), ("more", items + items // 100)):
        if name in built:
            continue
        rate, peaks = write(store, corpus, last)
        begun = time.perf_counter()
        with searching(store, corpus.vectors(QUERIES, 5)) as waits:
            store.optimize()
        built[name] = {
            "points_per_second": rate,
            "indexing_memory_bytes": peaks,
            "optimize_seconds": time.perf_counter() - begun,
            "longest_wait_seconds": max(waits),
            "graph": store.info().indexed,
        }
        file.write_text(json.dumps(built))
    built["disk_bytes_per_item"] = int(store.info().details["disk_bytes"]) / store.count()
    built["graph_memory_bytes"] = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    store.close()
    file.write_text(json.dumps(built | {"complete": True}))
    return built


def write(store: EdgeStore, corpus: Corpus, last: int) -> tuple[float, list[int]]:
    """Writes the points that are missing: points per second, without the time that making them takes, and memory."""
    first = store.count()
    writing, peaks = 0.0, list[int]()
    for number, batch in enumerate(corpus.batches(first, last)):
        begun = time.perf_counter()
        store.upsert(batch)
        writing += time.perf_counter() - begun
        if number * BATCH * 10 // (last - first) >= len(peaks):
            peaks.append(memory()["anonymous"])
            print(f"{store.count():,} points", file=sys.stderr, flush=True)
    return (last - first) / writing if writing else 0.0, peaks


@contextmanager
def searching(store: EdgeStore, queries: NDArray[np.float32]) -> Iterator[list[float]]:
    """Searches from another thread, now and then, while the block runs: the seconds of each search."""
    waits, done = [0.0], threading.Event()

    def run() -> None:
        number = 0
        while not done.wait(BETWEEN_SEARCHES):
            begun = time.perf_counter()
            store.search(queries[number % len(queries)][None], 10)
            waits.append(time.perf_counter() - begun)
            number += 1

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield waits
    finally:
        done.set()
        thread.join()


def measure(folder: Path, items: int, dim: int) -> dict[str, Any]:
    """Re-opens the index and searches it."""
    before = memory()
    begun = time.perf_counter()
    store = EDGE.open(_address(folder))
    opening = time.perf_counter() - begun
    corpus = Corpus(items, dim)
    queries = np.concatenate([corpus.vectors(QUERIES // 2, 3), corpus.between(QUERIES // 2)])
    filters = {"no filter": None} | {name: parse_where(text) for name, text in FILTERS.items()}
    found = {name: quietest(store, queries, where) for name, where in filters.items()}
    begun = time.perf_counter()
    store.search(queries, 10)
    batch = time.perf_counter() - begun
    after = memory()  # before all vectors are read
    searches: dict[str, dict[str, float]] = {}
    for name, where in filters.items():
        searches[name] = compared(store, queries, where, *found[name])
        for ratio, time_of in (("ratio", "p50_ms"), ("computing_ratio", "computing_ms")):
            searches[name][ratio] = searches[name][time_of] / searches["no filter"][time_of]
        print(json.dumps({name: searches[name]}), file=sys.stderr, flush=True)
    store.close()
    return {
        "reopen_seconds": opening,
        "batch_ms_per_query": 1000 * batch / QUERIES,
        "searches": searches,
        "resident_bytes_per_item": (after["resident"] - before["resident"]) / items,
        "anonymous_bytes_per_item": (after["anonymous"] - before["anonymous"]) / items,
        "search_memory": after,
    }


def manage(folder: Path) -> dict[str, Any]:
    """What people do with an index, besides searching it: the seconds of each, and memory after it."""
    steps: dict[str, dict[str, float]] = {}

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        steps[name] = {"seconds": time.perf_counter() - begun, "anonymous_bytes": memory()["anonymous"]}
        print(json.dumps({name: steps[name]}), file=sys.stderr, flush=True)

    with timed("repair"):
        store = EDGE.open(_address(folder), writing=True)
        mending.repair(folder, store)
        store.close()
    settle(folder)
    with Index.open(folder.name, store=f"edge:{folder.parent}") as index:
        with timed("status"):
            index.status()
        with timed("ls"):
            files = index.files()
        with timed("ls of a folder"):
            index.files(where=FILTERS["a folder"])
        some = [file.path for file in files[:REMOVED]]
        del files
        with timed("rm"):
            removed = index.remove(some)
        assert removed.files == REMOVED, removed
    return {"managing": steps}


def settle(folder: Path) -> None:
    """Leaves the manifest as a run over all files would, after which every content is known to be complete."""
    with closing(Manifest(folder / NAME)) as manifest:
        manifest.correct([replace(content, pending=False) for content in manifest.unsettled()])


Found = list[set[str]]
Timed = tuple[Found, list[float], list[float]]


def quietest(store: EdgeStore, queries: NDArray[np.float32], where: Filter | None) -> Timed:
    """The hits and the seconds of single searches for 10 hits, in the round that was quietest."""
    rounds = [timed_search(store, queries, where, exact=False) for _ in range(ROUNDS)]
    return min(rounds, key=lambda each: float(np.median(each[1])))


def compared(
    store: EdgeStore,
    queries: NDArray[np.float32],
    where: Filter | None,
    found: Found,
    seconds: list[float],
    computing: list[float],
) -> dict[str, float]:
    """Times and recall of searches, beside exhaustive ones."""
    best, exhaustive, _ = timed_search(store, queries, where, exact=True)
    same = sum(len(hits & truth) for hits, truth in zip(found, best, strict=True))
    return {
        "selects": store.count(where),
        "p50_ms": 1000 * float(np.median(seconds)),
        "computing_ms": 1000 * float(np.median(computing)),
        "p95_ms": 1000 * float(np.quantile(seconds, 0.95)),
        "exhaustive_p50_ms": 1000 * float(np.median(exhaustive)),
        "recall_at_10": same / max(1, sum(map(len, best))),
    }


def timed_search(store: EdgeStore, queries: NDArray[np.float32], where: Filter | None, *, exact: bool) -> Timed:
    """The ids of each query's hits, its seconds by the clock, and those of computing."""
    found, seconds, computing = [], [], []
    for query in queries:
        begun, computed = time.perf_counter(), time.process_time()
        hits = store.search(query[None], 10, where, exact=exact)[0]
        seconds.append(time.perf_counter() - begun)
        computing.append(time.process_time() - computed)
        found.append({hit.id for hit in hits})
    return found, seconds, computing


def memory() -> dict[str, int]:
    """Bytes of this process in memory: all, the most so far, and those that are not pages of files, which the system
    can drop.
    """
    names = {"VmRSS": "resident", "RssAnon": "anonymous", "VmHWM": "peak"}
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {name: 1024 * int(fields[key].split()[0]) for key, name in names.items()}


def in_a_process(step: str, folder: Path, items: int, dim: int, quantize: str) -> dict[str, Any]:
    """Runs `build`, `measure` or `manage` in a process of its own."""
    command = [sys.executable, __file__, "--step", step, "--folder", str(folder)]
    command += ["--items", str(items), "--dims", str(dim), "--quantize", quantize]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return dict(json.loads(output.splitlines()[-1]))


def measured(asked: argparse.Namespace, dim: int, quantize: str) -> dict[str, Any]:
    """One run, in a folder that is kept or thrown away."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = (Path(temporary) if asked.keep is None else asked.keep) / f"{asked.items}x{dim}-{quantize}"
        file = folder / BUILT
        if not (file.exists() and "complete" in json.loads(file.read_text())):
            in_a_process("build", folder, asked.items, dim, quantize)
        found = json.loads(file.read_text())
        for step in ("measure", "manage"):
            found |= in_a_process(step, folder, asked.items, dim, quantize)
        return dict(found)


def known(file: Path | None, what: dict[str, Any]) -> dict[str, Any] | None:
    """The run with these settings that the file has already."""
    if file is None or not file.exists():
        return None
    runs = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    return next((run for run in runs if run.items() >= what.items()), None)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--dims", type=int, nargs="+", default=[384, 1536])
    parser.add_argument("--quantize", nargs="+", default=["none", "scalar", "binary"])
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON object")
    parser.add_argument("--runs", type=Path, metavar="FILE.jsonl", help="keep the results of runs here, and go on")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the indexes here, and use those that are")
    parser.add_argument("--step", choices=["build", "measure", "manage"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def show(run: dict[str, Any]) -> None:
    """One run, for people."""
    mib, first, more, searched = 1 << 20, run["first"], run["more"], run["search_memory"]
    print(f"\n{run['items']:,} items x {run['dim']}, quantisation {run['quantize']}\n")
    print("| building | items per second | graph, s | longest wait of a search, s |\n|---|---|---|---|")
    for name, each in (("all", first), ("1% more", more)):
        print(
            f"| {name} | {each['points_per_second']:,.0f} | {each['optimize_seconds']:.1f} "
            f"| {each['longest_wait_seconds']:.2f} |"
        )
    print(
        f"\nDisk {run['disk_bytes_per_item'] / 1024:.1f} KiB an item; memory while writing "
        f"{max(first['indexing_memory_bytes'] or [0]) / mib:,.0f} MiB, of the graph's process "
        f"{run['graph_memory_bytes'] / mib:,.0f} MiB. Searching: opened in {run['reopen_seconds']:.2f} s, at most "
        f"{searched['peak'] / mib:,.0f} MiB, {searched['anonymous'] / mib:,.0f} of them not files.\n"
    )
    print("| filter | items | p50, ms | times | computing, ms | times | p95, ms | recall@10 | exhaustive, ms |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, each in run["searches"].items():
        print(
            f"| {name} | {each['selects']:,} | {each['p50_ms']:.2f} | {each['ratio']:.2f} "
            f"| {each['computing_ms']:.2f} | {each['computing_ratio']:.2f} "
            f"| {each['p95_ms']:.2f} | {each['recall_at_10']:.4f} | {each['exhaustive_p50_ms']:.1f} |"
        )
    print("\n| managing | s | memory (not files), MiB |\n|---|---|---|")
    for name, each in run["managing"].items():
        print(f"| {name} | {each['seconds']:.2f} | {each['anonymous_bytes'] / mib:,.0f} |")


def main() -> None:
    asked = arguments()
    if asked.step:
        step, dim, quantize = asked.step, asked.dims[0], asked.quantize[0]
        if step == "build":
            done = build(asked.folder, asked.items, dim, quantize)
        else:
            done = measure(asked.folder, asked.items, dim) if step == "measure" else manage(asked.folder)
        print(json.dumps(done))
        return
    runs = []
    for dim in asked.dims:
        for quantize in asked.quantize:
            what: dict[str, Any] = {"items": asked.items, "dim": dim, "quantize": quantize}
            run = known(asked.runs, what) or what | measured(asked, dim, quantize)
            if asked.runs and not known(asked.runs, what):
                with asked.runs.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(run) + "\n")
            if not asked.json:
                show(run)
                sys.stdout.flush()
            runs.append(run)
    print(json.dumps({"benchmark": "scale", "runs": runs}))


if __name__ == "__main__":
    main()
