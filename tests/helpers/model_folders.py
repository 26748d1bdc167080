"""Folders of models, and a cache of the hub, to be changed by tests."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Folders = Callable[[str], Path]


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def put_in_cache(cache: Path, name: str, folder: Path, revision: str = "main") -> Path:
    """Lays a model out as the hub's own client does."""
    home = cache / f"models--{name.replace('/', '--')}"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / revision).write_text(commit)
    return shutil.copytree(folder, home / "snapshots" / commit)


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def image_processor(folder: Path) -> Any:
    """transformers' own image processor for a folder, the one that needs no torchvision."""
    import transformers

    settings = json.loads((folder / "preprocessor_config.json").read_text())
    name = settings["image_processor_type"]
    # Its name ends in Pil in all but the first versions 5.
    return getattr(transformers, f"{name}Pil", getattr(transformers, name)).from_pretrained(folder)
