"""Losses and routing vectors, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from tsembed_search.model.expert_settings import RouterSettings
from tsembed_search.model.routing import Gates, Router, Trace, centred, counted_tokens, load_balance


def test_load_balance() -> None:
    even = torch.full((6, 2, 3), 1 / 3)
    each_once = torch.eye(3).repeat(2, 1).unsqueeze(1).expand(6, 2, 3)
    assert load_balance(even, each_once).item() == pytest.approx(1)
    assert load_balance(each_once, each_once).item() == pytest.approx(1)
    always_first = torch.tensor([1.0, 0, 0]).expand(6, 2, 3)
    assert load_balance(always_first, always_first).item() == pytest.approx(3)
    probabilities, choices = torch.tensor([[[0.7, 0.3]], [[0.2, 0.8]]]), torch.tensor([[[1.0, 0]], [[1.0, 0]]])
    assert load_balance(probabilities, choices).item() == pytest.approx(2 * 0.45)


def test_trace_of_tokens() -> None:
    probabilities = torch.tensor([[[0.9, 0.1], [0.4, 0.6], [0.5, 0.5]]])
    logits = torch.tensor([[[1.0, 2.0], [0.0, 0.0], [9.0, 9.0]]])
    share = torch.tensor([[0.5, 0.5, 0.0]])  # the third token is padding
    trace = Trace(share, share, losses=True)
    trace.add(0, Gates(probabilities, probabilities, logits))
    found = trace.finished(torch.zeros(1, 3))
    torch.testing.assert_close(found.routes, torch.tensor([[0.65, 0.35]]))
    torch.testing.assert_close(found.choices, torch.tensor([[[0.5, 0.5]]]))
    torch.testing.assert_close(found.probabilities, torch.tensor([[[0.65, 0.35]]]))
    assert load_balance(found.probabilities, found.choices).item() == pytest.approx(2 * (0.65 * 0.5 + 0.35 * 0.5))
    squares = [math.log(math.exp(1) + math.exp(2)) ** 2, math.log(2) ** 2]
    assert found.z.item() == pytest.approx(sum(squares) / 2)


def test_trace_of_sequences() -> None:
    gates = torch.tensor([[[0.9, 0.1]], [[0.3, 0.7]]])
    share = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    trace = Trace(share, share, losses=True)
    trace.add(0, Gates(gates, gates, gates.log()))
    trace.add(1, Gates(1 - gates, 1 - gates, gates.log()))
    found = trace.finished(torch.zeros(2, 3))
    torch.testing.assert_close(found.routes, torch.tensor([[0.9, 0.1, 0.1, 0.9], [0.3, 0.7, 0.7, 0.3]]))
    torch.testing.assert_close(found.choices[:, 0], torch.eye(2))
    assert found.z.item() == pytest.approx(0, abs=1e-6)


def test_centred() -> None:
    mean = torch.full((4,), 0.5)
    routes = torch.tensor([[0.9, 0.1, 0.5, 0.5], [0.1, 0.9, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5]])
    found = centred(routes, mean)
    torch.testing.assert_close(found.norm(dim=-1), torch.tensor([1.0, 1.0, 0.0]))
    assert (found[0] @ found[1]).item() == pytest.approx(-1)


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_scale_of_the_input_does_not_matter(level: str) -> None:
    torch.manual_seed(0)
    router = Router(16, RouterSettings(4, level))  # type: ignore[arg-type]
    x = torch.randn(2, 5, 16)
    x[1, 3] = 0  # a token of zeros must not break anything
    share = torch.full((2, 5), 0.2)
    torch.testing.assert_close(router(x, share).gates, router(x * 50, share).gates, atol=1e-5, rtol=1e-4)
    assert router(x, share).gates.isfinite().all()


def test_temperature_sharpens() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 16)
    sharp, soft = (Router(16, RouterSettings(4, "token", temperature)) for temperature in (0.1, 10.0))
    soft.load_state_dict(sharp.state_dict())
    assert sharp(x, None).gates.amax(-1).mean() > 0.8
    assert soft(x, None).gates.amax(-1).mean() < 0.4


def test_counted_tokens() -> None:
    real = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()
    image = torch.tensor([[0, 1, 1, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0, 1, 0, 0, 1]]).bool()

    def chosen(tokens: str) -> list[str]:
        found = counted_tokens(tokens, real, image)  # type: ignore[arg-type]
        assert found is not None
        return ["".join("01"[int(one)] for one in row) for row in found]

    assert counted_tokens("all", real, image) is None
    assert chosen("last") == ["00010", "01000", "00001", "00100"]
    assert chosen("image") == ["01100", "11000", "11111", "01000"]  # the second has no picture, so it counts whole
    assert chosen("text") == ["10010", "11000", "11111", "10100"]  # the third is nothing but a picture
