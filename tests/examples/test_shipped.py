"""The script behind the model that ships: a share of the projector's change is kept, and the result says all of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import train as shipped
from safetensors.torch import load_file

from tsembed_search.data.rows import RankingTask
from tsembed_search.items import Item
from tsembed_search.model import checkpoint, loading, registry
from tsembed_search.model.embedder import Embedder
from tsembed_search.model.expert_settings import AdapterSettings
from tsembed_search.trainer import recipe


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A checkpoint whose projector has moved."""
    ref = registry.resolve(shipped.BASE)
    backbone: Any = loading.load(ref, "cpu")
    torch.manual_seed(0)
    adapters = backbone.adapt(AdapterSettings(experts=2, rank=1, projector=True))
    with torch.no_grad():
        for tensor in adapters.projector_parameters():
            tensor.normal_(std=0.01)
    return checkpoint.save(tmp_path / "trained", backbone, ref, route_weight=0.1, data={"tasks": [{"name": "one"}]})


def test_the_share_that_finds_most_is_kept(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = [RankingTask("words", "retrieval", [Item("a")], [Item("a"), Item("b")], [frozenset({0})])]
    whole = load_file(trained / checkpoint.PROJECTOR)
    length = whole["part.weight"].norm()

    def measured(embedder: Embedder, given: object) -> float:
        assert given is tasks
        share = float(embedder.backbone.adapters.projector_state()["part.weight"].norm() / length)  # type: ignore[attr-defined]
        return -abs(share - 0.42)

    monkeypatch.setattr(shipped, "measured", measured)
    assert shipped.with_share(trained, tasks, tmp_path / "kept") == 0.4
    for name, tensor in load_file(tmp_path / "kept" / checkpoint.PROJECTOR).items():
        assert torch.allclose(tensor, 0.4 * whole[name])
    assert checkpoint.read(tmp_path / "kept").recipe["projector_share"] == 0.4


def test_figures_are_means_of_both_recalls() -> None:
    items = [Item("red"), Item("a treaty on fishing")]
    task = RankingTask("words", "retrieval", items, items, [frozenset({0}), frozenset({1})])
    assert shipped.measured(Embedder.load(shipped.BASE, "cpu"), [task]) == 1.0


def test_what_ships_says_how_it_was_made_and_nothing_of_where(trained: Path, tmp_path: Path) -> None:
    shipped.finished(trained, trained, tmp_path / "mini", 7, {"before": 0.1, "after": 0.2})
    said = checkpoint.read(tmp_path / "mini")
    assert said.base.name == shipped.BASE and said.route_weight == 0
    assert said.recipe["seed"] == 7 and said.metrics["unseen_validation"] == {"before": 0.1, "after": 0.2}
    assert registry.resolve(tmp_path / "mini").fingerprint == registry.resolve(trained).fingerprint
    for file in tmp_path.glob("mini/*.*"):
        assert str(tmp_path).encode() not in file.read_bytes()


def test_the_model_in_the_package_is_what_its_recipes_say() -> None:
    folder = registry.resolve("mini").folder
    assert folder is not None
    said = checkpoint.read(folder)
    for half, name in (("eyes", "mini-eyes"), ("experts", "mini")):
        wanted = json.loads(json.dumps(recipe.to_json(recipe.load(str(shipped.HERE / f"{name}.toml")))))
        for table in ("loss", "optimizer", "batch", "stages", "negatives"):
            recorded = said.recipe[half][table]
            assert recorded == {key: wanted[table][key] for key in recorded}, (
                f"{name} has changed since mini was made: make mini"
            )
    assert said.calibration is not None and said.calibration.lines
    assert said.route_weight == 0 and (folder / checkpoint.CARD).read_text("utf-8") == shipped._CARD
    assert sum(file.stat().st_size for file in folder.iterdir()) < 25 << 20
