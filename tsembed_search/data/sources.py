"""The files that a data source means: a file, a folder with a file or folder per task, or a data set on a hub."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tsembed_search import hub
from tsembed_search.data.records import ENDINGS
from tsembed_search.errors import LoadError, UsageError
from tsembed_search.paths import typed

HUB: Final = "hub:"
"""`hub:owner/name`, `hub:owner/name/subset`, either with `@revision`: a data set on the hub."""

TASKS_FILE: Final = "tasks.json"
"""Tells of a folder's tasks, beside its rows."""

_SPLITS: Final = {
    "train": "train", "training": "train", "original": "train", "diverse_instruction": "diverse_instruction",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation", "test": "test",
    "unseen": "unseen", "unseen_validation": "unseen_validation", "unseen_test": "unseen_test", "data": "", "part": "",
}  # fmt: skip
_SHARD: Final = re.compile(r"[-_.]\d+(?:[-_]of[-_]\d+)?$")
_HUB_NAME: Final = re.compile(r"([\w.-]+/[\w.-]+)(?:/([^@]+))?(?:@([\w./-]+))?")
_PASSED_OVER: Final = re.compile(r"^[._]|^images?$")

# The 36 data sets of MMEB, by its four meta-tasks.
_MMEB: Final = {
    "classification": "ImageNet-1K ImageNet_1K N24News HatefulMemes VOC2007 SUN397 Place365 ImageNet-A ImageNet-R "
    "ObjectNet Country211 Country-211",
    "vqa": "OK-VQA A-OKVQA DocVQA InfographicsVQA InfographicVQA ChartQA Visual7W ScienceQA VizWiz GQA TextVQA",
    "retrieval": "VisDial CIRR VisualNews_t2i VisualNews_i2t MSCOCO_t2i MSCOCO_i2t NIGHTS WebQA FashionIQ Wiki-SS-NQ "
    "OVEN EDIS",
    "grounding": "MSCOCO RefCOCO RefCOCO-Matching Visual7W-Pointing Visual7W-pointing",
}
_META: Final = {name.lower(): meta for meta, names in _MMEB.items() for name in names.split()}
META_TASKS: Final = tuple(_MMEB)
"""MMEB's meta-tasks: `classification`, `vqa`, `retrieval`, `grounding`."""


@dataclass(frozen=True)
class TaskFile:
    """A file with rows of one task. `split`: `train`, `validation`, `test`, ..., or "" where its name tells none.
    `source`: the folder that it was found in, or the file itself. `meta`: the task's meta-task, or "".
    """

    path: Path
    task: str
    split: str
    source: Path
    meta: str = ""


def meta_task(name: str) -> str:
    """Return the meta-task of one of MMEB's own data sets; "" for another name."""
    return _META.get(name.lower(), "")


def task_files(source: str | Path) -> list[TaskFile]:
    """Return the files of a source with rows, in order of their names. Hidden files and image folders are passed over.

    A file is named for its task (`wordnet.jsonl`), for its split inside a folder named for the task
    (`MSCOCO/train-00000-of-00002.parquet`), or lies in a folder named for the split (`train/wordnet.jsonl`). A
    `tasks.json` at the top may tell meta-tasks: `{"tasks": {"wordnet": {"meta": "retrieval"}}}`. A hub data set is
    downloaded first.

    Raises `UsageError` when the source is not there or holds no such file.
    """
    if isinstance(source, str) and source.startswith(HUB):
        top, place = _downloaded(source[len(HUB) :])
    else:
        top = place = typed(source)
    if not place.is_file() and not place.is_dir():
        raise UsageError(f"There is no {place}.", "Give a file of rows, a folder of them, or hub:owner/name.")
    found = list(_files(place))
    if not found:
        what = "is no file of rows" if place.is_file() else "holds no file of rows"
        raise UsageError(f"{place} {what}.", f"Rows are read from files ending in {', '.join(ENDINGS)}.")
    if place.is_file():
        return [_task_file(place, place.parent.parent, place, _told(*place.parents[:3]))]
    told = _told(top)
    return [_task_file(path, top, top, told) for path in found]


def has_rows(source: str | Path) -> bool:
    """Tell whether the source is data for training or evaluation, rather than a folder of somebody's own files."""
    return str(source).startswith(HUB) or any(_files(typed(source)))


def _files(place: Path) -> Iterator[Path]:
    """The files of rows at a path: itself, or those below it, if there are some."""
    paths = _walk(place) if place.is_dir() else [place] if place.is_file() else []
    return (path for path in paths if path.suffix.lower() in ENDINGS)


def _walk(folder: Path) -> Iterator[Path]:
    """The files below a folder, each folder's before those of the folders in it. Links to folders are followed, after
    the folders themselves, and each real folder is visited once.
    """
    visited: set[tuple[int, int]] = set()
    waiting: list[Path] = [folder]
    linked: list[Path] = []
    while waiting or linked:
        place = (waiting or linked).pop(0)
        try:
            facts = place.stat()
            if (facts.st_dev, facts.st_ino) in visited:
                continue
            visited.add((facts.st_dev, facts.st_ino))
            inside = sorted(place.iterdir())
        except OSError as error:
            raise LoadError(f"The folder {place} cannot be listed: {error.strerror or error}.") from error
        for path in inside:
            if _PASSED_OVER.match(path.name):
                continue
            if path.is_dir():
                (linked if path.is_symlink() else waiting).append(path)
            else:
                yield path


def _told(*folders: Path) -> dict[str, str]:
    """The meta-tasks in the first `tasks.json` that there is."""
    file = next((path for folder in folders if (path := folder / TASKS_FILE).is_file()), None)
    if file is None:
        return {}
    try:
        tasks = json.loads(file.read_text("utf-8"))["tasks"]
        return {name: meta for name, task in tasks.items() if isinstance(meta := task.get("meta", ""), str)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{file} does not describe tasks.", 'It should look like {"tasks": {"NAME": {"meta": "retrieval"}}}.'
        ) from error


def _task_file(path: Path, top: Path, source: Path, told: dict[str, str]) -> TaskFile:
    """The task and split of a file, by its name and those of its folders inside `top`."""
    task = _SHARD.sub("", path.name.removesuffix(path.suffix))
    folders = path.parent.relative_to(top).parts[::-1] if top in path.parents else ()
    split = _SPLITS.get(task.lower())
    if split is not None:
        task = next((name for name in folders if name.lower() not in _SPLITS), "") or path.parent.name or task
    else:
        split = next((_SPLITS[name.lower()] for name in folders if name.lower() in _SPLITS), "")
    return TaskFile(path, task, split, source, told.get(task) or meta_task(task))


def _downloaded(name: str) -> tuple[Path, Path]:
    """The folder of a hub data set in the local hub cache, downloaded if need be, and that of the subset wanted."""
    match = _HUB_NAME.fullmatch(name)
    if not match:
        raise UsageError(f"{HUB}{name} names no data set.", "Write hub:owner/name, or hub:owner/name/subset.")
    repository, subset, revision = match.groups()
    patterns = [*(f"*{ending}" for ending in ENDINGS), "images/*"]
    if subset:
        patterns = [*(f"{subset}/{pattern}" for pattern in patterns), f"images/{subset}/*"]
    folder = hub.download(repository, revision, patterns, "dataset")
    return folder, folder / subset if subset else folder
