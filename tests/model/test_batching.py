"""Batches lose nothing, repeat nothing and keep to their budget."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tsembed_search.model.backbone import Prepared
from tsembed_search.model.embedder import batches


@given(
    lengths=st.lists(st.integers(1, 300), max_size=80),
    budget=st.integers(1, 1000),
    lookahead=st.integers(1, 40),
)
def test_every_item_comes_out_once_within_the_budget(lengths: list[int], budget: int, lookahead: int) -> None:
    stream = ((number, Prepared(length, None)) for number, length in enumerate(lengths))
    made = list(batches(stream, budget, lookahead))
    assert sorted(number for batch in made for number, _ in batch) == list(range(len(lengths)))
    for batch in made:
        longest = max(one.tokens for _, one in batch)
        assert len(batch) == 1 or len(batch) * longest <= budget


def test_the_stream_is_read_no_further_than_the_window() -> None:
    read = []

    def stream():  # type: ignore[no-untyped-def]
        for number in range(100):
            read.append(number)
            yield number, Prepared(10, None)

    next(batches(stream(), 50, lookahead=8))
    assert len(read) == 8
