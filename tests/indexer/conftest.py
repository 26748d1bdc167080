from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from indexing import Indexing


@pytest.fixture
def indexing() -> Iterator[Indexing]:
    """An index in memory where the system has a folder there: the engine waits for the disk at each opening."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Indexing(Path(folder))
