"""What the experiment reads out of trained models: changes of weights, paths, what experts are used for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import deltas
import numpy as np
import paths
import pytest
import specialisation
from deltas import Change
from numpy.typing import NDArray

from tsembed_search.trainer import state

EXPERTS, TASKS, EACH = 4, 4, 50


Floats = NDArray[np.float64]


def tensors(seed: int, rank: int = 3) -> dict[str, Floats]:
    random = np.random.default_rng(seed)
    return {
        f"encoder.layer.{block}.{name}.lora_{side}.weight": random.normal(size=shape)
        for block in (0, 1, 10)
        for name in ("query", "dense")
        for side, shape in (("A", (rank, 20)), ("B", (30, rank)))
    }


def whole(change: Change) -> dict[str, Floats]:
    return {name: b @ a for name, (a, b) in change.pairs.items()}


def test_cosines_are_those_of_the_whole_matrices() -> None:
    one, other = Change.of(tensors(0), 2.0), Change.of(tensors(1, rank=5), 0.5)
    a, b = (np.concatenate([matrix.ravel() for matrix in whole(change).values()]) for change in (one, other))
    assert deltas.cosine(one, other) == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    assert deltas.product(one, one) == pytest.approx(a @ a)
    assert list(one.blocks()) == [0, 1, 10]
    by_block = deltas.cosines_by_block(one, Change.of({name: -t for name, t in tensors(0).items()}, 1.0))
    assert by_block == pytest.approx([1.0] * 3)  # both factors turned round
    turned = {name: -t if "lora_B" in name and ".10." in name else t for name, t in tensors(0).items()}
    assert deltas.cosines_by_block(one, Change.of(turned, 1.0)) == pytest.approx([1, 1, -1])


def test_a_change_of_nothing_has_no_cosine() -> None:
    zero = {name: t * ("lora_A" in name) for name, t in tensors(0).items()}
    assert deltas.cosine(Change.of(zero, 1.0), Change.of(tensors(1), 1.0)) is None


def test_sketches_keep_lengths_and_do_not_depend_on_the_factors() -> None:
    one, other = tensors(0), tensors(1)
    sketches = [deltas.sketch(Change.of(each, 1.0), 2000) for each in (one, other)]
    assert np.linalg.norm(sketches[0]) == pytest.approx(deltas.product(*[Change.of(one, 1.0)] * 2) ** 0.5, rel=0.1)
    doubled = {name: t * (2 if "lora_A" in name else 0.5) for name, t in one.items()}
    assert deltas.sketch(Change.of(doubled, 1.0), 2000) == pytest.approx(sketches[0])
    assert deltas.sketch(Change.of(one, 3.0), 2000) == pytest.approx(3 * sketches[0])


def test_a_recorder_notes_every_state_of_a_run(tmp_path: Path) -> None:
    import torch

    recorder = paths.Recorder(tmp_path, 2.0)
    for step in (10, 20, 20):  # a resumed run takes some steps again
        experts = {name: torch.from_numpy(each) for name, each in tensors(step).items()}
        folder = state.save(tmp_path, step, {f"adapters.experts.{name}": one for name, one in experts.items()}, {})
        recorder({"kind": "step", "step": step})
        recorder({"kind": "checkpoint", "step": step, "path": str(folder)})
    (tmp_path / paths.NAME).open("a").write('{"step": 30, "sk')
    found = paths.read(tmp_path)
    assert list(found) == [0, 10, 20] and not found[0].any()
    assert found[20] == pytest.approx(deltas.sketch(Change.of(tensors(20), 2.0), paths.WIDTH), rel=1e-4)
    assert paths.read(tmp_path / "none") == {}


def test_paths_are_drawn_on_the_directions_in_which_they_differ() -> None:
    points: NDArray[np.float64] = np.zeros((3, paths.WIDTH))
    points[1, 7], points[2, 7] = 1, 2
    found = paths.drawn({"one": dict(enumerate(points)), "other": dict(enumerate(-points))})
    assert found is not None and found["share"] == pytest.approx(1)
    ends = [found["paths"][name][-1] for name in ("one", "other")]
    assert abs(ends[0][1] - ends[1][1]) == pytest.approx(4) and [end[0] for end in ends] == [2, 2]
    assert paths.drawn({}) is None


def one_hot(experts: NDArray[np.int64]) -> NDArray[np.float64]:
    """`[N, 2, E]`: both blocks alike."""
    return np.repeat(np.eye(EXPERTS)[experts][:, None], 2, axis=1)


LABELS = np.repeat(np.arange(TASKS), EACH)


def test_an_expert_for_each_task_tells_all_there_is_to_tell() -> None:
    found = specialisation.routing(one_hot(LABELS), LABELS, np.zeros_like(LABELS))
    assert found["task_bits"] == pytest.approx(np.log2(EXPERTS), abs=0.05)  # less what chance would tell
    assert found["kind_bits"] == 0 and found["task_bits_within_kind"] == pytest.approx(found["task_bits"])
    assert found["entropy"] == 0 and found["dead"] == 0


def test_random_experts_tell_nothing_and_few_experts_leave_dead_ones() -> None:
    random = np.random.default_rng(3).integers(0, EXPERTS, len(LABELS))
    assert abs(specialisation.information(one_hot(random), LABELS)).max() < 0.1
    found = specialisation.routing(one_hot(np.zeros_like(LABELS)), LABELS, LABELS)
    assert found["task_bits"] == 0 and found["dead"] == 2 * (EXPERTS - 1)
    uniform = specialisation.routing(np.full((len(LABELS), 2, EXPERTS), 1 / EXPERTS), LABELS, LABELS)
    assert uniform["entropy"] == pytest.approx(1)


def test_experts_by_kind_of_item_tell_nothing_of_tasks_within_a_kind() -> None:
    kinds = LABELS // 2
    found = specialisation.routing(one_hot(kinds), LABELS, kinds)
    assert found["kind_bits"] == pytest.approx(1, abs=0.05) and found["task_bits"] == pytest.approx(1, abs=0.05)
    assert found["task_bits_within_kind"] == pytest.approx(0, abs=0.05)


def test_area_and_correlation() -> None:
    up = np.asarray([1.0, 2, 3])
    assert specialisation.area(up + 10, up) == 1 and specialisation.area(up, up + 10) == 0
    assert specialisation.area(up, up) == 0.5
    assert specialisation.correlation(up, -up) == pytest.approx(-1)
    assert specialisation.correlation(up, np.ones(3)) is None


def embedded() -> specialisation.Embedded:
    """Two tasks of thirty pairs; routes equal vectors, and right ones are alike."""
    random = np.random.default_rng(0)
    made = random.normal(size=(60, 8))
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    gates = random.dirichlet(np.ones(EXPERTS), size=(60, 2))
    tasks, kinds = np.repeat([0, 1], 30), np.zeros(60, dtype=np.int64)
    return specialisation.Embedded(
        (made, made), (gates, gates), (made, made), tasks, (kinds, kinds), np.eye(60, dtype=bool), ("one", "two")
    )


def test_kappa_that_is_cosine_says_so() -> None:
    found = specialisation.figures(embedded())["kappa"]
    assert found["auc"] == found["cosine_auc"] == found["auc_all"] == 1
    assert found["correlation_within"] == pytest.approx(1) and found["within"] > 0.2
    assert found["hard_auc"] == found["hard_auc_target"] == 1
    json.dumps(found, allow_nan=False)


def test_hard_negatives_are_told_by_the_targets_experts_alone() -> None:
    given = embedded()
    chance = np.random.default_rng(1).normal(size=given.routes[0].shape)
    found = specialisation.kappa(replace(given, routes=(chance, given.routes[1])))
    assert found["hard_auc_target"] == 1 and 0.3 < found["hard_auc"] < 0.7


def test_kappa_that_does_not_vary_inside_a_task_tells_nothing_there() -> None:
    given = embedded()
    signs = np.where(given.tasks == 0, 1.0, -1.0)[:, None] * np.eye(8)[:1]
    found = specialisation.kappa(replace(given, routes=(signs, signs)))
    assert found["within"] == 0 and found["correlation_within"] is None and found["auc"] == 0.5
    assert found["across"] == 0 and found["auc_all"] > 0.7
    assert found["hard_auc"] == found["hard_auc_target"] == 0.5


def test_cost_counts_what_is_kept() -> None:
    import torch
    from cost import kept, latencies

    from tsembed_search.model.expert_settings import AdapterSettings
    from tsembed_search.model.moe_lora import attach

    def bytes_of(rank: int) -> int:
        model: Any = torch.nn.ModuleDict({"layers": torch.nn.ModuleList([torch.nn.ModuleDict()])})
        model["layers"][0]["q_proj"] = torch.nn.Linear(16, 16)
        adapters = attach(model, AdapterSettings(2, rank=rank), "layers")
        return kept(lambda: model["layers"][0]["q_proj"](torch.ones(3, 5, 16)), model, adapters)

    # A x is kept twice, before and after the gate: 3 items of 5 tokens, 2 experts, float32; and each item's gate once
    assert bytes_of(8) - bytes_of(4) >= 2 * 3 * 5 * 2 * 4 * 4
    assert bytes_of(8) < 2 * bytes_of(4)
    assert latencies({(1, 1): lambda: sum(range(1000)), (2, 1): lambda: None}, (1, 1), 3)[(1, 1)] == 1
