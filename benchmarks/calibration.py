"""Whether scores can be believed: `python benchmarks/calibration.py [--model MODEL]`.

It indexes half of `examples/mini/labelled.py`, which the limits of good matches were not fitted to (of clip art, they
saw nothing at all): photographs, cartoons, cut-outs, clip art, leads of articles and docstrings in one index. It asks
- for what is not there: how often is a good match shown?
- for what is there, by the same number of queries: how many good matches are right, and how many queries have one?
- with each picture, and with copies of it (smaller, compressed badly, without its rim): does the picture come first?
And it compares what tells right hits from wrong ones: the score, or how far a hit lies above the tenth or thirtieth.

Files have names that say nothing. Intervals are 95%, bootstrapped over queries. Prints one JSON object last.
"""

from __future__ import annotations

import io
import json
import os
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image, ImageOps

sys.path.append(str(Path(__file__).parents[1] / "examples" / "mini"))

from labelled import NOTES, PICTURES, REPORT, TEXTS, Asking, Found, Labelled, everything, written

from tsembed_search.index import Index
from tsembed_search.items import Item, Kind
from tsembed_search.model.embedder import Embedder

_RESAMPLES = 2000
_FAR = 30


def interval(values: Sequence[float], weights: Sequence[float] | None = None) -> dict[str, float]:
    """The ratio of the sums of values and of weights (by default 1), resampled by row."""
    top, below = np.array(values, float), np.ones(len(values)) if weights is None else np.array(weights, float)
    draws = np.random.default_rng(0).integers(len(top), size=(_RESAMPLES, len(top)))
    ratios = top[draws].sum(axis=1) / np.maximum(below[draws].sum(axis=1), 1e-9)
    low, high = np.percentile(ratios, [2.5, 97.5])
    mean = top.sum() / max(below.sum(), 1e-9)
    return {name: round(float(one), 4) for name, one in (("mean", mean), ("low", low), ("high", high))}


def judged(found: Sequence[Found]) -> dict[str, Any]:
    """Of the hits of some queries: how many are good, how many of these are right, how many queries have one."""
    queries: dict[int, list[Found]] = {}
    for one in found:
        queries.setdefault(one.query, []).append(one)
    good = [sum(one.good for one in own) for own in queries.values()]
    right = [sum(one.good and one.right for one in own) for own in queries.values()]
    there = [own for own in queries.values() if own[0].present]
    return {
        "queries": len(queries),
        "good matches": sum(good),
        "of good matches, right": interval(right, good),
        "queries for what is there": len(there),
        "of these, with a right good match": interval([any(one.good and one.right for one in own) for own in there]),
        "of these, right at first": interval([any(one.rank == 1 and one.right for one in own) for own in there]),
    }


def copies(file: Path) -> Iterator[Image.Image]:
    """A picture at two thirds of its size, as a JPEG of quality 60, and without 2% on each side."""
    with Image.open(file) as opened:
        layers = ImageOps.exif_transpose(opened).convert("RGBA")
    picture = Image.new("RGB", layers.size, "white")
    picture.paste(layers, mask=layers)
    yield picture.resize((max(1, picture.width * 2 // 3), max(1, picture.height * 2 // 3)))
    packed = io.BytesIO()
    picture.save(packed, "JPEG", quality=60)
    yield Image.open(packed)
    x, y = picture.width // 50, picture.height // 50
    yield picture.crop((x, y, picture.width - x, picture.height - y))


def same(index: Index, pictures: Sequence[Labelled], folder: Path, copied: int) -> dict[str, Any]:
    """How often a picture, and a copy of one, finds the picture first, as a good match."""
    indexed = {file.path for file in index.files()}  # some clip art is larger than what is indexed
    files = [file for file in (one.path(folder) for one in pictures) if str(file) in indexed]
    asked = [(file, Item(image=file)) for file in files]
    near = [(file, Item(image=np.asarray(copy.convert("RGB")))) for file in files[:copied] for copy in copies(file)]
    result: dict[str, Any] = {}
    for name, queries in (("the picture itself", asked), ("a near copy", near)):
        first, good = [], []
        for (file, _), hits in zip(queries, index.search_many([item for _, item in queries], k=1), strict=True):
            first.append(any(str(file) in (hit.path, *hit.also_at) for hit in hits))
            good.append(first[-1] and hits[0].good)
        result[name] = {
            "queries": len(first), "first": interval(first), "first, as a good match": interval(good)
        }  # fmt: skip
    return result


def told_by(asking: Asking, sources: Sequence[str], kind: Kind) -> dict[str, float]:
    """The areas under the ROC curve of some evidence that one of the first ten hits among these sources is right."""
    found = list(asking.found(asking.asked_by(sources), sources, kind=kind, words="never", k=_FAR))
    queries: dict[int, list[Found]] = {}
    for one in found:
        queries.setdefault(one.query, []).append(one)
    rows = [
        (
            one.right,
            one.score,
            one.similarity - own[min(9, len(own) - 1)].similarity,
            one.similarity - own[-1].similarity,
        )
        for own in queries.values()
        for one in own[:10]
    ]
    right, *evidence = np.array(rows, float).T
    names = ("score", "gap to the tenth", "gap to the thirtieth")
    return {name: round(area(one, right > 0), 3) for name, one in zip(names, evidence, strict=True)}


def area(evidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """How often a right hit has more of the evidence than a wrong one; equals count for half."""
    _, ranks, counts = np.unique(evidence, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts - 1) / 2
    wins = middle[ranks][right].sum() - right.sum() * (right.sum() + 1) / 2
    return float(wins / max(1, right.sum() * (~right).sum()))


def main(
    model: Annotated[str, typer.Option(help="A built-in model, or a checkpoint's folder.")] = "mini",
    absent: Annotated[int, typer.Option(help="Queries for what is not there.")] = 300,
    copied: Annotated[int, typer.Option(help="Pictures of which copies are made.")] = 60,
) -> None:
    """Measure, and print the figures."""
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["TSEMBED_HOME"] = f"{scratch}/home"
        folder, items = Path(scratch) / "items", everything([REPORT])
        with Index.create("calibration", embedder=Embedder.load(model)) as index:
            index.add(written([one for one in items if one.source not in NOTES], folder))
            result = measured(index, items, folder, absent, copied)
    print(json.dumps({"model": model, **result}))


def measured(index: Index, items: Sequence[Labelled], folder: Path, absent: int, copied: int) -> dict[str, Any]:
    """All figures of an index of the items; a table goes to stderr."""
    asking, sources = Asking(index, folder, items, REPORT), (*PICTURES, *TEXTS)
    queries = asking.asked_by(sources)
    out = [one for one in queries if one.size is None]
    missing = [one for one in asking.found(out, sources) if not one.present]
    chosen = sorted({one.query for one in missing})
    random.Random(0).shuffle(chosen)
    missing = [one for one in missing if one.query in set(chosen[:absent])]
    there = list(asking.found([one for one in queries if one.size is not None], sources))
    counted = sorted({one.query for one in there})
    random.Random(0).shuffle(counted)
    both = [*missing, *(one for one in there if one.query in set(counted[: len(chosen[:absent])]))]
    result: dict[str, Any] = {
        "items": index.store.count(),
        "not there": {"queries": len(chosen[:absent]), "with a good match": shown(missing)},
        "half of the queries for what is there": judged(both),
        "by kind": {
            source: {
                "not there, with a good match": shown([one for one in missing if one.source == source]),
                **judged([one for one in (*missing, *there) if one.source == source]),
            }
            for source in sources
        },
        "told by": {
            name: told_by(asking, own, kind)
            for name, own, kind in (("pictures", PICTURES, "image"), *((one, (one,), "text") for one in TEXTS))
        },
        **same(index, [one for one in items if one.picture and one.size is not None], folder, copied),
    }
    for name, own in result.items():
        typer.echo(f"{name}: {own}", err=True)
    return result


def shown(missing: Sequence[Found]) -> dict[str, float]:
    """The share of queries that a good match is shown for."""
    good: dict[int, bool] = {}
    for one in missing:
        good[one.query] = good.get(one.query, False) or one.good
    return interval(list(good.values()))


if __name__ == "__main__":
    typer.run(main)
