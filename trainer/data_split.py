"""The validation split: rows that share a target, an image, a query or a group fall on one side, all of them.

Rows are tied by keys; tied rows make a group, across tasks. A hash of the group decides its side. So the split is the
same for the same data, and rows that are added later move no others unless they tie two groups together.

A text that many rows share is no identity but a label: were all cats tied together, a class would be either learned or
tested. Such a key ties nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_USES: Final = 20
"""A text that more rows of a task share is a label."""
_LARGEST_SHARE: Final = 0.2
"""A group with more of the rows never makes up the validation by itself."""


def without_labels(keys: NDArray[np.uint64], textual: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Keys `[N]` of one kind in one task, with 0 where a text is a label. `textual` `[N]`: which keys are of texts."""
    import numpy as np

    _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    return np.where(textual & (counts[inverse] > MOST_USES), np.uint64(0), keys)


def groups(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """For rows with keys `[N, K]` (0 for none) the group `[N]` of each: the smallest key that its ties lead to.

    A row without any key gets 0: it belongs to no group.
    """
    import numpy as np

    rows, _ = np.nonzero(keys)
    names, numbers = np.unique(keys[keys != 0], return_inverse=True)
    lowest = np.arange(len(names))
    changed = True
    while changed:
        # Each row takes its lowest key, each key the lowest of its rows, and what that one has become.
        of_row = np.full(len(keys), len(names))
        np.minimum.at(of_row, rows, lowest[numbers])
        new = lowest.copy()
        np.minimum.at(new, numbers, of_row[rows])
        new = np.minimum(new, new[new])
        changed = not np.array_equal(new, lowest)
        lowest = new
    found = np.zeros(len(keys), np.uint64)
    found[rows] = names[lowest[numbers]]
    return found


def held_out(
    group: NDArray[np.uint64], seed: int, validation: float, fixed: NDArray[np.uint64] | None = None
) -> NDArray[np.bool_]:
    """Which rows `[N]` are for validation, by their groups `[N]`.

    `validation`: a share of the groups (below 1), or about so many rows. `fixed`: groups that are held out anyway.
    A share that would leave a small set without any validation gives it one group.
    """
    import numpy as np

    names, inverse, sizes = np.unique(group, return_inverse=True, return_counts=True)
    draws = _mixed(names, seed)
    out = np.isin(names, fixed) if fixed is not None else np.zeros(len(names), np.bool_)
    if validation > 0 and len(names) > 1:
        most = max(1.0, _LARGEST_SHARE * len(group))
        small = sizes <= most
        if validation < 1:
            out |= small & (draws < validation * 2.0**64)
            wanted = 0 if out.any() else 1
        else:
            wanted = min(int(validation), len(group) // 2) - int(sizes[out].sum())
        for place in np.argsort(draws):
            if wanted <= 0:
                break
            if small[place] and not out[place] and sizes[place] <= max(wanted, 1) * 2:
                out[place] = True
                wanted -= int(sizes[place])
    return np.asarray(out[inverse], np.bool_)


def measurable(
    out: NDArray[np.bool_],
    group: NDArray[np.uint64],
    task: NDArray[np.uint64],
    identity: NDArray[np.uint64],
    fixed: NDArray[np.uint64],
) -> NDArray[np.bool_]:
    """`out` `[N]`, the rows that are held out, less what nothing can be measured with: all that a task has of them has
    one target. A group stays when it is `fixed`, or when it serves another task.

    None is held out when the rest would have nothing to tell apart, and all of them have. All arrays are `[N]`: of
    `group`, `task` and `identity`, but for `fixed`.
    """
    import numpy as np

    tasks, _ = np.unique(np.stack([task[out], identity[out]]), axis=1)
    names, counts = np.unique(tasks, return_counts=True)
    serving = out & np.isin(task, names[counts > 1])
    held = out & np.isin(group, np.concatenate([group[serving], fixed]))
    if len(np.unique(identity[~held])) < 2 <= len(np.unique(identity)):
        held &= np.isin(group, fixed)
    return held


def _mixed(names: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """Numbers `[N]` uint64 that look random, by name and seed (the finaliser of SplitMix64, Steele et al. 2014)."""
    import numpy as np

    mixed = names ^ np.uint64((seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) & (2**64 - 1))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)), np.uint64)


def first_by_hash(identities: NDArray[np.uint64], places: NDArray[np.int64], most: int, seed: int) -> NDArray[np.int64]:
    """Which rows a cap keeps: `most` of them, in their order, chosen by hash."""
    import numpy as np

    draws = _mixed(identities ^ _mixed(places.astype(np.uint64), 1), seed)
    return np.sort(np.argsort(draws, kind="stable")[:most])
