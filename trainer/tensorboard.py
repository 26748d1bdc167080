"""A run's numbers for TensorBoard, from the records of `log`."""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tsembed_search.errors import UsageError
from tsembed_search.trainer import log


def packages() -> tuple[Any, Any]:
    """TensorBoard's modules that write records, and that make events. Raises `UsageError` where it is not installed."""
    try:
        writing = importlib.import_module("tensorboard.summary.writer.record_writer")
        events = importlib.import_module("tensorboard.compat.proto.event_pb2")
    except ImportError as error:
        raise UsageError(
            "TensorBoard is not installed.",
            "Install it (pip install 'tsembed-search[tensorboard]'), or leave --tensorboard out.",
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
            for earlier in log.read(self._run / log.NAME):
                self._add(earlier)
        elif self._writer is not None:
            self._add(record)
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()

    def _begin(self) -> None:
        folder = self._run / "tensorboard"
        folder.mkdir(exist_ok=True)
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        file = folder / f"events.out.tfevents.{int(time.time()):010}.tsembed"
        # The package's own writers work in a thread, whose errors (a full disk) come out as a page of code.
        self._writer = self._records.RecordWriter(file.open("wb"))
        self._write(file_version="brain.Event:2")

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
