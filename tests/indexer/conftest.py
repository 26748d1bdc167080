from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from indexing import Indexing


@pytest.fixture
def indexing(tmp_path: Path) -> Indexing:
    return Indexing(tmp_path)
