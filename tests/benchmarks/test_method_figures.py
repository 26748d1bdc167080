"""The experiment's figures, on made-up runs whose answers are known."""

from __future__ import annotations

from pathlib import Path

import ablations
import bootstrap
import conflict
import numpy as np
import pytest
import runs
import variants

from helpers import made_up
from tsembed_search.evaluation.results import TaskScores

SEEDS = (0, 1, 2)


def test_a_clear_difference_excludes_zero_and_none_does_not() -> None:
    low, high = ({seed: made_up.tests_of(hit, seed) for seed in SEEDS} for hit in (0.4, 0.6))
    found = variants.differences(low, high)[variants.MEAN]["hit@1"]
    assert found["mean"] == pytest.approx(0.2) and found["seeds"] == pytest.approx([0.2] * 3)
    assert 0.1 < found["low"] < 0.2 < found["high"] < 0.3
    assert variants.differences(high, low)[variants.MEAN]["hit@1"]["high"] < 0
    same = variants.differences(low, low)[variants.MEAN]["hit@1"]
    assert (same["mean"], same["low"], same["high"]) == (0, 0, 0)


def test_seeds_that_disagree_widen_the_interval_over_what_queries_say() -> None:
    """The same mean gain of 0.05 on 2,000 queries a task: every seed's own, or one seed's 0.15."""
    base = {seed: made_up.tests_of(0.4, 0, 2000) for seed in SEEDS}
    steady = {seed: made_up.tests_of(0.45, 0, 2000) for seed in SEEDS}
    lucky = {0: made_up.tests_of(0.55, 0, 2000), 1: base[1], 2: base[2]}
    sure, unsure = (variants.differences(base, each)[variants.MEAN]["hit@1"] for each in (steady, lucky))
    assert sure["mean"] == pytest.approx(unsure["mean"]) == pytest.approx(0.05)
    assert sure["low"] > 0.03
    assert unsure["low"] < 0


def test_draws_of_seeds_have_the_variance_of_their_mean() -> None:
    values = np.asarray([0.0, 0.1, 0.5])
    task = bootstrap.Paired("passage", "retrieval", True, np.tile(values[None, :, None], (50, 1, 2)))
    found = bootstrap.difference([[task]])
    wanted = values.std(ddof=1) / 3**0.5  # every query says the same, so that only seeds vary
    assert found.mean == pytest.approx(0.2)
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(wanted, rel=0.15)


def test_differences_are_of_queries_that_both_have_in_whatever_order() -> None:
    values = np.asarray([[1.0, 1.0], [0.0, 0.0], [1.0, 1.0]])
    first = TaskScores("passage", "retrieval", "in", 0, np.asarray([5, 3, 9]), values)
    second = TaskScores("passage", "retrieval", "in", 0, np.asarray([9, 7, 5]), np.zeros((3, 2)))
    (found,) = bootstrap.paired({0: [first]}, {0: [second]})
    assert found.values[:, 0, 0].tolist() == [-1, -1]
    assert bootstrap.paired({0: [first]}, {1: [second]}) == []


def test_meta_tasks_count_alike_whatever_their_tasks() -> None:
    tasks = made_up.tests_of(0.0)
    tasks[1].values[:] = 1  # passage, one of two retrieval tasks
    found = variants.figures({0: tasks})
    assert found["groups"]["retrieval"]["hit@1"] == {"mean": 0.5, "deviation": None, "seeds": [0.5]}
    assert found["groups"][variants.MEAN]["hit@1"]["mean"] == pytest.approx(0.5 / 3)
    two = variants.figures({0: tasks, 1: made_up.tests_of(0.0)})["groups"]["retrieval"]["hit@1"]
    assert two["mean"] == 0.25 and two["deviation"] == pytest.approx(0.5 / 2**0.5)


def test_variants_are_read_from_folders_and_missing_ones_are_named(tmp_path: Path) -> None:
    for name, hit in (("lora", 0.4), ("tsembed", 0.6)):
        for seed in (0, 7):
            made_up.write_log(tmp_path / f"variants/{name}-{seed}", {"passage": 0.5})
            made_up.write_test(tmp_path / f"variants/{name}-{seed}", made_up.tests_of(hit, seed))
    made_up.write_log(tmp_path / "variants/moe-0", {"passage": 0.5}, ended=False)
    found = variants.table(tmp_path)
    assert list(found["figures"]) == ["lora", "tsembed"] and found["figures"]["lora"]["seeds"] == [0, 7]
    assert found["figures"]["lora"]["groups"][variants.UNSEEN]["recall@10"]["mean"] == 0.5
    assert found["differences"]["tsembed"][variants.MEAN]["hit@1"]["low"] > 0
    assert not found["tasks"]["unseen_stamps"]["seen"]
    assert "variants/moe-0" in found["missing"] and "variants/lora-0" not in found["missing"]


def test_nothing_at_all_is_said_to_be_missing(tmp_path: Path) -> None:
    found = variants.table(tmp_path)
    assert found["figures"] == {} and len(found["missing"]) >= 18
    assert ablations.table(tmp_path)["rows"] == []
    assert conflict.table(tmp_path)["drop"]["metas"] == {}


def test_ablations_stand_beside_the_method_of_their_seed(tmp_path: Path) -> None:
    made_up.write_log(tmp_path / "variants/targets-0", {"passage": 0.5, "gloss": 0.5, "clothing": 0.5})
    made_up.write_log(tmp_path / "ablations/beta-6-0", {"passage": 0.5, "gloss": 0.9, "clothing": 0.5})
    made_up.write_log(tmp_path / "ablations/token-level-0", {"passage": 0.5}, ended=False)
    found = ablations.table(tmp_path)
    base, row = found["rows"]
    assert base["name"] == "the whole method" and base["hit@1"] == 0.5
    assert row["name"] == "beta=6" and row["metas"]["retrieval"] == pytest.approx(0.7)
    assert row["difference"] == pytest.approx(0.1)
    assert row["error"] == pytest.approx(((0.25 + 0.09) / 100 / 16 + 0.25 / 100 / 4) ** 0.5)
    assert row["routing_entropy"] == 0.5 and row["kappa_cosine_correlation"] is None
    assert "ablations/token-level-0" in found["missing"] and "ablations/beta-6-0" not in found["missing"]


def test_the_drop_is_what_a_joint_adapter_loses_on_a_meta_task() -> None:
    tests = {
        "retrieval": {0: made_up.tests_of(0.6)},
        "grounding": {0: made_up.tests_of(0.5)},
        "joint": {0: made_up.tests_of(0.4)},
    }
    found = conflict.drop(tests)
    assert found["metas"]["retrieval"]["isolated"]["hit@1"] == pytest.approx(0.6)
    assert found["metas"]["retrieval"]["joint"]["hit@1"] == pytest.approx(0.4)
    assert found["metas"]["retrieval"]["differences"]["joint"]["hit@1"]["high"] < 0
    assert found["mean of meta-tasks"]["joint"]["hit@1"]["mean"] == pytest.approx(-0.15)
    assert "classification" not in found["metas"] and "joint-experts" not in found["mean of meta-tasks"]


def test_gradients_are_summed_up_within_and_between_meta_tasks(tmp_path: Path) -> None:
    made_up.write_log(tmp_path / "variants/lora-0", {"passage": 0.5, "gloss": 0.5, "clothing": 0.5})
    found = conflict.gradients(tmp_path)["lora-0"]
    assert found["within"] == -0.5 and found["between"] == -0.5 and found["share_opposed"] == 1
    assert found["metas"] == ["retrieval", "retrieval", "classification"]


def test_a_run_that_was_interrupted_has_no_figures(tmp_path: Path) -> None:
    made_up.write_log(tmp_path, {"passage": 0.5}, ended=False)
    assert runs.validated(runs.records(tmp_path)) is None
    made_up.write_log(tmp_path, {"passage": 0.5})
    found = runs.validated(runs.records(tmp_path))
    assert found is not None and found["step"] == 2
