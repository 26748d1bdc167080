"""What words and concepts add to a search, at size: `python benchmarks/words_at_size.py --leads-package FOLDER`.

An index of made-up items: passages, each of four sentences of encyclopaedia leads (see `queries.py`) and a number of
its own, and, every fifth, a picture with a name and classes by chance. Vectors are by chance. Queries are pieces of
sentences. Two things are timed:

- a whole search for ten hits, from the query's vector to hits with snippets: by meaning, by meaning and concepts, by
  all three, and the same with one slip in a word;
- what a misspelt word costs by itself: how rare the words are, and what the misspelt one was to be.

All are timed in turn, and the quietest of several rounds counts for each query. A whole search is timed by the clock,
which is what people wait for, and in processor time, which counts the engine's own threads as well and suffers less
from what else runs; a misspelt word in processor time.
"""

from __future__ import annotations

import json
import os
import random
import tempfile
import time
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from queries import write_leads

ASKED = {
    "received orchestra": "recieved orchestra",
    "philosopher of germany": "philosohper of germany",
    "mitochondria": "mitochondira",
    "volcanoes on an island": "volcaneos on an island",
    "treaty between kingdoms": "treaty betwene kingdoms",
}
_BATCH = 1000
_DIM = 384
_CLASSES = 1000
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def main(
    items: Annotated[int, typer.Option(help="Passages of the index.")] = 100_000,
    queries: Annotated[int, typer.Option(help="Whole searches that are timed.")] = 60,
    rounds: Annotated[int, typer.Option(help="Times that every query is asked.")] = 30,
    package: Annotated[Path | None, typer.Option("--leads-package", help="The folder of the package of leads.")] = None,
    work: Annotated[Path | None, typer.Option(help="Where files and the index are kept.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object last.")] = False,
) -> None:
    """Measure, and print the figures."""
    with nullcontext(str(work)) if work else tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["TSEMBED_HOME"] = str(folder / "home")
        write_leads(folder / "leads", package, 10_000, 1)
        with closing(built(folder / "leads", items)) as store:
            slips = {query: (asked(store, query, rounds), asked(store, slip, rounds)) for query, slip in ASKED.items()}
            whole = searched(store, pieces(folder / "leads", queries), max(3, rounds // 6))
    for query, (as_it_is, misspelt) in slips.items():
        print(f"{query:28}{as_it_is:>8.2f} ms   misspelt {misspelt:>6.2f} ms   {misspelt - as_it_is:>+6.2f} ms")
    for name, figures in whole.items():
        print(f"{name:60}" + "".join(f"   {key} {value:>+7.2f} ms" for key, value in figures.items()))
    if as_json:
        print(json.dumps({"misspelt": slips, "search": whole}))


def built(leads: Path, items: int) -> Any:
    """The index, made unless it is there."""
    from tsembed_search.paths import IndexAddress
    from tsembed_search.store.base import Point, StoreSettings
    from tsembed_search.store.edge.store import EDGE
    from tsembed_search.store.schema import concept_fields, place_of, point_id

    address = IndexAddress(f"passages-{items}")
    if EDGE.exists(address):
        return EDGE.open(address)
    rng = random.Random(0)
    sentences = [one for path in sorted(leads.glob("*.txt")) for one in path.read_text("utf-8").split(". ") if one]
    chance = np.random.default_rng(0)
    store = EDGE.create(address, StoreSettings(_DIM, concepts=True))
    for start in range(0, items, _BATCH):
        points = []
        for number in range(start, min(start + _BATCH, items)):
            picture = number % 5 == 0
            name = "-".join(rng.choice(sentences).split()[:3]).replace("/", "-") if picture else f"file-{number}"
            path = f"/home/me/folder{number % 50}/{name}.{'jpg' if picture else 'txt'}"
            place = place_of(path, "/home/me", 1_700_000_000_000_000_000)
            payload = {"kind": "image" if picture else "text", **place, "places": [place], "sha": f"{number:064x}"}
            if picture:
                payload |= {"text": None, **concept_fields(chance.dirichlet(np.full(_CLASSES, 0.02)))}
            else:
                payload["text"] = ". ".join([*rng.sample(sentences, 4), f"INV-2024-{number:06}"])
            vector = chance.standard_normal(_DIM).astype(np.float32)
            points.append(Point(point_id(f"{number:064x}", None, 0, ""), vector / np.linalg.norm(vector), payload))
        store.upsert(points)
    store.optimize()
    return store


def pieces(leads: Path, count: int) -> list[tuple[str, str]]:
    """Two to four words in a row of sentences by chance, as they are and with one slip in the longest."""
    rng = random.Random(1)
    files = sorted(leads.glob("*.txt"))
    found: list[tuple[str, str]] = []
    while len(found) < count:
        words = [word.strip(".,;:()'\"") for word in rng.choice(files).read_text("utf-8").split()]
        start, length = rng.randrange(max(1, len(words) - 4)), rng.randint(2, 4)
        piece = [word for word in words[start : start + length] if word.isalpha()]
        longest = max(piece, key=len, default="")
        if len(longest) >= 6:
            place = rng.randrange(1, len(longest) - 1)
            slip = longest[:place] + rng.choice(_LETTERS) + longest[place + 1 :]
            found.append((" ".join(piece), " ".join(slip if word == longest else word for word in piece)))
    return found


def searched(store: Any, queries: list[tuple[str, str]], rounds: int) -> dict[str, dict[str, float]]:
    """The milliseconds of whole searches over all queries, and what each evidence adds to one."""
    from tsembed_search.model.backbones import mini_spec
    from tsembed_search.ranking.reranking import Query
    from tsembed_search.ranking.words import Asked
    from tsembed_search.search.results import SearchOptions
    from tsembed_search.search.searcher import Searcher

    searcher, with_concepts = Searcher(store, mini_spec.CALIBRATION), store.settings
    without = replace(with_concepts, concepts=False)
    ways = {
        "meaning": (without, lambda text, slip: Asked()),
        "meaning, concepts": (with_concepts, lambda text, slip: Asked()),
        "meaning, concepts, words": (with_concepts, lambda text, slip: Asked.of(text)),
        "meaning, concepts, misspelt words": (with_concepts, lambda text, slip: Asked.of(slip)),
    }
    rng, nothing = np.random.default_rng(1), np.zeros(0, np.float32)
    measures = {"clock": time.perf_counter, "processor": time.process_time}
    spent = {(way, by): np.full(len(queries), np.inf) for way in ways for by in measures}
    for row, (text, slip) in enumerate(queries):
        vector = rng.standard_normal(_DIM).astype(np.float32)
        vector /= np.linalg.norm(vector)
        for _ in range(rounds):
            for way, (settings, words) in ways.items():
                store.settings = settings
                query = Query(vector, nothing, "text", text, asked=words(text, slip))
                started = {by: now() for by, now in measures.items()}
                searcher.search([query], SearchOptions(10))
                for by, now in measures.items():
                    spent[way, by][row] = min(spent[way, by][row], 1000 * (now() - started[by]))
    store.settings = with_concepts
    figures = {f"a search by {way}, by the {by}": quantiles(own) for (way, by), own in spent.items()}
    names = list(ways)
    for before, after, name in ((0, 1, "concepts"), (1, 2, "words"), (1, 3, "misspelt words")):
        for by in measures:
            figures[f"{name} add, by the {by}"] = quantiles(spent[names[after], by] - spent[names[before], by])
    return figures


def quantiles(values: np.ndarray) -> dict[str, float]:
    """The median and the 95th percentile."""
    return {name: round(float(np.percentile(values, at)), 3) for name, at in (("p50", 50), ("p95", 95))}


def asked(store: Any, query: str, rounds: int) -> float:
    """The milliseconds that a query's words take."""
    from tsembed_search.items import Item
    from tsembed_search.search.by_words import ByWords
    from tsembed_search.search.queries import queries_by_words

    wanted, spent = queries_by_words([Item(query)]), []
    for _ in range(rounds):
        started = time.process_time()
        words = ByWords(store, wanted)
        words.learn(store.find(words.first()))
        spent.append(time.process_time() - started)
    return 1000 * min(spent)


if __name__ == "__main__":
    typer.run(main)
