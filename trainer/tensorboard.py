"""A run's numbers for TensorBoard, from the records of `log`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tsembed_search.errors import UsageError


class TensorBoard:
    """An observer of a log that writes event files into a folder. Raises `UsageError` without the package."""

    def __init__(self, folder: Path) -> None:
        try:
            writer: Any = importlib.import_module("torch.utils.tensorboard")
        except ImportError as error:
            raise UsageError(
                "TensorBoard is not installed.", "Install it (pip install tensorboard), or leave --tensorboard out."
            ) from error
        self._writer = writer.SummaryWriter(str(folder))

    def __call__(self, record: Mapping[str, Any]) -> None:
        """Writes the scalars of steps and validations, `loss` and `rates/experts`, say."""
        if record["kind"] in ("step", "validation"):
            for name, value in _scalars(record):
                tag = name if record["kind"] == "step" else f"validation/{name}"
                self._writer.add_scalar(tag, value, record["step"])
            self._writer.flush()


def _scalars(record: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found = []
    for name, value in record.items():
        if isinstance(value, Mapping):
            found += _scalars(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and name not in ("step", "n"):
            found.append((prefix + name, float(value)))
    return found
