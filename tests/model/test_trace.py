"""`trace`, what training calls: the vectors of `forward`, raw routes, routing losses, and gradients for all of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from tsembed_search.items import Item
from tsembed_search.model import registry
from tsembed_search.model.backbone import Prepared, Trainable
from tsembed_search.model.backbones import hf, mini
from tsembed_search.model.embedder import Embedder
from tsembed_search.model.expert_settings import AdapterSettings
from tsembed_search.model.moe_lora import Adapters
from tsembed_search.model.routing import Traced, centred, load_balance

LEVELS = ["token", "sequence"]
MODELS = ["mini-base", "qwen2-vl"]


def picture(seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((14, 20, 1), np.uint8))


# Out of order on purpose: mini runs those with text and those without as two groups.
ITEMS = [
    Item(image=picture(0)),
    Item("a red apple"),
    Item(image=picture(1)),
    Item("two dogs run along the beach " * 3, picture(2)),
    Item("a"),
]


def trainable(name: str, level: str, folder: Callable[[str], Path], **router: Any) -> tuple[Trainable, Adapters]:
    """A model with random adapters that do something: B is not zero."""
    backbone: Trainable = mini.load("cpu") if name == "mini-base" else hf.load(registry.resolve(folder(name)), "cpu")
    settings = AdapterSettings(4, level, **router, rank=2, dropout=0.1)  # type: ignore[arg-type]
    torch.manual_seed(0)
    adapters = backbone.adapt(settings)
    with torch.no_grad():
        for layer in adapters.layers.values():
            layer.up.weight.normal_(std=0.05)
    backbone.train(False)
    return backbone, adapters


def prepared(backbone: Trainable) -> list[Prepared]:
    return [backbone.prepare(item) for item in ITEMS]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", MODELS)
class TestTrace:
    def test_gives_what_forward_gives_in_the_batch_s_order(
        self, name: str, level: str, model_folder: Callable[[str], Path]
    ) -> None:
        backbone, adapters = trainable(name, level, model_folder)
        batch = prepared(backbone)
        traced, encoded = backbone.trace(batch), backbone.forward(batch)
        torch.testing.assert_close(traced.vectors, encoded.vectors)
        assert encoded.routes is not None
        torch.testing.assert_close(centred(traced.routes, adapters.mean), encoded.routes)
        blocks, experts = adapters.shape
        shape = (len(ITEMS), blocks, experts)
        assert traced.probabilities.shape == traced.choices.shape == shape
        for shares in (traced.routes.view(shape), traced.probabilities, traced.choices):
            torch.testing.assert_close(shares.sum(-1), torch.ones(shape[:2]))
        for row, one in enumerate(batch):
            alone = backbone.trace([one])
            for field in ("vectors", "routes", "probabilities", "choices"):
                own, theirs = getattr(alone, field)[0], getattr(traced, field)[row]
                torch.testing.assert_close(own, theirs, atol=1e-4, rtol=1e-3)
        mean_z = torch.stack([backbone.trace([one]).z for one in batch]).mean()
        torch.testing.assert_close(traced.z, mean_z, atol=1e-4, rtol=1e-3)

    def test_gradients_reach_adapters_and_routers_from_every_part(
        self, name: str, level: str, model_folder: Callable[[str], Path]
    ) -> None:
        backbone, adapters = trainable(name, level, model_folder)
        Embedder(backbone).embed(ITEMS)  # what it loads in inference mode must not end up in a graph
        losses: list[Callable[[Traced], torch.Tensor]] = [
            lambda traced: (traced.vectors @ traced.vectors.T).square().sum(),
            lambda traced: traced.routes.square().sum(),
            lambda traced: load_balance(traced.probabilities, traced.choices),
            lambda traced: traced.z,
        ]
        batch = prepared(backbone)
        routers = list(adapters.router_parameters())
        for which, loss in enumerate(losses):
            found = torch.autograd.grad(loss(backbone.trace(batch)), routers)
            assert all(bool(gradient.isfinite().all()) for gradient in found)
            assert all(gradient.abs().sum() > 0 for gradient in found), f"loss {which} leaves a router out"
        experts = list(adapters.expert_parameters())
        found = torch.autograd.grad(losses[0](backbone.trace(batch)), experts)
        assert all(gradient.abs().sum() > 0 for gradient in found)

    def test_checkpointing_changes_nothing(self, name: str, level: str, model_folder: Callable[[str], Path]) -> None:
        backbone, adapters = trainable(name, level, model_folder, noise=0.3)
        parameters = [*adapters.expert_parameters(), *adapters.router_parameters()]
        batch = prepared(backbone)
        results: list[Sequence[torch.Tensor]] = []
        for checkpointed in (False, True):
            if checkpointed:
                backbone.enable_gradient_checkpointing()
            backbone.train()
            torch.manual_seed(3)
            traced = backbone.trace(batch)
            loss = (traced.vectors @ traced.vectors.T).square().sum() + traced.routes.square().sum() + traced.z
            results.append((loss.detach(), *torch.autograd.grad(loss, parameters)))
        for plain, again in zip(*results, strict=True):
            torch.testing.assert_close(again, plain, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", MODELS)
def test_routes_by_some_of_the_tokens(name: str, level: str, model_folder: Callable[[str], Path]) -> None:
    """The same alone and in a batch under every choice of tokens, and each choice is another route."""
    found: dict[str, torch.Tensor] = {}
    for tokens in ("all", "last", "text", "image"):
        backbone, _ = trainable(name, level, model_folder, tokens=tokens)
        batch = prepared(backbone)
        with torch.inference_mode():
            together = backbone.trace(batch)
            found[tokens] = together.routes
            for row, one in enumerate(batch):
                alone = backbone.trace([one])
                torch.testing.assert_close(alone.routes[0], together.routes[row], atol=1e-4, rtol=1e-3)
                torch.testing.assert_close(alone.vectors[0], together.vectors[row], atol=1e-4, rtol=1e-3)
    joint, text = 3, 1
    for one, other in combinations(found, 2):
        assert (found[one][joint] - found[other][joint]).abs().max() > 1e-3, (one, other)
    for tokens in ("text", "image"):  # without a picture, both count all
        torch.testing.assert_close(found[tokens][text], found["all"][text], atol=1e-4, rtol=1e-3)


def test_mini_looks_at_a_picture_once(monkeypatch: pytest.MonkeyPatch, model_folder: Callable[[str], Path]) -> None:
    backbone, _ = trainable("mini-base", "sequence", model_folder)
    batch = prepared(backbone)
    backbone.forward(batch)  # which leaves it as it was
    first = backbone.trace(batch).vectors
    monkeypatch.setitem(vars(backbone), "tower", None)  # any further look fails
    with pytest.raises(AttributeError):
        backbone.trace(prepared(backbone))
    torch.testing.assert_close(backbone.trace(batch[::-1]).vectors.flip(0), first, atol=1e-5, rtol=1e-4)


def test_without_losses_there_are_none(model_folder: Callable[[str], Path]) -> None:
    backbone, _ = trainable("mini-base", "sequence", model_folder)
    traced = backbone.trace(prepared(backbone), losses=False)
    assert traced.probabilities.numel() == traced.choices.numel() == 0
    assert traced.z.item() == 0
    assert traced.vectors.requires_grad


def test_mini_honours_an_instruction_of_the_item() -> None:
    embedder = Embedder.load("mini-base", device="cpu")
    plain, instructed, written = embedder.embed(
        [Item("a red apple"), Item("a red apple", instruction="find fruit:"), Item("find fruit: a red apple")]
    ).vectors
    assert plain @ instructed < 0.99
    assert instructed @ written > 0.9999
    image = picture(0)
    alone, asked, joint = embedder.embed(
        [Item(image=image), Item(image=image, instruction="what is it?"), Item("what is it?", image)]
    ).vectors
    assert alone @ asked < 0.99
    assert asked @ joint > 0.9999
    assert functional.cosine_similarity(torch.tensor(plain), torch.tensor(alone), dim=0) < 0.9
