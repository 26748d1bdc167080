"""Routes in payloads: the packed form says what the list does, and what is no route is refused."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsembed_search.errors import StoreError
from tsembed_search.store.schema import PACKED_ROUTE, ROUTE, has_route, route_fields, stored_routes


@given(seed=st.integers(0, 1000), size=st.sampled_from([1, 6, 48, 224, 896]), sparse=st.booleans())
def test_both_forms_give_the_same_kappa(seed: int, size: int, sparse: bool) -> None:
    rng = np.random.default_rng(seed)
    routes = rng.standard_normal((3, size)) ** (9 if sparse else 1)  # one with a few large numbers, many tiny ones
    query, *items = (routes / np.linalg.norm(routes, axis=1, keepdims=True)).astype(np.float32)
    fields = [json.loads(json.dumps(route_fields(item))) for item in items]
    exact = np.stack(items) @ query
    assert np.abs(np.array([each[ROUTE] for each in fields]) @ query - exact).max() < 2e-5
    assert np.abs(stored_routes(fields, size) @ query - exact).max() < 5e-4


def test_what_has_a_route() -> None:
    fields = route_fields(np.array([0.6, -0.8], np.float32))
    assert fields[ROUTE] == [0.6, -0.8]
    assert len(fields[PACKED_ROUTE]) == 8
    assert has_route(fields) and has_route({PACKED_ROUTE: fields[PACKED_ROUTE]})
    assert not has_route({}) and not has_route({ROUTE: [], PACKED_ROUTE: ""}) and not has_route({PACKED_ROUTE: None})
    assert stored_routes([], 6).shape == (0, 6) and stored_routes([], 0).shape == (0, 0)


@pytest.mark.parametrize(
    ("packed", "words"),
    [
        (base64.b64encode(np.ones(4, "<f2").tobytes()).decode(), "4 numbers, where the model has 3"),
        (base64.b64encode(b"123").decode(), "1.5 numbers"),
        ("A", "damaged routing vector"),
        (7, "damaged routing vector"),
        ([1.0, 0.0, 0.0], "damaged routing vector"),
        ("é", "damaged routing vector"),
    ],
)
def test_what_is_no_route_is_refused(packed: object, words: str) -> None:
    with pytest.raises(StoreError, match=words) as error:
        stored_routes([route_fields(np.ones(3, np.float32)), {PACKED_ROUTE: packed}], 3)
    assert "Index the files again" in error.value.hint
