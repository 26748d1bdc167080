from __future__ import annotations

from collections.abc import Iterator

import pytest
from indexing import Indexing, fast_folder


@pytest.fixture
def indexing() -> Iterator[Indexing]:
    with fast_folder() as folder:
        yield Indexing(folder)
