"""Bootstrap intervals: how far a mean over queries could have been off by the choice of queries.

Efron and Tibshirani, *An Introduction to the Bootstrap*, 1993: queries are drawn anew with replacement, and the mean of
each draw is taken; the interval spans the middle 95% of those means. For a mean over tasks, queries are drawn anew
within each task. Two models are compared by the differences on the same queries (a paired bootstrap).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

RESAMPLES: Final = 2000
_AT_ONCE: Final = 1 << 22


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95% interval."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether a difference is clear of chance, as far as the choice of queries goes."""
        return self.low > 0 or self.high < 0


def means_of_draws(values: Floats, name: str, resamples: int = RESAMPLES) -> Floats:
    """`[resamples, M]`: means over Q queries drawn anew, of per-query values `[Q, M]`.

    The same `name` and Q draw the same queries, so that draws of two models on one task belong together.
    """
    import numpy as np

    count = len(values)
    random = np.random.default_rng(zlib.crc32(name.encode("utf-8", "backslashreplace")))
    means = np.empty((resamples, values.shape[1]))
    step = max(1, _AT_ONCE // max(1, count))
    for start in range(0, resamples, step):
        stop = min(resamples, start + step)
        drawn = random.integers(count, size=(stop - start, count)) + np.arange(stop - start)[:, None] * count
        often = np.bincount(drawn.ravel(), minlength=(stop - start) * count).reshape(stop - start, count)
        means[start:stop] = often @ values / count
    return means


def estimates(means: Floats, draws: Floats) -> list[Estimate]:
    """One estimate for each of M metrics, from `means` `[M]` and `draws` `[resamples, M]`."""
    import numpy as np

    low, high = np.percentile(draws, [2.5, 97.5], axis=0)
    return [Estimate(float(mean), float(a), float(b)) for mean, a, b in zip(means, low, high, strict=True)]


def over_tasks(values: Sequence[Floats], names: Sequence[str]) -> list[Estimate]:
    """Estimates of the mean over tasks of their means, each task counting alike, from per-query values `[Q_t, M]`."""
    import numpy as np

    draws = np.mean([means_of_draws(each, name) for each, name in zip(values, names, strict=True)], axis=0)
    return estimates(np.mean([each.mean(axis=0) for each in values], axis=0), draws)
