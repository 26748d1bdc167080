"""What an index says about itself, kept beside its vectors by every store."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsembed_search.errors import IndexMismatchError, StoreError
from tsembed_search.model.calibration import Calibration

if TYPE_CHECKING:
    from tsembed_search.model.backbones.protocol import ModelInfo

_YEAR_10_000 = 253_402_300_800.0


@dataclass(frozen=True)
class IndexMetadata:
    """What an index says about the model that made it. `routes`: (L adapted blocks, E experts), or None.

    `route_weight`: how much routes count in `--rerank expert` unless the user says; None when the model does not know.
    `created_at` is in seconds since 1970.
    """

    model: str
    fingerprint: str
    dim: int
    routes: tuple[int, int] | None = None
    calibration: Calibration | None = None
    created_at: float = 0.0
    route_weight: float | None = None

    @staticmethod
    def of(info: ModelInfo) -> IndexMetadata:
        """The metadata of a new index for this model. A model in a folder is remembered by its absolute path."""
        folder = Path(info.name).expanduser()
        name = str(folder.absolute()) if folder.is_dir() else info.name
        return IndexMetadata(
            name, info.fingerprint, info.dim, info.routes, info.calibration, time.time(), info.route_weight
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON form that `from_json` reads back."""
        return {
            "model": self.model,
            "fingerprint": self.fingerprint,
            "dim": self.dim,
            "routes": self.routes and list(self.routes),
            "calibration": self.calibration and self.calibration.to_json(),
            "created_at": self.created_at,
            "route_weight": self.route_weight,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> IndexMetadata:
        """The inverse of `to_json`; keys that others added are ignored. Raises `StoreError` for anything else."""
        try:
            routes, calibration, weight = data.get("routes"), data.get("calibration"), data.get("route_weight")
            return IndexMetadata(
                str(data["model"]),
                str(data["fingerprint"]),
                int(data["dim"]),
                (int(routes[0]), int(routes[1])) if routes else None,
                Calibration.from_json(calibration) if calibration else None,
                _clock_time(float(data.get("created_at", 0.0))),
                None if weight is None else float(weight),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(
                "The index does not say which model made it: its creation was cut short, or its metadata is damaged.",
                "Run `tsembed index` on it again.",
            ) from error

    def check(self, name: str, model: str, fingerprint: str) -> None:
        """Raises `IndexMismatchError` unless vectors of that model may be compared with those of this index, `name`."""
        if fingerprint == self.fingerprint:
            return
        if model == self.model:
            raise IndexMismatchError(
                f"The index {name!r} was made by another version of the model {model} "
                f"({_short(self.fingerprint)}; now {_short(fingerprint)}).",
                f"Index again under another name: tsembed index PATH --index NEW --model {model}",
            )
        raise IndexMismatchError(
            f"The index {name!r} was made by the model {self.model} ({_short(self.fingerprint)}), "
            f"not by {model} ({_short(fingerprint)}).",
            f"Use --model {self.model}, choose another index with --index, "
            f"or index again under another name: tsembed index PATH --index NEW --model {model}",
        )


def _clock_time(seconds: float) -> float:
    """A time that a calendar has, or 0: a date that was damaged must not keep anybody from the index."""
    return seconds if 0 <= seconds < _YEAR_10_000 else 0.0


def _short(fingerprint: str) -> str:
    return fingerprint[:12]
