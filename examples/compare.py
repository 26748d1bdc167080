"""Compares models on the drawings: `compare.py NAME=HITS.jsonl ...`, hits as `tsembed search --queries` gives them.

Prints the rank at which each model has a drawing when asked for its title, where they differ, and how many each found.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
SEEN = 3


def ranks(hits: Path) -> dict[str, int | None]:
    """The rank of the drawing that each query asks for; None where it is not among the hits."""
    found = {}
    for answer in map(json.loads, hits.read_text("utf-8").splitlines()):
        same = (hit["rank"] for hit in answer["hits"] if Path(hit["path"]).name == answer["id"])
        found[answer["id"]] = next(same, None)
    return found


def main(arguments: list[str]) -> None:
    """Prints the comparison."""
    queries = [json.loads(line) for line in (HERE / "drawings.jsonl").read_text("utf-8").splitlines()]
    models = {name: ranks(Path(path)) for name, _, path in (one.partition("=") for one in arguments)}
    width = max(map(len, models)) + 2
    print("".join(f"{name:>{width}}" for name in models), " title")
    for query in queries:
        own = [found[query["id"]] for found in models.values()]
        if len(set(own)) > 1:
            print("".join(f"{f'rank {rank}' if rank else '-':>{width}}" for rank in own), f" {query['text']}")
    for name, found in models.items():
        first, near = sum(rank == 1 for rank in found.values()), sum(rank is not None for rank in found.values())
        print(f"{name}: {first} of {len(queries)} drawings come first, {near} are among the first {SEEN}.")


if __name__ == "__main__":
    main(sys.argv[1:])
