"""What holds for all tests: those that need a device that is not there are skipped, and none touches a user's data."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# Benchmarks and the factory of mini are scripts that import one another by their file names. They come last, so that
# none hides a package.
ROOT = Path(__file__).parents[1]
sys.path += [str(ROOT / "benchmarks"), str(ROOT / "benchmarks" / "method"), str(ROOT / "examples" / "mini")]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips `gpu` tests on a machine without CUDA."""
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    home: Path = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("TSEMBED_HOME", str(home))
