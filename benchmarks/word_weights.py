"""How much words should count beside meaning, on a manual's sections: `python benchmarks/word_weights.py FOLDER`.

FOLDER holds HTML pages with headings, such as `usr/share/gimp/2.0/help/en` of Debian's package `gimp-help-en`. Every
section is a text of its own, asked for by its heading, of two words or more, that no other section has. For each pair
of weights it prints the share of sections that come first, and that are among the first ten: the logit of an item is
`slope · cosine + a · share + b · share⁶` (see `ranking/scores.py`).
"""

from __future__ import annotations

import html
import os
import random
import re
import tempfile
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from tsembed_search.index import Index
from tsembed_search.search.by_words import ByWords
from tsembed_search.search.index_model import SLOPE
from tsembed_search.search.results import Clock
from tsembed_search.store.base import StoreSettings

_SECTION = re.compile(r'<h[1-4][^>]*class="title"[^>]*>(.*?)</h[1-4]>(.*?)(?=<h[1-4][^>]*class="title"|$)', re.DOTALL)
_LONGEST, _SHORTEST = 900, 200


def main(
    folder: Annotated[Path, typer.Argument(help="A folder with the pages of a manual.")],
    most: Annotated[int, typer.Option(help="Sections to take.")] = 450,
) -> None:
    """Measure, and print the table."""
    texts = sections(folder, most)
    with tempfile.TemporaryDirectory() as work:
        os.environ["TSEMBED_HOME"] = f"{work}/home"
        files = Path(work) / "sections"
        files.mkdir()
        for number, (_, text) in enumerate(texts):
            (files / f"{number}.txt").write_text(text, "utf-8")
        with Index.open("manual", create=StoreSettings(0)) as index:
            index.add(files)
            queries = index._model.queries([heading for heading, _ in texts], Clock())
            records = list(index.store.scroll(fields=["rel"], with_vectors=True))
            places = np.array([int(record.payload["rel"].partition(".")[0]) for record in records])
            vectors = np.stack([record.vector for record in records if record.vector is not None])
            cosines = np.stack([query.vector for query in queries]) @ vectors.T
            ids = [record.id for record in records]
            found = ByWords(index.store, queries).shares(range(len(queries)), [ids] * len(queries))
    shares = np.array([[own[id] for id in ids] for own in found])
    right = places[None] == np.arange(len(texts))[:, None]
    print(f"{len(texts)} sections; by words alone: {measured(shares, right)}")
    for a, b in product((0, 3, 4.5, 6, 7.5, 10), (0, 4.5, 7.5)):
        print(f"a={a:<4} b={b:<4} {measured(SLOPE * cosines + a * shares + b * shares**6, right)}")


def sections(folder: Path, most: int) -> list[tuple[str, str]]:
    """Headings, each with its section's beginning."""
    found = []
    for page in sorted(folder.rglob("*.html")):
        for heading, body in _SECTION.findall(page.read_text("utf-8", "replace")):
            title, text = re.sub(r"^[\d.]+\s*", "", plain(heading)), plain(body)[:_LONGEST]
            if len(title.split()) >= 2 and len(text) > _SHORTEST:
                found.append((title, text))
    uses = Counter(title for title, _ in found)
    found = [one for one in found if uses[one[0]] == 1]
    random.Random(0).shuffle(found)
    return found[:most]


def plain(markup: str) -> str:
    """The text of a piece of HTML, on one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", markup)).split())


def measured(scores: np.ndarray, right: np.ndarray) -> str:
    """The shares of queries whose section comes first, and among the first ten."""
    best = np.where(right, scores, -np.inf).max(axis=1)
    ranks = 1 + (np.where(right, -np.inf, scores) > best[:, None]).sum(axis=1)
    return f"first {np.mean(ranks <= 1):.3f}  in ten {np.mean(ranks <= 10):.3f}"


if __name__ == "__main__":
    typer.run(main)
