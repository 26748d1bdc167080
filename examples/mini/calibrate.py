"""Finds the calibration of mini: `python examples/mini/calibrate.py [--model CHECKPOINT --write]`.

It prints the lines; those of `mini-base` are copied into `mini_spec.py`, those of a checkpoint written into it.

Text queries. Passages: a typical right answer scores 0.8, a typical tenth-best wrong one 0.2. Pictures: their cosines
are stretched and shifted against the passages' so that in one index of both each kind keeps as much of its recall@10 as
possible (the smaller share of the two is maximised). Image and joint queries: the typical fifth-best hit of each kind
scores 0.5; an identical picture 0.95.

It sees emoji and the first half of the encyclopaedia leads; `quality.py` measures on clip art and the other half.
"""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from public_data import Picture, composed_queries, emoji, leads, openclipart

from tsembed_search.items import Item, Kind, Modality
from tsembed_search.model import checkpoint
from tsembed_search.model.embedder import Embedder
from tsembed_search.ranking.scores import Calibration, Logistic
from tsembed_search.ranking.similarity import similarity

Matrix = NDArray[np.float32]
_BACKGROUND = 600


def embed(embedder: Embedder, items: list[Item]) -> Matrix:
    """Unit vectors `[N, 384]`."""
    return embedder.embed(items).vectors


def titles(pictures: list[Picture]) -> list[Item]:
    """The titles as items."""
    return [Item(text=picture.title) for picture in pictures]


def images(pictures: list[Picture]) -> list[Item]:
    """The pictures as items."""
    return [Item(image=picture.path) for picture in pictures]


def recall(own: Matrix, other: Matrix | None = None, k: int = 10) -> float:
    """Recall@k when row i's answer is column i of `own`, among all columns of `own` and `other`."""
    answer = np.diag(own)[:, None]
    better = (own > answer).sum(axis=1) + (0 if other is None else (other > answer).sum(axis=1))
    return float((better < k).mean())


def fifth_best(similarities: Matrix) -> float:
    """The mean over rows of the fifth-highest cosine."""
    return float(np.sort(similarities, axis=1)[:, -5].mean())


def stretch_and_shift(
    label_image: Matrix, label_text: Matrix, query_text: Matrix, query_image: Matrix
) -> tuple[float, float, float]:
    """(share kept, a, b): pictures compete as `a · cosine + b`; the worse of the two kinds keeps this share."""
    image_alone, text_alone = recall(label_image), recall(query_text)
    best = (0.0, 1.0, 0.0)
    for a, b in product(np.arange(0.5, 1.55, 0.1), np.arange(-0.2, 0.41, 0.025)):
        kept = min(
            recall(a * label_image + b, label_text) / image_alone, recall(query_text, a * query_image + b) / text_alone
        )
        best = max(best, (kept, round(float(a), 3), round(float(b), 3)))
    return best


def main(
    model: Annotated[str, typer.Option(help="A built-in model, or a checkpoint's folder.")] = "mini-base",
    write: Annotated[bool, typer.Option("--write", help="Keep the lines in the checkpoint.")] = False,
) -> None:
    """Prints the lines as JSON: query modality > item kind: [slope, offset]."""
    embedder = Embedder.load(model)
    pictures, passages = emoji(), leads()
    passages = passages[: len(passages) // 2]
    background = openclipart()[:_BACKGROUND]
    image, label = embed(embedder, images(pictures)), embed(embedder, titles(pictures))
    passage = embed(embedder, [Item(text=one.text) for one in passages])
    query = embed(embedder, [Item(text=one.description) for one in passages])
    other = embed(embedder, images(background))
    joint = embed(embedder, [Item(text=one.word, image=one.picture.path) for one in composed_queries(pictures)])

    scores = similarity(query, passage)
    found = " and ".join(f"{recall(scores, k=k):.4f} among the first {k}" for k in (1, 10))
    typer.echo(f"passages by description: {found}, of {len(passages)}", err=True)
    right = float(np.diag(scores).mean())
    np.fill_diagonal(scores, -1.0)
    wrong = float(np.sort(scores, axis=1)[:, -10].mean())
    texts = Logistic.through((wrong, 0.2), (right, 0.8))
    kept, a, b = stretch_and_shift(
        *(similarity(*pair) for pair in ((label, image), (label, passage), (query, passage), (query, image)))
    )
    typer.echo(f"text queries: the worse kind keeps {kept:.3f} of its recall@10 with a={a}, b={b}", err=True)

    lines: dict[tuple[Modality, Kind], Logistic] = {("text", "text"): texts, ("text", "image"): texts.stretched(a, b)}
    others: tuple[tuple[Modality, Matrix], ...] = (("image", image), ("joint", joint))
    for modality, queries in others:
        near, far = fifth_best(similarity(queries, other)), fifth_best(similarity(queries, passage))
        itself = Logistic.through((near, 0.5), (1.0, 0.95))
        lines[modality, "image"] = itself if modality == "image" else Logistic.at(near, texts.slope)
        lines[modality, "text"] = Logistic.at(far, texts.slope)
    rounded = {pair: Logistic(round(line.slope, 3), round(line.offset, 3)) for pair, line in lines.items()}
    found_lines = Calibration(rounded, "examples/mini/calibrate.py")
    typer.echo(json.dumps(found_lines.to_json()["lines"], indent=1))
    if write:
        checkpoint.calibrate(Path(model), found_lines)


if __name__ == "__main__":
    typer.run(main)
