"""Which rows make a batch: sub-batches of one task each, no target identity twice, the same ones for the same seed.

Rows of one batch number, as a miner gives them to rows that are alike, come one after the other, so that a sub-batch of
their size has most of them.

Rows are drawn by identity. A task goes through its identities in a shuffled order, then in another one, and takes each
time the identity's next row. So no row waits while others of its identity come again, and a task with ten classes gives
at most ten rows to a batch, one of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tsembed_search.data.rows import Task
from tsembed_search.errors import UsageError
from tsembed_search.trainer.settings import BatchSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Pick(NamedTuple):
    """A row of a task, both by number, and the number that its identity has in this run."""

    task: int
    row: int
    identity: int


@dataclass
class _Cursor:
    """Where a task has come to: its round, the place there, and identities that it passed over, with their rounds."""

    round: int = 0
    place: int = 0
    waiting: dict[int, int] = field(default_factory=dict)


class _Identities:
    """The rows of one task by identity."""

    def __init__(self, numbers: NDArray[np.int64], seed: Sequence[int], batches: NDArray[np.uint64]) -> None:
        self._seed = seed
        shuffled = np.random.default_rng(list(seed)).permutation(len(numbers))
        order = shuffled[np.argsort(numbers[shuffled], kind="stable")]
        self.identities, starts, counts = np.unique(numbers[order], return_index=True, return_counts=True)
        self._order, self._starts, self._counts = order, starts, counts
        self._batches = batches[order[starts]] if batches.any() else None
        self._round = -1
        self._permutation: NDArray[np.int64] = np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self.identities)

    def at(self, round_: int, place: int) -> int:
        """The place among the identities that comes at `place` of a round."""
        if round_ != self._round:
            generator = np.random.default_rng([*self._seed, round_ + 1])
            self._round, self._permutation = round_, self._together(generator.permutation(len(self)))
        return int(self._permutation[place])

    def _together(self, permutation: NDArray[np.int64]) -> NDArray[np.int64]:
        """The permutation with identities of one batch moved up to the first of them."""
        if self._batches is None:
            return permutation
        _, first, which = np.unique(self._batches[permutation], return_index=True, return_inverse=True)
        places = np.where(self._batches[permutation] == 0, np.arange(len(permutation)), first[which])
        return permutation[np.argsort(places, kind="stable")]

    def row(self, which: int, round_: int) -> int:
        """The row of an identity in a round."""
        return int(self._order[self._starts[which] + round_ % self._counts[which]])


class Sampler:
    """Batches of rows, one after the other. Raises `UsageError` when there are not two identities to tell apart."""

    def __init__(self, tasks: Sequence[Task], batch: BatchSettings, seed: int) -> None:
        self.tasks = tasks
        self._batch = batch
        self._seed = seed
        self._step = 0
        if not any(len(task) for task in tasks):
            raise UsageError("There is no data to train on: no task has a row.", "Are the rows where the data says?")
        shares = np.array([max(0.0, task.weight) * len(task) ** (1 / batch.task_temperature) for task in tasks])
        if not shares.sum() > 0:
            raise UsageError("There is no data to train on: no task has a weight above 0.", "Give one a weight.")
        numbers: dict[str, int] = {}
        self._identities: list[_Identities] = []
        for place, task in enumerate(tasks):
            named = [numbers.setdefault(task.identity(row), len(numbers)) for row in range(len(task))]
            batches = np.array([task.batch(row) for row in range(len(task))], np.uint64)
            self._identities.append(_Identities(np.array(named, np.int64), (seed, place), batches))
        drawn = [place for place, share in enumerate(shares) if share > 0]
        if len({int(number) for place in drawn for number in self._identities[place].identities[:2]}) < 2:
            raise UsageError(
                f"There is nothing to tell apart: all rows of {', '.join(tasks[place].name for place in drawn)} have "
                "the same target.",
                "Training compares a query's target with those of other rows: give it two different targets or more.",
            )
        self.identities = len(numbers)
        self._cursors = [_Cursor() for _ in tasks]
        self._shares = shares / shares.sum()

    def next(self) -> list[Pick]:
        """The next batch, sub-batch after sub-batch: up to `batch.size` rows, fewer when identities run out."""
        generator = np.random.default_rng([self._seed, 2**31, self._step])
        self._step += 1
        taken: set[int] = set()
        picks: list[Pick] = []
        shares = self._shares.copy()
        while len(picks) < self._batch.size and shares.sum() > 0:
            task = int(generator.choice(len(shares), p=shares / shares.sum()))
            wanted = min(self._batch.sub_batch, self._batch.size - len(picks))
            drawn = self._draw(task, wanted, taken)
            picks += drawn
            if len(drawn) < wanted:
                shares[task] = 0
        return picks

    def _draw(self, task: int, wanted: int, taken: set[int]) -> list[Pick]:
        """Up to `wanted` rows of a task whose identities are not `taken` yet; takes them."""
        of, cursor = self._identities[task], self._cursors[task]
        found: list[Pick] = []
        passed: dict[int, int] = {}
        seen: set[int] = set()

        def offer(which: int, round_: int) -> None:
            seen.add(which)
            identity = int(of.identities[which])
            if identity in taken:
                passed.setdefault(which, round_)
            else:
                taken.add(identity)
                found.append(Pick(task, of.row(which, round_), identity))

        while cursor.waiting and len(found) < wanted:
            which = next(iter(cursor.waiting))
            offer(which, cursor.waiting.pop(which))
        while len(found) < wanted and len(seen) < len(of):
            if cursor.place == len(of):
                cursor.round, cursor.place = cursor.round + 1, 0
            offer(of.at(cursor.round, cursor.place), cursor.round)
            cursor.place += 1
        cursor.waiting |= passed | cursor.waiting  # who waits already loses this turn, or shared ones would pile up
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return where the sampler is, as JSON."""
        return {"step": self._step, "cursors": [[c.round, c.place, list(c.waiting.items())] for c in self._cursors]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to where `state_dict` was taken."""
        self._step = int(state["step"])
        self._cursors = [_Cursor(round_, place, dict(waiting)) for round_, place, waiting in state["cursors"]]
