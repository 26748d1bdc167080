"""Compares hits with what the example queries should find: `tsembed search --queries queries.jsonl | expected.py`.

`expected.json` names for each query the files of the corpus that are right answers; any of them will do.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
ENOUGH = 0.8


def main() -> int:
    """Prints a line per query. Gives the exit code: 0 when `ENOUGH` of the queries found an answer."""
    queries = [json.loads(line) for line in (HERE / "queries.jsonl").read_text("utf-8").splitlines()]
    expected = json.loads((HERE / "expected.json").read_text("utf-8"))
    answers = {answer["id"]: answer["hits"] for answer in map(json.loads, sys.stdin)}
    found = 0
    for query in queries:
        right = tuple(f"/{name}" for name in expected[query["id"]])
        rank = next((hit["rank"] for hit in answers.get(query["id"], []) if hit["path"].endswith(right)), None)
        found += rank is not None
        asked = " + ".join(query[part] for part in ("image", "text") if part in query)
        print(f"{f'rank {rank}' if rank else 'not found':>9}  {asked}")
    print(f"{found} of {len(queries)} queries found a file that they should.")
    return 0 if found >= ENOUGH * len(queries) else 1


if __name__ == "__main__":
    sys.exit(main())
