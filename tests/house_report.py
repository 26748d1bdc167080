"""How large the house is, and which of its rules are broken: `make sizes`, or `python tests/house_report.py`.

Prints a line per folder: modules, their lines, the median and the largest module; functions, the median and the
largest. With `--breaks`, also what breaks the rules of `tests/test_house.py`. With `--json`, one object
last.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from helpers import house


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--breaks", action="store_true", help="name what breaks the rules, too")
    parser.add_argument("--json", action="store_true")
    wanted = parser.parse_args()
    sizes = house.sizes()
    rows = [house.HEADINGS, *(each.row() for each in sizes)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *rest in rows:
        figures = (cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))
        print(first.ljust(widths[0]), *figures, sep="  ")
    broken = {rule: sorted(set(find())) for rule, find in house.RULES.items()} if wanted.breaks else {}
    for rule, places in broken.items():
        print(f"\n{rule}: {len(places)}", *places, sep="\n  ")
    if wanted.json:
        print(json.dumps({"sizes": [asdict(each) for each in sizes], "breaks": broken}))


if __name__ == "__main__":
    main()
