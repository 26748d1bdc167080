"""GradCache: in pieces as at once, with dropout, router noise and a loss that uses all that is routed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tsembed_search.items import Item
from tsembed_search.model.backbone import Prepared, Trainable
from tsembed_search.model.expert_settings import AdapterSettings
from tsembed_search.model.routing import Traced
from tsembed_search.trainer import gradcache
from tsembed_search.trainer.losses.base import POSITIVE, QUERY, Shape, label, labels, pack
from tsembed_search.trainer.objective import Objective
from tsembed_search.trainer.settings import LossSettings, NegativeSettings, Recipe

pytestmark = pytest.mark.usefixtures("small_base")

Make = Callable[[AdapterSettings], Trainable]
WORDS = "red apple on a wooden table by the sea where two old dogs sleep".split()
TEXTS = [" ".join(random.Random(at).choices(WORDS, k=1 + at * 5 % 11)) for at in range(16)]
SHAPE = Shape(384, 2, 4)
LABELS = labels([label(QUERY if at < 8 else POSITIVE, Item(f"{at}"), 0, str(at % 8)) for at in range(16)])


def objective() -> Objective:
    return Objective(LossSettings(temperature=0.2, balance=0.5, z=0.1), NegativeSettings("eans", 2.0), SHAPE)


def loss_over(objective: Objective, stage: int = 2) -> Callable[[Tensor], Tensor]:
    """The whole method, and more: a term on routes themselves, so that every column has a gradient."""

    def loss(packed: Tensor) -> Tensor:
        outcome = objective(packed, LABELS, stage, 0)
        routes = packed[:, SHAPE.dim : SHAPE.dim + 24]
        return outcome.total + (routes[:8] - routes[8:]).square().sum()

    return loss


def gradients(
    backbone: Trainable,
    tokens: int,
    precision: Callable[[], AbstractContextManager[object]] = nullcontext,
    trace: Callable[[Sequence[Prepared]], Traced] | None = None,
) -> list[Tensor]:
    assert backbone.adapters is not None
    prepared = [backbone.prepare(Item(text)) for text in TEXTS]
    parameters = [*backbone.adapters.expert_parameters(), *backbone.adapters.router_parameters()]
    for parameter in parameters:
        parameter.grad = None
    torch.manual_seed(1)
    gradcache.backward(
        trace or backbone.trace, prepared, loss_over(objective()), tokens, torch.device("cpu"), precision
    )
    found = [parameter.grad for parameter in parameters]
    return [gradient.clone() for gradient in found if gradient is not None]


def close(ours: list[Tensor], expected: list[Tensor], tolerance: float = 1e-4) -> None:
    assert len(ours) == len(expected) > 0
    for gradient, other in zip(ours, expected, strict=True):
        assert (gradient - other).abs().max() <= tolerance * max(float(other.abs().max()), 1e-3)


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("tokens", [1, 40])
def test_equals_the_full_batch(level: str, tokens: int, adapted: Make) -> None:
    backbone = adapted(replace(Recipe().adapter, level=level, rank=2, dropout=0, noise=0))  # type: ignore[arg-type]
    backbone.train()
    whole = gradients(backbone, 10_000)
    close(whole, with_graphs(backbone, 10_000))
    close(gradients(backbone, tokens), whole)


@pytest.mark.parametrize(("checkpointing", "amp"), [(False, False), (False, True), (True, False)])
def test_replays_dropout_and_noise(checkpointing: bool, amp: bool, adapted: Make) -> None:
    """Numbers drawn in pieces are others than those of one batch. So the reference embeds the same pieces, all of them
    with their graphs.
    """
    backbone = adapted(replace(Recipe().adapter, rank=2, dropout=0.3, noise=1.0))
    if checkpointing:
        backbone.enable_gradient_checkpointing()
    backbone.train()

    def precision() -> AbstractContextManager[object]:
        return torch.autocast("cpu", torch.bfloat16) if amp else nullcontext()

    ours = gradients(backbone, 40, precision)
    again = gradients(backbone, 40, precision)
    assert all(torch.equal(one, other) for one, other in zip(ours, again, strict=True))
    expected = with_graphs(backbone, 40, precision)
    close(ours, expected)
    other = gradients(backbone, 41 * 4, precision)
    assert any(not torch.isclose(one, two, atol=1e-4).all() for one, two in zip(ours, other, strict=True))


def with_graphs(
    backbone: Trainable, tokens: int, precision: Callable[[], AbstractContextManager[object]] = nullcontext
) -> list[Tensor]:
    """The gradients when every piece keeps its graph."""
    from tsembed_search.model.embedder import batches

    assert backbone.adapters is not None
    prepared = [backbone.prepare(Item(text)) for text in TEXTS]
    parameters = [*backbone.adapters.expert_parameters(), *backbone.adapters.router_parameters()]
    for parameter in parameters:
        parameter.grad = None
    torch.manual_seed(1)
    parts, order = [], []
    for piece in batches(enumerate(prepared), tokens, len(prepared)):
        order += [place for place, _ in piece]
        with precision():
            parts.append(pack(backbone.trace([one for _, one in piece])))
    loss_over(objective())(torch.cat(parts)[torch.tensor(order).argsort()]).backward()
    return [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]


def test_leaves_the_generators_where_one_pass_would(adapted: Make) -> None:
    """What is drawn after a step does not repeat what was drawn in it."""
    backbone = adapted(replace(Recipe().adapter, rank=2, dropout=0.3))
    backbone.train()
    gradients(backbone, 40)
    after = torch.rand(3)
    torch.manual_seed(1)
    with_graphs(backbone, 40)
    assert torch.equal(torch.rand(3), after)


def test_no_more_than_one_piece_has_a_graph(adapted: Make) -> None:
    """Memory stays flat: pieces are at most as long as the budget, and all but one run without gradients at first."""
    backbone = adapted(replace(Recipe().adapter, rank=2))
    backbone.train()
    seen: list[tuple[bool, int]] = []

    def trace(batch: Sequence[Prepared]) -> Traced:
        seen.append((torch.is_grad_enabled(), len(batch) * max(one.tokens for one in batch)))
        return backbone.trace(batch)

    gradients(backbone, 40, trace=trace)
    pieces = (len(seen) + 1) // 2
    assert pieces > 2
    assert [enabled for enabled, _ in seen] == [False] * (pieces - 1) + [True] * pieces
    assert max(tokens for _, tokens in seen) <= 40
