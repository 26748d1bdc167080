"""The recipe's table on parallel paths: what they are, and the losses that train them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from annotated_types import Interval

from tsembed_search.model.path_settings import PathSettings


@dataclass(frozen=True)
class PathTraining(PathSettings):
    """`weight`: of the mean over paths of InfoNCE of each path alone, beside InfoNCE of what they are together.
    `separation`: what keeps paths apart. `vclub` and `vclub-fixed` lower their mutual information (with learned
    variances, and with a fixed one), `orthogonal` their cosines; `vclub-shuffled` is a control, vCLUB on paths of
    different items. `separation_weight` rises from 0 over
    `separation_warmup` steps. `fits`: steps of the network that vCLUB learns, in each step of the run.
    """

    weight: Annotated[float, Interval(ge=0, le=1e6)] = 1.0
    separation: Literal["none", "vclub", "vclub-fixed", "vclub-shuffled", "orthogonal"] = "vclub"
    separation_weight: Annotated[float, Interval(ge=0, le=1e6)] = 0.1
    separation_warmup: Annotated[int, Interval(ge=0, le=1_000_000)] = 100
    fits: Annotated[int, Interval(ge=1, le=1000)] = 2

    @property
    def settings(self) -> PathSettings:
        """The part that the model itself is told."""
        return PathSettings(**{field.name: getattr(self, field.name) for field in fields(PathSettings)})

    def terms(self, temperature: float, count: int, dim: int) -> dict[str, dict[str, Any]]:
        """The losses on `count` paths of `dim` numbers, by their names in `LOSSES`, each with its weight and settings.

        Names of paths that are not there, or of one alone, which nothing can keep apart, are left out.
        """
        found: dict[str, dict[str, Any]] = {}
        if count and self.weight:
            found["paths"] = {"weight": self.weight, "temperature": temperature}
        if count < 2 or not self.separation_weight or self.separation == "none":
            return found
        own: dict[str, Any] = {"weight": self.separation_weight, "warmup": self.separation_warmup}
        if self.separation == "orthogonal":
            return found | {"orthogonal": own}
        own |= {"paths": count, "dim": dim, "fits": self.fits}
        own |= {"fixed": self.separation == "vclub-fixed", "shuffled": self.separation == "vclub-shuffled"}
        return found | {"vclub": own}
