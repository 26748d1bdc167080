"""Bootstrap intervals."""

from __future__ import annotations

import numpy as np

from tsembed_search.ranking.metrics import Estimate, estimates, means_of_draws, over_tasks


def interval(values: np.ndarray, name: str = "task") -> Estimate:
    return estimates(values.mean(axis=0), means_of_draws(values, name))[0]


def test_width_is_that_of_the_normal_approximation() -> None:
    values = (np.random.default_rng(0).random((400, 1)) < 0.3).astype(float)
    found = interval(values)
    error = values.std() / 20
    assert found.mean == values.mean()
    assert abs((found.mean - found.low) / (1.96 * error) - 1) < 0.1
    assert abs((found.high - found.mean) / (1.96 * error) - 1) < 0.1


def test_draws_repeat_and_belong_to_the_task() -> None:
    values = np.random.default_rng(0).random((50, 2))
    np.testing.assert_array_equal(means_of_draws(values, "a", 20), means_of_draws(values, "a", 20))
    assert not np.array_equal(means_of_draws(values, "a", 20), means_of_draws(values, "b", 20))
    # the same queries for both models: draws of the difference are differences of draws
    other = values[:, ::-1] * 0.5
    difference = means_of_draws(values, "a", 20) - means_of_draws(other, "a", 20)
    np.testing.assert_allclose(means_of_draws(values - other, "a", 20), difference, atol=1e-12)


def test_blocks_of_draws_do_not_repeat_each_other() -> None:
    values = np.random.default_rng(0).random((3, 1))
    assert len(np.unique(means_of_draws(values, "a", 500).round(9))) > 5


def test_pairing_sees_a_small_constant_gain_that_unpaired_intervals_hide() -> None:
    random = np.random.default_rng(0)
    first = random.random((100, 1))
    second = first + 0.02 + 0.01 * random.standard_normal((100, 1))
    assert interval(first).high > interval(second).low
    assert interval(second - first).excludes_zero
    assert not interval(random.standard_normal((100, 1))).excludes_zero


def test_tasks_count_alike() -> None:
    large, small = np.ones((1000, 1)), np.zeros((10, 1))
    assert over_tasks([large, small], ["large", "small"])[0] == Estimate(0.5, 0.5, 0.5)


def test_one_query_gives_an_interval_of_no_width() -> None:
    assert interval(np.array([[0.25]])) == Estimate(0.25, 0.25, 0.25)
