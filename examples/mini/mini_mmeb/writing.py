"""Examples as rows of MMEB's layouts: training rows as MMEB-train has them, all others as MMEB-eval."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from mini_mmeb.examples import Example, Side
from mini_mmeb.splits import TRAIN, Sides

MOST_CANDIDATES: Final = 500
"""How many candidates a query is ranked over, at most."""
_IMAGE: Final = "<|image_1|>\n"


def write_rows(folder: Path, name: str, examples: Sequence[Example], sides: Sides) -> dict[str, int]:
    """Writes a task's rows, `SPLIT/NAME.jsonl` for each split that it has, and gives their numbers."""
    counts: dict[str, int] = {}
    by_split: dict[str, list[Example]] = {}
    for example in examples:
        by_split.setdefault(example.split, []).append(example)
    for split, chosen in by_split.items():
        rows = train_rows(chosen) if split == TRAIN else eval_rows(chosen, sides)
        write_text(
            folder / split / f"{name}.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        )
        counts[split] = len(chosen)
    return counts


def train_rows(examples: Sequence[Example]) -> list[dict[str, Any]]:
    """Rows of MMEB-train; the instruction is in `qry`, as there, and once more by itself in `qry_inst`."""
    rows = []
    for example in examples:
        negative = example.negatives[0] if example.negatives else Side()
        rows.append({
            "qry": worded(example.query), "qry_image_path": example.query.image,
            "qry_inst": example.query.instruction,
            "pos_text": worded(example.positive), "pos_image_path": example.positive.image,
            "neg_text": worded(negative), "neg_image_path": negative.image,
            "identity": example.identity, "group": example.group,
        })  # fmt: skip
    return rows


def eval_rows(examples: Sequence[Example], sides: Sides) -> list[dict[str, Any]]:
    """Rows of MMEB-eval: the right target first, then what it should not be taken for, then targets of other rows."""
    pool: dict[tuple[str, str], Example] = {}
    for example in examples:
        pool.setdefault((example.positive.text, example.positive.image), example)
    rows = []
    for number, example in enumerate(examples):
        others = [
            one.positive
            for one in sides.order(list(pool.values()), "candidates", number)
            if one.identity != example.identity and one.group != example.group
        ]
        same_group = [
            one.positive
            for one in pool.values()
            if one.group == example.group and one.identity != example.identity and one.positive not in example.negatives
        ]
        # What belongs to the same thing is a fair candidate for a question, and may be right for a search.
        fair = same_group if example.query.image and example.query.text else []
        candidates = [example.positive, *example.negatives, *fair, *others][:MOST_CANDIDATES]
        candidates = list(dict.fromkeys(candidates))
        rows.append({
            "qry_text": worded(example.query), "qry_img_path": example.query.image,
            "qry_inst": example.query.instruction,
            "tgt_text": [worded(one) for one in candidates], "tgt_img_path": [one.image for one in candidates],
            "identity": example.identity, "group": example.group,
        })  # fmt: skip
    return rows


def worded(side: Side) -> str:
    """A side's text as MMEB writes it: the token of its image, its instruction, its words."""
    words = f"{side.instruction} {side.text}".strip()
    return _IMAGE + words if side.image else words


def write_text(file: Path, text: str) -> None:
    """Writes a file as a whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(text, "utf-8")
    partial.replace(file)


def write_json(file: Path, document: Mapping[str, Any]) -> None:
    """Writes a JSON document that people may read too."""
    write_text(file, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
