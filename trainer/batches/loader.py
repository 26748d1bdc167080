"""Batches ready for the model: drawn, read and labelled while the step before is being computed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, cast

from tsembed_search.data.rows import Row, Task, question
from tsembed_search.errors import LoadError, UsageError
from tsembed_search.items import Item
from tsembed_search.model.backbone import Prepared
from tsembed_search.trainer.batches.features import Preparer
from tsembed_search.trainer.batches.sampler import Pick, Sampler
from tsembed_search.trainer.distributed import Processes
from tsembed_search.trainer.losses.base import NEGATIVE, POSITIVE, QUERY, Labels, label, labels


@dataclass(frozen=True)
class Load:
    """This process's part of a batch: `items` `[N]` with their `labels`, queries first, then positives, then negatives.

    `bare`: places of queries that are texts without an instruction, as people type them. `tasks`: rows per task of the
    whole batch. `skipped`: why rows were left out. `sampler`: where it was afterwards.
    """

    items: list[Prepared]
    labels: Labels
    bare: list[int]
    tasks: dict[str, int]
    skipped: list[str]
    sampler: dict[str, Any]

    def without(self, place: int, why: str) -> Load:
        """The load without the item at a place: without its row if it is a query or a positive."""
        rows = len(self.labels.of(QUERY))
        dropped = {place} if place >= 2 * rows else {place % rows, place % rows + rows}
        kept = [at for at in range(len(self.items)) if at not in dropped]
        bare = [at - (at > min(dropped)) for at in self.bare if at not in dropped]
        return replace(
            self,
            items=[self.items[at] for at in kept],
            labels=replace(self.labels, table=self.labels.table[kept]),
            bare=bare,
            skipped=[*self.skipped, why],
        )

    @property
    def tokens(self) -> int:
        """Tokens of all items."""
        return sum(item.tokens for item in self.items)


class Loader:
    """One `Load` after another, prepared one ahead in a thread. Its state is that of the sampler after the last one."""

    def __init__(self, sampler: Sampler, preparer: Preparer, processes: Processes, hard_negatives: int) -> None:
        self._sampler = sampler
        self._preparer = preparer
        self._processes = processes
        self._hard_negatives = hard_negatives
        self._thread = ThreadPoolExecutor(1, "load")
        self._next: Future[Load] | None = None
        self._given = sampler.state_dict()

    def peek(self) -> Load:
        """Return the part that comes next, without going on. Raises what `next` does."""
        self._next = self._next or self._thread.submit(self._load)
        load = self._next.result()
        self._check(load)
        return load

    def next(self) -> Load:
        """Return the next part of a batch. Raises `UsageError`, in every process, when hardly any row can be read."""
        load = self.peek()
        self._next, self._given = self._thread.submit(self._load), load.sampler
        return load

    def state_dict(self) -> dict[str, Any]:
        """Return where the sampler was, as JSON."""
        return self._given

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to where `state_dict` was taken. Call it before anything is prepared."""
        self._sampler.load_state_dict(state)
        self._given = state

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _load(self) -> Load:
        picks = self._sampler.next()
        tasks = Counter(self._sampler.tasks[pick.task].name for pick in picks)
        own = self._processes.own(picks)
        items, found, skipped, bare = read(self._sampler.tasks, own, self._preparer, self._hard_negatives)
        return Load(items, found, bare, dict(tasks), skipped, self._sampler.state_dict())

    def _check(self, load: Load) -> None:
        """Judge what is too little by the whole batch: a part may be one row, or none."""
        rows, lost = sum(load.tasks.values()), int(self._processes.sum(float(len(load.skipped))))
        if 2 * lost > rows or (lost and rows - lost < 2):
            first = next(line for part in self._processes.collect(load.skipped[:1]) for line in part)

            def refuse() -> None:
                raise UsageError(
                    f"{lost} of {rows} rows cannot be read. The first: {first}",
                    "Are the pictures where the data says?",
                )

            self._processes.together(refuse)


def read(
    tasks: Sequence[Task], picks: Sequence[Pick], preparer: Preparer, hard_negatives: int
) -> tuple[list[Prepared], Labels, list[str], list[int]]:
    """Items of some rows, their labels, a line for each row that was left out because it cannot be read, and the places
    of queries that are texts without an instruction.
    """
    rows: list[tuple[Row, int]] = []
    skipped: list[str] = []
    for pick in picks:
        try:
            rows.append((tasks[pick.task][pick.row], pick.task))
        except LoadError as error:
            skipped.append(error.message)
    asked: list[list[tuple[int, Item]]] = [
        [(QUERY, row.query), (POSITIVE, row.positive), *((NEGATIVE, one) for one in row.negatives[:hard_negatives])]
        for row, _ in rows
    ]
    flat = [pair for items in asked for pair in items]
    prepared = iter(preparer.prepare([(item, "query" if role == QUERY else "document") for role, item in flat]))
    found: list[tuple[Prepared, list[int]]] = []
    bare: list[int] = []
    answers: set[tuple[int, int]] = set()
    kept = 0
    for (row, task), items in zip(rows, asked, strict=True):
        ready = [next(prepared) for _ in items]
        # A row counts as a whole: without one of its negatives it would say something else.
        failed = next((one for one in ready if isinstance(one, LoadError)), None)
        if failed is not None:
            skipped.append(f"{row.origin}: {failed.message}" if row.origin else failed.message)
            continue
        if row.query.image is None and not row.query.instruction:
            bare.append(kept)
        kept += 1
        number = question(row.query)
        answers |= {(number, right) for right in row.answers}
        for (role, item), one in zip(items, ready, strict=True):
            known = () if role == NEGATIVE else (row.identity, number)
            found.append((cast(Prepared, one), label(role, item, task, *known)))
    found.sort(key=lambda pair: pair[1][0])  # by role, and within it in the order of rows
    return [one for one, _ in found], labels([one for _, one in found], answers), skipped, bare
