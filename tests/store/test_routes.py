"""Routes in payloads: the list and its packed form say the same, and what is neither is refused."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsembed_search.errors import StoreError
from tsembed_search.store.schema import LIST, PACKED, has_route, route_fields, stored_routes


@given(seed=st.integers(0, 1000), size=st.sampled_from([1, 6, 48, 224, 896]), sparse=st.booleans())
def test_both_forms_give_the_same_kappa(seed: int, size: int, sparse: bool) -> None:
    rng = np.random.default_rng(seed)
    routes = rng.standard_normal((3, size)) ** (9 if sparse else 1)  # one with a few large numbers, many tiny ones
    query, *items = (routes / np.linalg.norm(routes, axis=1, keepdims=True)).astype(np.float32)
    fields = [json.loads(json.dumps(route_fields(item))) for item in items]
    exact = np.stack(items) @ query
    for form, allowed in ((LIST, 2e-5), (PACKED, 5e-4)):
        kappas = stored_routes([{form: each[form]} for each in fields], size) @ query
        assert np.abs(kappas - exact).max() < allowed
    assert np.array_equal(stored_routes(fields, size), stored_routes([{PACKED: each[PACKED]} for each in fields], size))


def test_what_has_a_route() -> None:
    fields = route_fields(np.array([0.6, -0.8], np.float32))
    assert fields[LIST] == [0.6, -0.8]
    assert len(fields[PACKED]) == 8
    assert has_route(fields) and has_route({LIST: [1.0]}) and has_route({PACKED: fields[PACKED]})
    assert not has_route({}) and not has_route({LIST: []}) and not has_route({LIST: None, PACKED: ""})
    assert stored_routes([], 6).shape == (0, 6)


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ({LIST: [1.0, 0.0]}, "2 numbers, where the model has 3"),
        ({PACKED: base64.b64encode(np.ones(4, "<f2").tobytes()).decode()}, "4 numbers, where the model has 3"),
        ({LIST: ["a", "b", "c"]}, "damaged routing vector"),
        ({LIST: [[1.0], [2.0, 3.0], 1.0]}, "damaged routing vector"),
        ({LIST: 7}, "0 numbers, where the model has 3"),
        ({LIST: {"a": 1}}, "damaged routing vector"),
        ({PACKED: "A"}, "damaged routing vector"),
        ({PACKED: base64.b64encode(b"123").decode()}, "1.5 numbers"),
        ({PACKED: 7}, "damaged routing vector"),
        ({PACKED: "é"}, "damaged routing vector"),
    ],
)
def test_what_is_no_route_is_refused(payload: dict, words: str) -> None:
    with pytest.raises(StoreError, match=words) as error:
        stored_routes([route_fields(np.ones(3, np.float32)), payload], 3)
    assert "Index again" in error.value.hint
