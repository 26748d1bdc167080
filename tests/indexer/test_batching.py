"""Batches come out as soon as they are full, of similar lengths, within the budget, and lose nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tsembed_search.indexer.stages import Pool
from tsembed_search.model.backbone import Prepared


@given(st.lists(st.integers(1, 300), max_size=200), st.integers(50, 1000))
def test_batches_hold_their_promises(lengths: list[int], budget: int) -> None:
    pool: Pool[int] = Pool(budget)
    early = [batch for place, length in enumerate(lengths) for batch in pool.add(place, Prepared(length, None))]
    late = list(pool.rest())
    for batch in early + late:
        longest = max(prepared.tokens for _, prepared in batch)
        assert len(batch) * longest <= budget or len(batch) == 1
    for batch in early:
        sizes = [prepared.tokens for _, prepared in batch]
        assert max(sizes) <= 1.2 * min(sizes) + 1
    assert sorted(place for batch in early + late for place, _ in batch) == list(range(len(lengths)))


@given(st.lists(st.integers(1, 300), max_size=400), st.integers(300, 600))
def test_what_waits_is_bounded(lengths: list[int], budget: int) -> None:
    pool: Pool[int] = Pool(budget)
    waiting = 0
    for length in lengths:
        waiting += length
        for batch in pool.add(0, Prepared(length, None)):
            waiting -= sum(prepared.tokens for _, prepared in batch)
        assert waiting <= 7 * budget


def test_equal_items_do_not_wait_for_a_window() -> None:
    pool: Pool[int] = Pool(100)
    assert [len(batch) for place in range(11) for batch in pool.add(place, Prepared(10, None))] == [10]
