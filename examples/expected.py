"""Compares hits with what queries expect: `tsembed search --queries Q.jsonl | python expected.py Q.jsonl`.

Each line of the queries may have `expected`: endings of paths, any of which is a right answer.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(queries: Path) -> int:
    """Prints a line per query. Gives the exit code: 0 when at least three quarters of the queries found an answer."""
    expected = {}
    for line in queries.read_text("utf-8").splitlines():
        query = json.loads(line)
        expected[query["id"]] = query
    found = 0
    for line in sys.stdin:
        answer = json.loads(line)
        query = expected[answer["id"]]
        ranks = [
            hit["rank"] for hit in answer["hits"] if any(hit["path"].endswith("/" + end) for end in query["expected"])
        ]
        found += bool(ranks)
        asked = " + ".join(part for part in (query.get("image"), query.get("text")) if part)
        print(f"{f'rank {ranks[0]}' if ranks else 'not found':>9}  {asked}")
    print(f"{found} of {len(expected)} queries found a file that they should.")
    return 0 if found >= 0.75 * len(expected) else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
