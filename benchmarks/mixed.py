"""Texts and pictures in one index: does either kind hide the other? `python benchmarks/mixed.py [--model MODEL]`.

It indexes photographs, cartoons, cut-outs and clip art, beginnings of encyclopaedia articles, and docstrings: the half
of `examples/mini/labelled.py` that no limit and no weight was fitted to. It asks for each text by its description or
first line, and for each picture by its caption, less their quotation marks, for what is in quotes must occur: by words
and meaning and by meaning alone, in the whole index and among items of the kind alone. Files have names that say
nothing.

With `--fit` it asks the other half, once within each kind, and merges the two lists with texts moved down by several
amounts: how much less likely is a text without a query's words, in logits (`ranking/scores.py`)?

`--without "clip art"` leaves out the pictures that have titles.

Prints for each source the shares of queries whose own item came first, and was among the first ten; differences are
paired, with 95% intervals bootstrapped over queries. One JSON object last.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from calibration import interval
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).parents[1] / "examples" / "mini"))

from labelled import FIT, NOTES, PICTURES, REPORT, TEXTS, Labelled, everything, written

from tsembed_search.index import Index
from tsembed_search.model.embedder import Embedder
from tsembed_search.search.results import Hit, WordsUse

_WAYS: tuple[tuple[str, WordsUse, bool], ...] = (
    ("words and meaning", "auto", False),
    ("meaning alone", "never", False),
    ("among its kind", "auto", True),
    ("among its kind, by meaning alone", "never", True),
)
_DEPTH = 10
_FAR = _DEPTH + 1
_SOURCES = (*TEXTS, *PICTURES)
_QUOTES = dict.fromkeys(map(ord, '"“”„«»'))
_MOVES = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)


def main(
    model: Annotated[str, typer.Option(help="A built-in model, or a checkpoint's folder.")] = "mini",
    most: Annotated[int, typer.Option(help="Queries of each source.")] = 500,
    fit: Annotated[bool, typer.Option("--fit", help="Try how far texts are to be moved down.")] = False,
    without: Annotated[list[str] | None, typer.Option(help="Leave this source out, such as clip art.")] = None,
    work: Annotated[Path | None, typer.Option(help="Where files and index are kept.")] = None,
) -> None:
    """Measure, and print the table."""
    with nullcontext(str(work)) if work else tempfile.TemporaryDirectory() as scratch:
        os.environ["TSEMBED_HOME"] = f"{scratch}/home"
        folder, half = Path(scratch) / "items", FIT if fit else REPORT
        items = [one for one in everything([half]) if one.source not in {*NOTES, *(without or ())}]
        with Index.open("mixed", embedder=Embedder.load(model), create=_settings()) as index:
            index.add(written(items, folder))
            known = {file.path for file in index.files()}  # some clip art is larger than what is indexed
            asked = [one for one in items if one.size is not None and one.query and str(one.path(folder)) in known]
            result: dict[str, Any] = {"model": model, "items": index.store.count()}
            if fit:
                tried = {s: _tried(index, [one for one in asked if one.source == s][:most], folder) for s in _SOURCES}
                result["moved down"] = _tell_tried({s: own for s, own in tried.items() if own})
                print(json.dumps(result))
                return
            ranks: dict[str, dict[str, NDArray[np.int64]]] = {}
            for source in _SOURCES:
                if own := [one for one in asked if one.source == source][:most]:
                    ranks[source] = {way: _ranks(index, own, folder, words, kind) for way, words, kind in _WAYS}
            for name, sources in (*((one, (one,)) for one in ranks), ("texts", TEXTS), ("pictures", PICTURES)):
                some = [ranks[source] for source in sources if source in ranks]
                result[name] = _told(name, {way: np.concatenate([own[way] for own in some]) for way, *_ in _WAYS})
    print(json.dumps(result))


def _settings() -> Any:
    from tsembed_search.store.base import StoreSettings

    return StoreSettings(0)


def _ranks(index: Index, asked: list[Labelled], folder: Path, words: WordsUse, kind: bool) -> NDArray[np.int64]:
    """For each query the place of its own item among the hits, from 1; `_FAR` for one that is not among the first."""
    where = f"kind={'image' if asked[0].picture else 'text'}" if kind else None
    started = time.perf_counter()
    answers = index.search_many([_unquoted(one) for one in asked], k=_DEPTH, words=words, where=where)
    spent = (time.perf_counter() - started) / len(asked)
    typer.echo(f"{asked[0].source}, words {words}, {where or 'all'}: {1000 * spent:.0f} ms a query", err=True)
    found = []
    for one, hits in zip(asked, answers, strict=True):
        found.append(_place(str(one.path(folder)), hits))
    return np.array(found)


def _tried(index: Index, asked: list[Labelled], folder: Path) -> dict[str, list[int]]:
    """For each amount that texts are moved down by, in logits, the places of the queries' own items."""
    found: dict[str, list[int]] = {f"{move:g}": [] for move in _MOVES}
    if not asked:
        return {}
    queries = [_unquoted(one) for one in asked]
    texts, pictures = (index.search_many(queries, k=_DEPTH, where=f"kind={kind}") for kind in ("text", "image"))
    meant = index.search_many(queries, k=_DEPTH, words="never")
    rows = zip(asked, texts, pictures, meant, strict=True)
    found["by meaning alone"] = []
    for one, words, seen, alone in rows:
        path = str(one.path(folder))
        for move in _MOVES:
            logits = [(_logit(hit.score) - move * (hit.kind == "text"), hit) for hit in (*words, *seen)]
            ordered = [hit for _, hit in sorted(logits, key=lambda each: -each[0])][:_DEPTH]
            found[f"{move:g}"].append(_place(path, ordered))
        found["by meaning alone"].append(_place(path, alone))
    return found


def _unquoted(one: Labelled) -> str:
    return one.query.translate(_QUOTES)


def _place(path: str, hits: Sequence[Hit]) -> int:
    return next((place for place, hit in enumerate(hits, 1) if path in (hit.path, *hit.also_at)), _FAR)


def _logit(score: float) -> float:
    kept = min(max(score, 1e-12), 1 - 1e-12)
    return math.log(kept / (1 - kept))


def _tell_tried(tried: dict[str, dict[str, list[int]]]) -> dict[str, Any]:
    said: dict[str, Any] = {}
    for source, ranks in tried.items():
        for way, own in ranks.items():
            shares = [round(float(np.mean(np.array(own) <= depth)), 4) for depth in (1, _DEPTH)]
            said.setdefault(source, {})[way] = shares
            print(f"{source:14} {way:18} first {shares[0]:.3f}  in ten {shares[1]:.3f}")
    return said


def _told(name: str, ranks: dict[str, NDArray[np.int64]]) -> dict[str, Any]:
    said: dict[str, Any] = {"queries": len(next(iter(ranks.values())))}
    print(f"{name}, {said['queries']} queries")
    for way, own in ranks.items():
        said[way] = {"first": round(float(np.mean(own <= 1)), 4), "in ten": interval((own <= _DEPTH) * 1.0)}
        print(f"  {way:36} first {said[way]['first']:.3f}  in ten {_spelt(said[way]['in ten'])}")
    words, meaning = ranks["words and meaning"], ranks["meaning alone"]
    for depth in (1, _DEPTH):
        gain = interval((words <= depth) * 1.0 - (meaning <= depth))
        said[f"words and meaning over meaning alone, first {depth}"] = gain
        print(f"  {f'over meaning alone, first {depth}':36} {_spelt(gain)}")
    return said


def _spelt(one: dict[str, float]) -> str:
    return f"{one['mean']:+.3f} ({one['low']:+.3f} to {one['high']:+.3f})"


if __name__ == "__main__":
    typer.run(main)
