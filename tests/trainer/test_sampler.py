"""Batches: one task per sub-batch, no identity twice, the same ones again, and everything in its turn."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from helpers.training_data import Listed, listed
from tsembed_search.errors import UsageError
from tsembed_search.trainer.batches.sampler import Pick, Sampler
from tsembed_search.trainer.settings import BatchSettings


def drawn(tasks: list[Listed], batch: BatchSettings, seed: int, steps: int) -> list[list[Pick]]:
    sampler = Sampler(tasks, batch, seed)
    return [sampler.next() for _ in range(steps)]


TASKS = [
    listed("pairs", [f"p{i}" for i in range(40)]),
    listed("classes", [f"c{i % 5}" for i in range(100)]),
    listed("shares", [f"p{i}" for i in range(30)] + [f"c{i}" for i in range(5)]),
]


@given(
    st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=40), min_size=1, max_size=4),
    st.integers(2, 24),
    st.integers(1, 9),
    st.integers(0, 5),
)
@hypothesis_settings(max_examples=60, deadline=None)
def test_no_identity_twice_and_one_task_per_sub_batch(
    identities: list[list[int]], size: int, sub_batch: int, seed: int
) -> None:
    tasks = [listed(f"t{place}", [f"i{one}" for one in ids]) for place, ids in enumerate(identities)]
    if len({one for ids in identities for one in ids}) < 2:
        with pytest.raises(UsageError):
            Sampler(tasks, BatchSettings(size, sub_batch), seed)
        return
    for batch in drawn(tasks, BatchSettings(size, sub_batch), seed, 12):
        targets = [tasks[pick.task].identity(pick.row) for pick in batch]
        assert len(set(targets)) == len(targets) <= size
        assert len({pick.identity for pick in batch}) == len(batch)
        everything = {one for ids in identities for one in ids}
        assert len(batch) == min(size, len(everything)), "a batch is as full as identities allow"


def test_sub_batches_hold_one_task() -> None:
    for batch in drawn(TASKS, BatchSettings(24, 8, task_temperature=1), 0, 30):
        changes = sum(a.task != b.task for a, b in pairwise(batch))
        assert changes <= 24 // 5, "rows of a task come together"


def test_same_seed_same_batches() -> None:
    first, again, other = (drawn(TASKS, BatchSettings(16, 4), seed, 20) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_resumed_goes_on_as_if_nothing_had_happened() -> None:
    whole = drawn(TASKS, BatchSettings(16, 4), 7, 30)
    before = Sampler(TASKS, BatchSettings(16, 4), 7)
    for _ in range(11):
        before.next()
    state: dict[str, Any] = json.loads(json.dumps(before.state_dict()))
    after = Sampler(TASKS, BatchSettings(16, 4), 7)
    after.load_state_dict(state)
    assert [after.next() for _ in range(19)] == whole[11:]


def test_every_row_has_its_turn() -> None:
    """A round through a task of pairs draws each row once, whatever the batch; classes come equally often."""
    batches = drawn([TASKS[0]], BatchSettings(10, 10), 0, 8)
    for round_ in (batches[:4], batches[4:]):
        assert sorted(pick.row for batch in round_ for pick in batch) == list(range(40))
    rows = [pick.row for batch in drawn([TASKS[1]], BatchSettings(64, 16), 0, 20) for pick in batch]
    assert set(Counter(rows).values()) == {1}, "twenty batches of five classes take each of the hundred rows once"


def test_shared_identities_do_not_pile_up() -> None:
    sampler = Sampler(TASKS, BatchSettings(40, 8), 0)
    for _ in range(200):
        sampler.next()
    assert max(len(waiting) for _, _, waiting in sampler.state_dict()["cursors"]) <= 40


def test_rows_of_a_batch_come_together() -> None:
    """Each round has every batch as one stretch, in another order; rows without one lie between them."""
    task = listed("pairs", [f"p{i}" for i in range(40)])
    task.batches = [i % 5 for i in range(40)]  # batch 0 is none
    rounds = [drawn([task], BatchSettings(size=8, sub_batch=8), seed, 5) for seed in (0, 1)]
    for picks in rounds:
        numbers = [task.batch(pick.row) for step in picks for pick in step]
        assert sorted(numbers) == sorted(task.batches)
        stretches = [number for at, number in enumerate(numbers) if number and (at == 0 or numbers[at - 1] != number)]
        assert sorted(stretches) == [1, 2, 3, 4]
    assert rounds[0] != rounds[1]


def test_a_task_without_batches_is_drawn_as_before() -> None:
    plain, zeros = (listed("pairs", [f"p{i}" for i in range(30)]) for _ in range(2))
    zeros.batches = [0] * 30
    batch = BatchSettings(size=8, sub_batch=4)
    assert drawn([plain], batch, 3, 6) == drawn([zeros], batch, 3, 6)


def test_mixing() -> None:
    tasks = [listed("large", [f"a{i}" for i in range(900)]), listed("small", [f"b{i}" for i in range(100)])]

    def share(task_temperature: float, weight: float = 1.0) -> float:
        weighted = [tasks[0], listed("small", [f"b{i}" for i in range(100)], weight=weight)]
        picks = [pick for batch in drawn(weighted, BatchSettings(8, 4, task_temperature), 0, 400) for pick in batch]
        return sum(pick.task == 1 for pick in picks) / len(picks)

    assert share(1.0) == pytest.approx(0.1, abs=0.04)
    assert share(2.0) == pytest.approx(0.25, abs=0.05)
    assert share(float("inf")) == pytest.approx(0.5, abs=0.05)
    assert share(1.0, weight=9.0) == pytest.approx(0.5, abs=0.05)
    assert share(1.0, weight=0.0) == 0


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ([], "no task has a row"),
        ([listed("empty", [])], "no task has a row"),
        ([listed("single", ["one"])], "nothing to tell apart"),
        ([listed("same", ["one", "one", "one"])], "same target"),
        ([listed("a", ["one"]), listed("b", ["one"])], "rows of a, b"),
        ([listed("a", ["one", "two"], weight=0)], "weight above 0"),
        ([listed("a", ["one", "two"], weight=0), listed("b", ["x"])], "rows of b"),
    ],
)
def test_refusals(tasks: list[Listed], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Sampler(tasks, BatchSettings(), 0)
