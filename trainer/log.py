"""The log of a run, `log.jsonl` in its folder: one JSON object a line, written as things happen, never rewritten.

Whoever shows a run (the live display, the report, TensorBoard) reads these records and nothing else. Every record has
`kind`; numbers that are not finite, or were not measured, are null. Matrices `[L][E]` are lists of L lists of E.

`run` (first; again after every resume)
    version, started (ISO time), name (of the recipe), recipe (all settings, resolved, as nested tables), seed, steps
    (planned), device, precision, ranks, resumed_from (a step, or null), rows_skipped,
    model {name, dim, parameters, trainable, routes [L, E]},
    data {sources, tasks [{name, meta, rows, identities, weight}], validation [{name, meta, rows}], problems}
`step` (every step)
    step (from 1), stage (1 or 2), loss (what was minimised), parts {contrastive, balance, z, distillation,
    query_distillation, shallow_distillation, paths, vclub, orthogonal} (unweighted; those that are used; what keeps
    paths apart with its warm-up), rates {experts, router, projector, paths}, temperature, gradient_norm, rows, items
    (embedded), tokens, tasks {name: rows}, seconds (in training since the run began, over resumes), items_per_second (a
    moving mean), seconds_left,
    expert_load [L][E] (mean gates), routing_entropy (0..1: 1 is uniform, the mean over items and blocks),
    mask_rate (share of in-batch pairs left out as false negatives), hardness (mean over queries of the hardest
    negative's cosine), positive (mean cosine of query and positive), kappa_deviation (of negatives, within tasks),
    kappa_cosine_correlation (over negatives), memory (peak bytes: of the GPU, else of the process)
`stage`          step, stage (the new one), reason
`validation`     step, tasks {name: {meta, hit@1, mrr, n}}, hit@1, mrr (means over tasks), best (hit@1 so far), seconds
`checkpoint`     step, path
`calibration`    lambda, sweep [[weight, mrr], ...], items (that the routing mean was taken over), queries
`experts`        tasks {name: {meta, load [L][E]}}: mean gates per task, at the end
`gradients`      tasks [names], cosine [[...]]: between the tasks' gradients of the shared weights, at the end
`note`           message
`end`            reason (finished, early stop, interrupted), steps, seconds, items_per_second, best_step, checkpoint
"""

from __future__ import annotations

import importlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tsembed_search.errors import UsageError

Record = Mapping[str, Any]

Observer = Callable[[Record], None]

"""Is told every record as it is written. One that raises `OSError` is told no more, and the run goes on."""


NAME = "log.jsonl"


class Log:
    """Appends records to a file, if this is the rank that has one, and tells observers."""

    def __init__(self, path: Path | None, *observers: Observer) -> None:
        self._file = None if path is None else path.open("ab")
        self._observers = list(observers)

    def write(self, kind: str, **values: Any) -> None:
        """Append one record."""
        # As JSON can hold it: null for NaN and infinity, lists for tuples.
        record = json.loads(json.dumps({"kind": kind, **values}), parse_constant=lambda name: None)
        if self._file is not None:
            self._file.write(json.dumps(record).encode() + b"\n")
            self._file.flush()
        for observer in list(self._observers):
            try:
                observer(record)
            except OSError as error:  # who watches a run does not stop it
                self._observers.remove(observer)
                name = getattr(observer, "__self__", observer).__class__.__name__
                self.write("note", message=f"{name} cannot show the run from here on: {error.strerror or error}.")

    def tell(self, *remarks: list[str]) -> None:
        """Append a note for each remark, and empty the lists."""
        for said in remarks:
            while said:
                self.write("note", message=said.pop(0))

    @property
    def size(self) -> int:
        """Bytes so far: where a resumed run goes on."""
        return 0 if self._file is None else os.fstat(self._file.fileno()).st_size

    def cut(self, size: int) -> None:
        """Forget what came after `size` bytes: steps that a resumed run takes again."""
        if self._file is not None and size < self.size:
            self._file.truncate(size)

    def close(self) -> None:
        """Close the file. What could not be written then is what `write` has already raised an error for."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()


def untrained(folder: Path) -> Mapping[str, Any]:
    """Return what a run's validation measured before training, by task; nothing where it did not."""
    path = folder / NAME
    records = read(path) if path.is_file() else iter(())
    first = (one for one in records if one.get("kind") == "validation" and one.get("step") == 0)
    return next(first, {}).get("tasks") or {}


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a log. A line that was cut short by a kill or a full disk is left out."""
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            with suppress(ValueError):
                record = json.loads(line)
                if line.endswith("\n") and isinstance(record, dict):
                    yield record


def packages() -> tuple[Any, Any]:
    """TensorBoard's modules that write records, and that make events. Raises `UsageError` where it is not installed."""
    try:
        writing = importlib.import_module("tensorboard.summary.writer.record_writer")
        events = importlib.import_module("tensorboard.compat.proto.event_pb2")
    except ImportError as error:
        raise UsageError(
            "TensorBoard is not installed.",
            "Install it (pip install 'tsembed-search[tensorboard]'), or do without it.",
        ) from error
    return writing, events


class TensorBoard:
    """An observer of the log of the run in `folder`: event files in `tensorboard` beside it, with the same steps.

    Nothing is written before the run begins. Where it goes on, what is in the log is written anew: so steps that were
    taken twice are there once, and those before `--tensorboard` was asked for are there, too.
    Raises `UsageError` without the package.
    """

    def __init__(self, folder: Path) -> None:
        self._records, self._events = packages()
        self._run = folder
        self._writer: Any = None

    def __call__(self, record: Mapping[str, Any]) -> None:
        """Write the scalars of steps and validations, `loss` and `rates/experts`, say. Raises `OSError`."""
        if record["kind"] == "run":
            self._begin()
        elif self._writer is not None:
            self._add(record)
            self._writer.flush()

    def _begin(self) -> None:
        folder = self._run / "tensorboard"
        folder.mkdir(exist_ok=True)
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        file = folder / f"events.out.tfevents.{int(time.time()):010}.tsembed"
        # The package's own writers work in a thread, whose errors (a full disk) come out as a page of code.
        self._writer = self._records.RecordWriter(file.open("wb"))
        self._write(file_version="brain.Event:2")
        for earlier in read(self._run / NAME):
            self._add(earlier)
        self._writer.flush()

    def _add(self, record: Mapping[str, Any]) -> None:
        if record["kind"] in ("step", "validation"):
            prefix = "" if record["kind"] == "step" else "validation/"
            values = [{"tag": prefix + name, "simple_value": value} for name, value in _scalars(record)]
            self._write(step=record["step"], summary={"value": values})

    def _write(self, **event: Any) -> None:
        self._writer.write(self._events.Event(wall_time=time.time(), **event).SerializeToString())


def _scalars(record: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found = []
    for name, value in record.items():
        if isinstance(value, Mapping):
            found += _scalars(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and name not in ("step", "n"):
            found.append((prefix + name, float(value)))
    return found
