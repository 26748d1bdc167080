"""Finds the scores of good matches: `python examples/mini/limits.py [--model CHECKPOINT --write]`.

For each modality of queries and kind of items it is the lowest score above which as many hits are right as `--right`
says. The queries ask for what is in the index and for what is not; the items are photographs, cartoons, cut-outs,
encyclopaedia leads, docstrings and captions, by themselves and mixed, from thirty to all. Where no score is as sure,
there is no limit, and no good match.

It sees one half of `labelled.py`; `benchmarks/calibration.py` reports on the other half, and on another kind of
pictures. The limits are printed; with `--write` they are kept in the checkpoint.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from labelled import FIT, NOTES, SIZES, TEXTS, Asking, Found, everything, written

from tsembed_search.index import Index
from tsembed_search.items import Kind, Modality
from tsembed_search.model import checkpoint
from tsembed_search.model.embedder import Embedder

PICTURES = ("photographs", "cartoons", "cut-outs")
FEWEST = 50
"""A limit that fewer right hits reach is chance."""


def collected(asking: Asking, most: int, pictures: Sequence[str] = PICTURES) -> Iterator[Found]:
    """Hits of queries of all kinds, among items of all kinds and numbers."""
    kinds: tuple[tuple[Kind, Sequence[str], Sequence[str]], ...] = (("image", pictures, ()), ("text", TEXTS, NOTES))
    for kind, sources, notes in kinds:
        for size in range(len(SIZES) + 1):
            for among in (*((one,) for one in sources), sources):
                queries = asking.asked_by(among)[:most]
                yield from asking.found(queries, among, size, kind=kind)
                if kind == "text":
                    yield from asking.found(queries, among, size, kind=kind, words="only")
            others = asking.asked_by(TEXTS if kind == "image" else pictures)[: most // 4]
            yield from asking.found(others, sources, size, kind=kind)
            yield from asking.found(asking.asked_by(pictures, True)[:most], (*sources, *notes), size, True, kind)


def limit(found: Sequence[Found], share: float) -> float | None:
    """The lowest score above which that share of hits is right, or None."""
    order = sorted(found, key=lambda one: -one.score)
    right = np.cumsum([one.right for one in order])
    enough = np.flatnonzero((right >= share * np.arange(1, len(order) + 1)) & (right >= FEWEST))
    return order[enough[-1]].score if len(enough) else None


def limits(found: Iterable[Found], share: float) -> dict[tuple[Modality, Kind], float]:
    """The limit of each pair of modality and kind that has one."""
    groups: dict[tuple[Modality, Kind], list[Found]] = {}
    for one in found:
        groups.setdefault((one.modality, one.kind), []).append(one)
    chosen = {}
    for pair, own in groups.items():
        least = limit(own, share)
        known = f"{sum(one.right for one in own)} of {len(own)} hits are right"
        typer.echo(f"{pair[0]} > {pair[1]}: {known}; limit {least}", err=True)
        if least is not None:
            chosen[pair] = round(least, 4)
    return chosen


def main(
    model: Annotated[str, typer.Option(help="A built-in model, or a checkpoint's folder.")] = "mini",
    right: Annotated[float, typer.Option(help="The share of good matches that are right.")] = 0.89,
    most: Annotated[int, typer.Option(help="Queries of a kind.")] = 100,
    write: Annotated[bool, typer.Option("--write", help="Keep the limits in the checkpoint.")] = False,
) -> None:
    """Prints the limits as JSON: query modality > item kind: score."""
    embedder = Embedder.load(model)
    if embedder.info.calibration is None:
        raise typer.BadParameter(f"{model} has no calibration yet: run calibrate.py first.")
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["TSEMBED_HOME"] = f"{scratch}/home"
        folder, items = Path(scratch) / "items", everything([FIT])
        with Index.create("limits", embedder=embedder) as index:
            index.add(written(items, folder))
            found = list(collected(Asking(index, folder, items, FIT), most))
    typer.echo(f"by words alone: {limit([one for one in found if one.by_words], right)}", err=True)
    calibration = embedder.info.calibration
    # However few words a query has, all of them count when good texts are told from others.
    scored = [
        replace(one, score=calibration.score(one.similarity, one.modality, one.kind, one.words))
        if one.kind == "text"
        else one
        for one in found
        if not one.by_words
    ]
    chosen = limits(scored, right)
    calibration = replace(calibration, limits=chosen)
    typer.echo(json.dumps(calibration.to_json()["limits"], indent=1))
    if write:
        checkpoint.calibrate(Path(model), calibration)


if __name__ == "__main__":
    typer.run(main)
