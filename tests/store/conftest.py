"""Fixtures of the store's tests."""

from __future__ import annotations

import pytest

from helpers.store_points import make_points
from tsembed_search.store.base import Point


@pytest.fixture(scope="session")
def points() -> list[Point]:
    return make_points(250)
