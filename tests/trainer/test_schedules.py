"""When things happen: rates, stages; and what is measured at the end."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tsembed_search.items import Embeddings
from tsembed_search.trainer.diagnostics import TRIED, route_weight
from tsembed_search.trainer.optimizer import learning_rate
from tsembed_search.trainer.schedule import StageSchedule
from tsembed_search.trainer.settings import OptimizerSettings, StageSettings
from tsembed_search.trainer.validation import Ranking, score


class TestSchedule:
    @pytest.mark.parametrize("kind", ["linear", "cosine", "constant"])
    def test_up_then_down(self, kind: str) -> None:
        rates = [learning_rate(OptimizerSettings(schedule=kind, warmup=10), step, 100) for step in range(1, 101)]  # type: ignore[arg-type]
        assert rates[:10] == sorted(rates[:10]) and rates[0] > 0
        assert rates[10] == max(rates) == pytest.approx(1)
        assert rates[10:] == sorted(rates[10:], reverse=True)
        assert (rates[-1] == 1) if kind == "constant" else (0 < rates[-1] < 0.02)

    def test_warmup_as_a_share_and_as_a_number(self) -> None:
        share, number = (OptimizerSettings(warmup=warmup) for warmup in (0.25, 10))
        for step in range(1, 41):
            assert learning_rate(share, step, 40) == learning_rate(number, step, 40)
        assert learning_rate(OptimizerSettings(warmup=100), 1, 1) == 1, (
            "a run shorter than its warm-up has a step at the full rate"
        )


class TestStages:
    def test_by_share(self) -> None:
        for share, first in ((0.0, 1), (0.3, 4), (0.5, 6), (1.0, None)):
            switch = StageSchedule(StageSettings(share), 10)
            stages = [switch.stage(step) for step in range(1, 11)]
            assert stages == [1] * ((first or 11) - 1) + [2] * (11 - (first or 11))
            assert switch.at == first

    def test_when_entropy_has_settled(self) -> None:
        switch = StageSchedule(StageSettings("auto", latest=0.9), 400)
        entropies = [max(0.5, 1 - step / 100) for step in range(400)]
        stages = []
        for step, entropy in enumerate(entropies, 1):
            stages.append(switch.stage(step))
            switch.observe(entropy)
        assert stages == sorted(stages)
        assert switch.at is not None and 60 < switch.at < 100 and "settled at 0.5" in switch.reason

    def test_at_the_latest(self) -> None:
        switch = StageSchedule(StageSettings("auto", latest=0.5), 100)
        for step in range(1, 101):
            switch.stage(step)
            switch.observe(step / 100)
        assert switch.at == 51 and "not settled" in switch.reason

    def test_going_on(self) -> None:
        whole, resumed = (StageSchedule(StageSettings("auto"), 400) for _ in range(2))
        for step in range(1, 200):
            whole.stage(step)
            whole.observe(0.5)
            if step == 30:
                resumed.load_state_dict(whole.state_dict())
            if step > 30:
                resumed.stage(step)
                resumed.observe(0.5)
        assert resumed.state_dict() == whole.state_dict() and whole.at == 41

    def test_routers_slow_down(self) -> None:
        switch = StageSchedule(StageSettings(0.5, router_factor=0.2), 10)
        assert (switch.router_factor(1), switch.router_factor(2)) == (1, 0.2)


def unit(*shape: int, seed: int) -> Tensor:
    return functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def ranking(good_routes: bool, queries: int = 60) -> Ranking:
    """Vectors that hint at the right candidate, and routes that know it, or know nothing."""
    targets = unit(queries, 16, seed=1)
    vectors = functional.normalize(targets + 1.5 * unit(queries, 16, seed=2), dim=-1)
    known = torch.rand(queries, 12, generator=torch.Generator().manual_seed(3))
    other = torch.rand(queries, 12, generator=torch.Generator().manual_seed(4))
    routes = known if good_routes else other
    asked, found = (Embeddings(*(each.numpy() for each in pair)) for pair in ((vectors, routes), (targets, known)))
    return Ranking("", asked, found, [frozenset({row}) for row in range(queries)])


class TestCalibration:
    def test_a_weight_where_routes_know_something(self) -> None:
        useful, useless = ({"one": ranking(kind)} for kind in (True, False))
        found, nothing = (route_weight(rankings, torch.full((12,), 0.5)) for rankings in (useful, useless))
        assert found is not None and nothing is not None
        assert found.weight > 0.1 and nothing.weight == 0 and found.queries == 60
        assert [weight for weight, _ in found.curve] == list(TRIED) and max(TRIED) == 0.6
        assert max(mrr for _, mrr in found.curve) == dict(found.curve)[found.weight]

    def test_nothing_to_measure_on(self) -> None:
        assert route_weight({}, torch.zeros(12)) is None

    def test_a_query_is_not_ranked_against_itself(self) -> None:
        same = Embeddings(np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32))
        right = [frozenset({row}) for row in range(3)]
        assert score(Ranking("vqa", same, same, right)) == {"meta": "vqa", "hit@1": 1.0, "mrr": 1.0, "n": 3}
        next_ones = [frozenset({(row + 1) % 3}) for row in range(3)]
        assert score(Ranking("vqa", same, same, next_ones))["mrr"] == pytest.approx(1 / 3), "ties count against it"
        assert score(Ranking("vqa", same, same, next_ones, right))["mrr"] == pytest.approx(1 / 2)
