"""What docs/model.md shows in Python runs as it stands, and its table of settings is whole."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from tsembed_search.model.embedder import Embedder
from tsembed_search.model.expert_settings import AdapterSettings

PAGE = (Path(__file__).parents[2] / "docs/model.md").read_text("utf-8")


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
        exec(compile(block, "model.md", "exec"), names)
    before, after = (Embedder.load(str(tmp_path / name), "cpu").info for name in ("my-adapter", "my-trained"))
    assert before.routes == after.routes == (6, 4)
    assert before.fingerprint != after.fingerprint


def test_every_setting_is_explained_with_its_default() -> None:
    rows = re.findall(r"^\| (`[^|]+) \| [^|]+ \| ([^|]+) \|$", PAGE, flags=re.MULTILINE)
    named = {name: default for names, default in rows for name in re.findall(r"`([^`]+)`", names)}
    own = {field.name: field.default for field in fields(AdapterSettings) if field.name != "dropout"}
    assert set(named) >= own.keys()
    for name in ("experts", "level", "temperature", "tokens"):
        assert named[name].strip("`") == str(own[name])
