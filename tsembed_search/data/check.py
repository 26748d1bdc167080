"""Looking a data set over before it is trained on: what there is, what is wrong with it, and what will go wrong."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from tsembed_search.data.gathering import Column, Gathered, Reading, read_files
from tsembed_search.data.layouts import UnreadFields
from tsembed_search.data.records import Instructions, Problem
from tsembed_search.data.rows import KEYS, Row, content, hashed, question
from tsembed_search.data.sources import TaskFile
from tsembed_search.data.training import TRAIN_SPLITS, own_files, sources_found
from tsembed_search.errors import LoadError
from tsembed_search.items import ImageSpec

Level = Literal["error", "warning"]

_FEW_IDENTITIES: Final = 16
_BAD_SHARE: Final = 0.05
_DUPLICATE_SHARE: Final = 0.05
_LONG_TEXT: Final = 400
_SAMPLE: Final = 40


@dataclass(frozen=True)
class Finding:
    """Something that is wrong. An `error` keeps from training; a `warning` makes it worse."""

    level: Level
    text: str


@dataclass
class TaskReport:
    """A task in one split. `words`: the median and the largest number of words of its queries and targets;
    `kinds`: how many rows of which query and target (`text to image`). `damaged`: of the images that were opened.
    """

    name: str
    meta: str
    split: str
    rows: int = 0
    identities: int = 0
    largest_identity: int = 0
    duplicates: int = 0
    with_negatives: int = 0
    with_instruction: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    words: dict[str, tuple[int, int]] = field(default_factory=dict)
    bad: Counter[str] = field(default_factory=Counter)
    opened: int = 0
    damaged: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the report as a JSON object."""
        return {
            "task": self.name, "meta": self.meta, "split": self.split or "train", "rows": self.rows,
            "bad": self.bad.total(), "missing_images": self.bad["image"], "duplicates": self.duplicates,
            "identities": self.identities, "largest_identity": self.largest_identity,
            "with_negatives": self.with_negatives, "with_instruction": self.with_instruction, "kinds": dict(self.kinds),
            "words": {side: {"median": median, "most": most} for side, (median, most) in self.words.items()},
            "images_opened": self.opened, "images_damaged": len(self.damaged),
        }  # fmt: skip


@dataclass(frozen=True)
class Leak:
    """Something that rows of another `split` have and training sees, too: `what` is `target image` and the like, `rows`
    how many rows have it. `example`: one of them.
    """

    split: str
    what: str
    rows: int
    example: str


@dataclass(frozen=True)
class Report:
    """All that was found: tasks by split, bad rows, what splits share, and their meaning."""

    tasks: list[TaskReport]
    problems: list[Problem]
    leaks: list[Leak]
    findings: list[Finding]
    unread: list[UnreadFields] = field(default_factory=list)

    @property
    def usable(self) -> bool:
        """True if it can be trained on."""
        return not any(finding.level == "error" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Return the document of a check."""
        return {
            "usable": self.usable,
            "tasks": [task.to_json() for task in self.tasks],
            "findings": [vars(finding).copy() for finding in self.findings],
            "leaks": [vars(leak).copy() for leak in self.leaks],
            "problems": [problem.to_json() for problem in self.problems],
            "unread_fields": [one.to_json() for one in self.unread],
        }


@dataclass
class _Tally:
    """A task's numbers while its rows are read."""

    report: TaskReport
    query_words: array[int] = field(default_factory=lambda: array("L"))
    target_words: array[int] = field(default_factory=lambda: array("L"))
    rows: array[int] = field(default_factory=lambda: array("Q"))
    images: dict[int, Path] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        query, target = row.query, row.positive
        self.report.kinds[f"{query.modality} to {target.modality}"] += 1
        self.report.with_negatives += bool(row.negatives)
        self.report.with_instruction += bool(query.instruction)
        self.rows.append(hashed(question(query), content(target)))
        for item, words in ((query, self.query_words), (target, self.target_words)):
            if item.text:
                words.append(len(item.text.split()))
            if item.image is not None:
                self._sample(item.image)

    def _sample(self, image: Path) -> None:
        """Keeps the images with the lowest hashes: a fair sample that is always the same."""
        draw = hashed("sample", image)
        if len(self.images) < _SAMPLE or draw < max(self.images):
            self.images[draw] = image
            if len(self.images) > _SAMPLE:
                del self.images[max(self.images)]


def check(
    sources: Sequence[str | Path],
    *,
    images: Sequence[Path] = (),
    instructions: Instructions | None = None,
    open_images: bool = True,
    progress: Callable[[str, int], None] = lambda task, rows: None,
) -> Report:
    """Read all splits of the sources, and open a sample of each task's images.

    Raises `UsageError` when a source is missing or holds nothing that could be trained on.
    """
    files, folders = sources_found(sources)
    pictures: dict[str, str] = {}
    tallies: dict[tuple[str, str], _Tally] = {}

    def tallied(task: Gathered | TaskFile, name: str) -> _Tally:
        key = name, task.split
        if key not in tallies:
            tallies[key] = _Tally(TaskReport(name, task.meta, task.split))
        return tallies[key]

    reading = read_files(
        files, images=images, instructions=instructions, strict=False, pictures=pictures, progress=progress,
        each=lambda file, name, row: tallied(file, name).add(row),
    )  # fmt: skip
    for folder in folders:
        parts, problems = own_files(folder, (), pictures, progress)
        reading.problems.extend(problems)
        for gathered, store in parts:
            reading.gathered[gathered.name, gathered.split] = gathered
            for place in range(len(gathered)):
                tallied(gathered, gathered.name).add(store.row(place, 0))
    for file in files:
        if bad := reading.bad[file.path]:
            tallied(file, file.task).report.bad.update(bad)
    reports = [_finished(one, reading, open_images) for _, one in sorted(tallies.items(), key=lambda item: item[0])]
    leaks = list(_leaks(reading))
    findings = [*_findings(reports, leaks), *(Finding("warning", str(one)) for one in reading.unread)]
    return Report(reports, reading.problems, leaks, findings, reading.unread)


def _finished(tally: _Tally, reading: Reading, open_images: bool) -> TaskReport:
    import numpy as np

    report = tally.report
    gathered = reading.gathered.get((report.name, report.split))
    if gathered is None:
        return report
    report.rows = len(gathered)
    _, counts = np.unique(gathered.table()[:, Column.IDENTITY], return_counts=True)
    report.identities, report.largest_identity = len(counts), int(counts.max())
    report.duplicates = len(tally.rows) - len(set(tally.rows))
    for side, words in (("query", tally.query_words), ("target", tally.target_words)):
        if words:
            report.words[side] = (int(np.median(words)), max(words))
    for image in tally.images.values() if open_images else ():
        from tsembed_search.documents.pictures import open_image

        report.opened += 1
        try:
            open_image(image, ImageSpec((64, 64)))
        except LoadError as error:
            report.damaged.append(error.message)
    return report


def _leaks(reading: Reading) -> Iterator[Leak]:
    """Yields all that other splits have and training has, too."""
    import numpy as np

    train = [one for one in reading.gathered.values() if one.split in TRAIN_SPLITS]
    others = sorted({one.split for one in reading.gathered.values()} - set(TRAIN_SPLITS))
    if not train or not others:
        return
    keys = np.concatenate([one.tied() for one in train])
    pictures = np.unique(keys[:, 1:3])  # an image is the same image whichever side of a row it is on
    seen = [np.unique(keys[:, 0]), pictures, pictures, np.unique(keys[:, 3]), np.unique(keys[:, 4])]
    for split in others:
        for kind in (1, 2, 0, 3, 4):
            rows, example = 0, ""
            for one in (gathered for gathered in reading.gathered.values() if gathered.split == split):
                own = one.tied()[:, kind]
                shared = np.flatnonzero(np.isin(own, seen[kind]) & (own != 0))
                rows += len(shared)
                if len(shared) and not example:
                    example = f"{one.name}, line {one.table()[shared[0], Column.LINE]}"
            if rows:
                yield Leak(split, KEYS[kind], rows, example)


def _findings(reports: Sequence[TaskReport], leaks: Sequence[Leak]) -> Iterator[Finding]:
    train = [report for report in reports if report.split in TRAIN_SPLITS]
    if not any(report.rows for report in train):
        yield Finding("error", "There is nothing to train on: no training row can be used.")
    elif sum(report.identities for report in train) < 2:
        yield Finding("error", "There is nothing to tell apart: all training rows have the same target.")
    for report in reports:
        name = report.name if report.split in TRAIN_SPLITS else f"{report.name} ({report.split})"
        bad, total = report.bad.total(), report.rows + report.bad.total()
        if bad > 0.25 * total and bad >= 3:
            yield Finding("error", f"{name}: {bad:,} of {total:,} rows cannot be used.")
        elif bad > _BAD_SHARE * total:
            yield Finding("warning", f"{name}: {bad:,} of {total:,} rows cannot be used.")
        if report.damaged:
            share = f"{len(report.damaged)} of {report.opened} images that were opened"
            yield Finding("warning", f"{name}: {share} are damaged. {report.damaged[0]}")
        if report.split in TRAIN_SPLITS and 0 < report.identities < _FEW_IDENTITIES:
            targets = "one target" if report.identities == 1 else f"{report.identities} different targets"
            rows = "one row" if report.identities == 1 else f"{report.identities} rows"
            yield Finding("warning", f"{name} has {targets}, so that a batch takes no more than {rows} of it.")
        if report.duplicates > _DUPLICATE_SHARE * max(report.rows, 1):
            yield Finding("warning", f"{name}: {report.duplicates:,} rows are there more than once.")
        for side, (_, most) in report.words.items():
            if most > _LONG_TEXT:
                yield Finding("warning", f"{name}: a {side} has {most:,} words; models cut long texts.")
    for leak in leaks:
        common = f"{leak.rows:,} with a {leak.what} that training has, too ({leak.example})"
        yield Finding("warning", f"{leak.split}: {common}. What is measured on it will be too good.")
