"""The time that a misspelt word costs a search, at size: `python benchmarks/respelling.py --leads-package FOLDER`.

An index of made-up passages, each of four sentences of encyclopaedia leads (see `queries.py`) and a number of its own,
is asked for the words of queries as they are spelled, and with one slip in a word. Both are timed in turn, in processor
time, and the quietest of several rounds counts. What is timed is all that a search does for words before it looks for
items: how rare they are, and what a misspelt one was to be.
"""

from __future__ import annotations

import json
import os
import random
import tempfile
import time
from contextlib import closing, nullcontext
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


def main(
    items: Annotated[int, typer.Option(help="Passages of the index.")] = 100_000,
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
            figures = {
                query: (asked(store, query, rounds), asked(store, slip, rounds)) for query, slip in ASKED.items()
            }
    for query, (as_it_is, misspelt) in figures.items():
        print(f"{query:28}{as_it_is:>8.2f} ms   misspelt {misspelt:>6.2f} ms   {misspelt - as_it_is:>+6.2f} ms")
    if as_json:
        print(json.dumps(figures))


def built(leads: Path, items: int) -> Any:
    """The index, made unless it is there."""
    from tsembed_search.paths import IndexAddress
    from tsembed_search.store.base import Point, StoreSettings
    from tsembed_search.store.edge.store import EDGE
    from tsembed_search.store.schema import place_of, point_id

    address = IndexAddress(f"passages-{items}")
    if EDGE.exists(address):
        return EDGE.open(address)
    rng = random.Random(0)
    sentences = [one for path in sorted(leads.glob("*.txt")) for one in path.read_text("utf-8").split(". ") if one]
    store = EDGE.create(address, StoreSettings(384))
    for start in range(0, items, _BATCH):
        points = []
        for number in range(start, min(start + _BATCH, items)):
            place = place_of(f"/home/me/folder{number % 50}/file-{number}.txt", "/home/me", 1_700_000_000_000_000_000)
            text = ". ".join([*rng.sample(sentences, 4), f"INV-2024-{number:06}"])
            payload = {"kind": "text", **place, "places": [place], "text": text, "sha": f"{number:064x}"}
            points.append(Point(point_id(f"{number:064x}", None, 0, ""), np.zeros(0, np.float32), payload))
        store.upsert(points)
    return store


def asked(store: Any, query: str, rounds: int) -> float:
    """The milliseconds that a query's words take."""
    from tsembed_search.items import Item
    from tsembed_search.search.by_words import ByWords
    from tsembed_search.search.queries import queries_by_words

    wanted, spent = queries_by_words([Item(query)]), []
    for _ in range(rounds):
        started = time.process_time()
        ByWords(store, wanted)
        spent.append(time.process_time() - started)
    return 1000 * min(spent)


if __name__ == "__main__":
    typer.run(main)
