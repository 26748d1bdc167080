"""How much words should count beside meaning, on a manual's sections: `python benchmarks/word_weights.py FOLDER`.

FOLDER holds HTML pages with headings, such as `usr/share/gimp/2.0/help/en` of Debian's package `gimp-help-en`. Every
section is a text of its own, asked for by its heading, of two words or more, that no other section has. For each pair
of weights it prints the share of sections that come first, and that are among the first ten: the logit of an item is
`slope · cosine + a · share + b · share⁶` (see `ranking/scores.py`).

Then, with the weights that are used and headings of one word, too: from how many words on do words count fully, where
the model knows all of them?
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
from tsembed_search.items import Kind
from tsembed_search.ranking.reranking import Query
from tsembed_search.ranking.scores import LOGIT_OF_ALL_WORDS, LOGIT_OF_WORDS, TELLING_WORDS, Calibration
from tsembed_search.search.finding import Finder
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
    cosines, shares, right, queries = compared(sections(folder, most))
    print(f"{len(queries)} sections; by words alone: {measured(shares, right)}")
    for a, b in product((0, 3, 4.5, 6, 7.5, 10), (0, 4.5, 7.5)):
        print(f"a={a:<4} b={b:<4} {measured(SLOPE * cosines + a * shares + b * shares**6, right)}")
    cosines, shares, right, queries = compared(sections(folder, 2 * most, shortest=1))
    lengths = np.array([query.asked.plain for query in queries])
    known = np.array([query.telling < 1 for query in queries])
    evidence = LOGIT_OF_WORDS * shares + LOGIT_OF_ALL_WORDS * shares**6
    groups = {"all": lengths > 0} | {f"{n} known": known & (lengths == n) for n in range(1, TELLING_WORDS)}
    for enough in range(1, TELLING_WORDS + 1):
        telling = np.where(known, np.minimum(1, lengths / enough), 1.0)
        scores = SLOPE * cosines + telling[:, None] * evidence
        for name, own in groups.items():
            print(f"{name:8} {own.sum():4}  fully from {enough} words: {measured(scores[own], right[own])}")


def compared(texts: list[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[Query]]:
    """The cosines of headings and sections `[Q, N]`, the shares of words, whether a section is the right one, and the
    queries.
    """
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
            ids = [record.id for record in records]
            texts: dict[str, Kind] = dict.fromkeys(ids, "text")
            found = Finder(index.store, queries, Calibration()).scored(dict.fromkeys(range(len(queries)), texts))
    cosines = np.stack([query.vector for query in queries]) @ vectors.T
    right = places[None] == np.arange(len(texts))[:, None]
    return cosines, np.array([[own[id].words for id in ids] for own in found.values()]), right, list(queries)


def sections(folder: Path, most: int, shortest: int = 2) -> list[tuple[str, str]]:
    """Headings of at least so many words, each with its section's beginning."""
    found = []
    for page in sorted(folder.rglob("*.html")):
        for heading, body in _SECTION.findall(page.read_text("utf-8", "replace")):
            title, text = re.sub(r"^[\d.]+\s*", "", plain(heading)), plain(body)[:_LONGEST]
            if len(title.split()) >= shortest and len(text) > _SHORTEST:
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
