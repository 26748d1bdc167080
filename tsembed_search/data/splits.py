"""The validation split: rows that share a target, an image, a query or a group fall on one side, all of them.

Rows are tied by keys; tied rows make a group, across tasks. A hash of the group decides its side. So the split is the
same for the same data, and rows that are added later move no others unless they tie two groups together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from tsembed_search.data.gathering import PER_ROW, Gathered, RowStore, StoredTask
from tsembed_search.data.rows import Answers

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

VALIDATION_SPLIT: Final = "validation"
_LARGEST_SHARE: Final = 0.2
"""A group with more of the rows never makes up the validation by itself."""


def split(
    parts: Sequence[tuple[Gathered, RowStore]], validation: float, seed: int
) -> tuple[list[StoredTask], list[StoredTask]]:
    """Return (training tasks, validation tasks), each knowing all right answers of its queries, of whatever task and
    side they are. Rows with ties to a validation file's are not trained on. `validation`: as in `held_out`.
    """
    import numpy as np

    if not parts:
        return [], []
    tasks = [gathered.task(store) for gathered, store in parts]
    sizes = [len(task) for task in tasks]
    group = groups(np.concatenate([gathered.tied() for gathered, _ in parts]))
    group = np.where(group == 0, np.arange(1, len(group) + 1, dtype=np.uint64), group)  # a row without ties
    for_validation = [gathered.split == VALIDATION_SPLIT for gathered, _ in parts]
    own = {gathered.name for (gathered, _), given in zip(parts, for_validation, strict=True) if given}
    free = np.repeat([gathered.name not in own for gathered, _ in parts], sizes)
    known = np.unique(group[np.repeat(for_validation, sizes)])
    names = list(dict.fromkeys((task.name, id(task.store)) for task in tasks))
    number = np.repeat(np.array([names.index((task.name, id(task.store))) for task in tasks], np.uint64), sizes)
    identity = np.concatenate([task.identities for task in tasks])
    out = np.zeros(len(group), np.bool_)
    out[free] = held_out(group[free], seed, validation, known)
    out[free] = measurable(out[free], group[free], number[free], identity[free], known)
    marks = np.concatenate([task.marks for task in tasks])
    answers = Answers(marks[:, 0], identity, marks[:, 1])
    train: dict[tuple[str, int], list[StoredTask]] = defaultdict(list)
    held: dict[tuple[str, int], list[StoredTask]] = defaultdict(list)
    for task, given, side in zip(tasks, for_validation, np.split(out, np.cumsum(sizes)[:-1]), strict=True):
        key, task = (task.name, id(task.store)), replace(task, answers=answers)
        if not given:
            train[key].append(task.only(~side))
        held[key].append(task if given else task.only(side))
    return [_joined(found) for found in train.values()], [_joined(found) for found in held.values()]


def _joined(tasks: Sequence[StoredTask]) -> StoredTask:
    """Parts of one task as one."""
    import numpy as np

    meta = next((task.meta for task in tasks if task.meta), "")
    arrays: dict[str, Any] = {name: np.concatenate([getattr(task, name) for task in tasks]) for name in PER_ROW}
    return replace(tasks[0], meta=meta, **arrays)


def groups(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return, for rows with keys `[N, K]` (0 for none) the group `[N]` of each: the smallest key that its ties lead to.

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
    """Tell which rows `[N]` are for validation, by their groups `[N]`.

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
    """Return `out` `[N]`, the rows that are held out, less those that nothing can be measured with: all that a task
    has of them has one target. A group stays when it is `fixed`, or when it serves another task.

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
    """Return the rows that a cap keeps: `most` of them, in their order, chosen by hash."""
    import numpy as np

    draws = _mixed(identities ^ _mixed(places.astype(np.uint64), 1), seed)
    return np.sort(np.argsort(draws, kind="stable")[:most])
