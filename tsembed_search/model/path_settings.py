"""The settings of parallel paths: several embeddings of one input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Interval

from tsembed_search import wording
from tsembed_search.errors import ModelError

Kind = Literal["suffix", "prefix", "expert"]
Combine = Literal["first", "mean", "concat"]


@dataclass(frozen=True)
class PathSettings:
    """`count` P: how many paths, 0 for none. `kind`: `suffix` appends learned tokens to the input for all paths but the
    first, one pass for all; `prefix` puts learned keys and values before the input at every layer, a pass for each
    path; `expert` lets path p use expert p alone, a pass for each path. `length`: learned tokens of each path; `expert`
    has none. `combine`: the model's vector is the `first` path, the `mean` of all, or all of them side by side
    (`concat`).

    Raises `ModelError` for values that make no sense.
    """

    kind: Kind = "suffix"
    count: Annotated[int, Interval(ge=0, le=64)] = 0
    length: Annotated[int, Interval(ge=1, le=256)] = 1
    combine: Combine = "first"

    def __post_init__(self) -> None:
        for name, known in (("kind", ("suffix", "prefix", "expert")), ("combine", ("first", "mean", "concat"))):
            if getattr(self, name) not in known:
                raise ModelError(f"Paths cannot have {name} {getattr(self, name)!r}.", f"Use {' or '.join(known)}.")
        for name, least, most in (("count", 0, 64), ("length", 1, 256)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise ModelError(f"Paths cannot have {name} {value}.", f"Use a whole number from {least} to {most}.")

    @property
    def used(self) -> int:
        """The paths that the model's vector is made of: these are all that inference computes."""
        return min(self.count, 1) if self.combine == "first" else self.count

    def dim(self, one: int) -> int:
        """Return the numbers of the model's vector, by those of `one` path."""
        return one * self.count if self.count and self.combine == "concat" else one

    def to_json(self) -> dict[str, Any]:
        """The form in `tsembed.json`: the model's own settings, not those of its training."""
        mine = {field.name for field in fields(PathSettings)}
        return {name: value for name, value in asdict(self).items() if name in mine}

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> PathSettings:
        """The inverse of `to_json`. Raises `TypeError` or `ModelError` for what makes no sense."""
        return PathSettings(**said)


def of_method(method: Mapping[str, Any], where: Path) -> PathSettings | None:
    """Return the paths of a checkpoint's settings, which were read from a file; None where it has none.

    Raises `ModelError` for settings of no paths.
    """
    try:
        found = PathSettings.from_json(method.get("paths") or {})
    except TypeError as error:
        raise ModelError(
            f"The settings of paths in {where} cannot be used: {wording.brief(error)}.",
            "Copy the checkpoint again, all of its files, or make it again.",
        ) from error
    return found if found.count else None
