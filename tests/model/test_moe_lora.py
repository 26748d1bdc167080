"""MoE-LoRA against explicit loops over experts and against PEFT, and on tiny models of every family."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from tsembed_search.errors import ModelError
from tsembed_search.items import Item
from tsembed_search.model import registry
from tsembed_search.model.backbones import hf, tiny
from tsembed_search.model.expert_settings import AdapterSettings, RouterSettings
from tsembed_search.model.moe_lora import Adapters, GatedLinear, attach
from tsembed_search.model.routing import load_balance

WIDTH = 24
LEVELS = ["token", "sequence"]


class Block(nn.Module):
    """A decoder block's projections, without its attention: `[B, T, WIDTH]` to the same."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(WIDTH, WIDTH)
        self.o_proj = nn.Linear(WIDTH, WIDTH, bias=False)
        self.up_proj = nn.Linear(WIDTH, 40)
        self.down_proj = nn.Linear(40, WIDTH)

    def forward(self, hidden: Tensor) -> Tensor:
        x = functional.rms_norm(hidden, (WIDTH,))
        hidden = hidden + self.o_proj(self.q_proj(x).tanh())
        x = functional.rms_norm(hidden, (WIDTH,))
        return hidden + self.down_proj(functional.silu(self.up_proj(x)))


class Stack(nn.Module):
    """Blocks in a row. `context_fn` turns checkpointing on."""

    def __init__(self, blocks: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block() for _ in range(blocks))
        self.context_fn: Any = None

    def forward(self, hidden: Tensor) -> Tensor:
        for layer in self.layers:
            if self.context_fn is not None:
                hidden = checkpoint(layer, hidden, use_reentrant=False, context_fn=self.context_fn)
            else:
                hidden = layer(hidden)
        return hidden


def settings(level: str = "token", **changes: Any) -> AdapterSettings:
    own = ("top_k", "noise", "tokens")
    router = {"experts": 4, "level": level} | {key: changes.pop(key) for key in own if key in changes}
    return AdapterSettings(**router, **{"rank": 3, "alpha": 6.0} | changes)


def adapted(chosen: AdapterSettings, blocks: int = 2) -> tuple[Stack, Adapters]:
    """A model whose adapters do something: B is random, not zero."""
    torch.manual_seed(0)
    model = Stack(blocks)
    adapters = attach(model, chosen, "layers")
    randomize(adapters)
    return model, adapters


@torch.no_grad()
def randomize(adapters: Adapters, scale: float = 0.2) -> None:
    for name, tensor in adapters.expert_state().items():
        if "lora_B" in name:
            tensor.normal_(std=scale)


def inputs(batch: int = 3, tokens: int = 7) -> tuple[Tensor, Tensor]:
    """Hidden states, and which tokens are real: items of different lengths."""
    generator = torch.Generator().manual_seed(1)
    real = torch.arange(tokens) < torch.tensor([[tokens], [tokens - 2], [1]])[:batch]
    return torch.randn(batch, tokens, WIDTH, generator=generator), real


def expert_loop(block: nn.Module, hidden: Tensor, real: Tensor, chosen: AdapterSettings) -> Tensor:
    """The block again, written out: for every token, for every expert, one rank-r LoRA."""
    x = functional.rms_norm(hidden, (WIDTH,))
    leader: Any = block.q_proj
    rows = []
    for item, mask in zip(x, real, strict=True):
        normed = item / item.norm(dim=-1, keepdim=True) * math.sqrt(WIDTH)
        if chosen.level == "sequence":
            mean = normed[mask].mean(0)
            normed = (mean / mean.norm() * math.sqrt(WIDTH)).expand_as(item)
        gate = (normed @ leader.router.weight.T / chosen.temperature).softmax(-1)
        if chosen.top_k:
            kept = gate.topk(chosen.top_k).indices
            keep = torch.zeros_like(gate).scatter(-1, kept, 1.0)
            gate = gate * keep / (gate * keep).sum(-1, keepdim=True)
        rows.append(gate)
    gates = torch.stack(rows)

    def project(layer: Any, x: Tensor) -> Tensor:
        y = layer.base_layer(x)
        experts, rank = chosen.experts, chosen.rank
        for e in range(experts + chosen.shared):
            a, b = layer.down.weight[e * rank : (e + 1) * rank], layer.up.weight[:, e * rank : (e + 1) * rank]
            weight = gates[..., e : e + 1] * experts if e < experts else 1.0
            y = y + chosen.alpha / rank * weight * (x @ a.T @ b.T)
        return y

    hidden = hidden + project(block.o_proj, project(block.q_proj, x).tanh())
    x = functional.rms_norm(hidden, (WIDTH,))
    return hidden + project(block.down_proj, functional.silu(project(block.up_proj, x)))


class TestEqualToALoop:
    @pytest.mark.parametrize("level", LEVELS)
    @pytest.mark.parametrize("changes", [{}, {"top_k": 2}, {"top_k": 1}, {"shared": True}, {"top_k": 4}])
    def test_forward_and_gradients(self, level: str, changes: dict[str, Any]) -> None:
        chosen = settings(level, **changes)
        model, adapters = adapted(chosen)
        hidden, real = inputs()
        parameters = [*adapters.expert_parameters(), *adapters.router_parameters()]
        with adapters.tracing(real):
            ours = model(hidden)
        looped = hidden
        for block in model.layers:
            looped = expert_loop(block, looped, real, chosen)
        torch.testing.assert_close(ours[real], looped[real], atol=1e-5, rtol=1e-5)
        weights = torch.randn_like(ours[real])
        found = torch.autograd.grad((ours[real] * weights).sum(), parameters)
        expected = torch.autograd.grad((looped[real] * weights).sum(), parameters)
        for one, other in zip(found, expected, strict=True):
            assert (one - other).abs().max() <= 1e-5 * (1 + 2 * other.abs().max())
        assert all(gradient.abs().sum() > 0 for gradient in found[: len(list(adapters.expert_parameters()))])

    def test_nothing_changes_before_training(self) -> None:
        torch.manual_seed(0)
        model = Stack()
        hidden, real = inputs()
        before = model(hidden)
        adapters = attach(model, settings(), "layers")
        with adapters.tracing(real):
            torch.testing.assert_close(model(hidden), before, atol=0, rtol=0)

    def test_only_adapters_learn(self) -> None:
        model, adapters = adapted(settings())
        learning = {id(p) for p in model.parameters() if p.requires_grad}
        own = {id(p) for p in [*adapters.expert_parameters(), *adapters.router_parameters()]}
        assert learning == own

    def test_experts_start_apart(self) -> None:
        _, adapters = adapted(settings())
        layer = next(iter(adapters.layers.values()))
        first, second = layer.down.weight[:3], layer.down.weight[3:6]
        assert (first - second).abs().mean() > 0.05


class TestPeft:
    """Under a uniform gate the adapters are a plain LoRA, and PEFT reads them as one."""

    @pytest.fixture(params=[{}, {"shared": True}, {"projections": ("q_proj", "down_proj"), "blocks": (1,)}])
    def both(self, request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Stack, Adapters, nn.Module, Stack]:
        from peft import PeftModel
        from safetensors.torch import save_file

        torch.manual_seed(0)
        base = Stack()
        model = copy.deepcopy(base)
        adapters = attach(model, settings(**request.param), "layers")
        randomize(adapters)
        for weight in adapters.router_parameters():
            nn.init.zeros_(weight)
        (tmp_path / "adapter_config.json").write_text(json.dumps(adapters.peft_config()))
        state = {f"base_model.model.{name}": tensor for name, tensor in adapters.expert_state().items()}
        save_file(state, tmp_path / "adapter_model.safetensors")
        return model, adapters, PeftModel.from_pretrained(copy.deepcopy(base), tmp_path).eval(), base

    def test_same_output(self, both: tuple[Stack, Adapters, nn.Module, Stack]) -> None:
        model, adapters, peft, base = both
        hidden, real = inputs()
        with adapters.tracing(real):
            ours = model(hidden)
        torch.testing.assert_close(ours, peft(hidden), atol=1e-5, rtol=1e-5)
        assert (ours - base(hidden)).abs().max() > 0.1

    def test_same_merged(self, both: tuple[Stack, Adapters, nn.Module, Stack]) -> None:
        model, adapters, peft, _ = both
        hidden, real = inputs()
        with adapters.tracing(real):
            before = model(hidden)
        theirs: Any = peft
        merged = theirs.merge_and_unload()
        adapters.merge(model)
        assert not any(isinstance(module, GatedLinear) for module in model.modules())
        torch.testing.assert_close(model(hidden), before, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model(hidden), merged(hidden), atol=1e-5, rtol=1e-5)
        for name, tensor in model.state_dict().items():
            torch.testing.assert_close(tensor, merged.state_dict()[name], atol=1e-6, rtol=1e-5)


class TestRoutes:
    @pytest.mark.parametrize("level", LEVELS)
    def test_alone_as_in_a_batch_with_any_padding(self, level: str) -> None:
        model, adapters = adapted(settings(level))
        hidden, real = inputs()
        with adapters.tracing(real) as trace:
            vectors = model(hidden)
        assert trace.routes().shape == (3, 2 * 4)
        torch.testing.assert_close(trace.routes().view(3, 2, 4).sum(-1), torch.ones(3, 2))
        for row, mask in enumerate(real):
            count = int(mask.sum())
            with adapters.tracing(None) as alone:
                vector = model(hidden[row : row + 1, :count])
            torch.testing.assert_close(alone.routes(), trace.routes()[row : row + 1], atol=1e-6, rtol=1e-5)
            torch.testing.assert_close(vector[0], vectors[row, :count], atol=1e-5, rtol=1e-5)
        wide, wide_real = functional.pad(hidden, (0, 0, 2, 9), value=3.0), functional.pad(real, (2, 9))
        with adapters.tracing(wide_real) as padded:
            model(wide)
        torch.testing.assert_close(padded.routes(), trace.routes(), atol=1e-6, rtol=1e-5)

    def test_counted_tokens(self) -> None:
        model, adapters = adapted(settings("token"))
        hidden, real = inputs()
        last = functional.one_hot(real.sum(1) - 1, 7).bool()
        with adapters.tracing(real, counted=last) as of_last:
            model(hidden)
        with adapters.tracing(real) as of_all:
            model(hidden)
        assert not torch.allclose(of_last.routes()[0], of_all.routes()[0], atol=1e-3)
        torch.testing.assert_close(of_last.routes()[2], of_all.routes()[2])  # an item of one token

    def test_counted_tokens_decide_the_gate_of_a_sequence(self) -> None:
        model, adapters = adapted(settings("sequence"), blocks=1)
        hidden, real = inputs()
        last = functional.one_hot(real.sum(1) - 1, 7).bool()
        with adapters.tracing(real, counted=last) as of_last:
            model(hidden)
        for row, count in enumerate(real.sum(1)):
            with adapters.tracing(None) as alone:
                model(hidden[row : row + 1, count - 1 : count])
            torch.testing.assert_close(of_last.routes()[row], alone.routes()[0], atol=1e-6, rtol=1e-5)

    def test_losses_go_by_all_tokens(self) -> None:
        model, adapters = adapted(settings("token"))
        hidden, real = inputs()
        last = functional.one_hot(real.sum(1) - 1, 7).bool()
        with adapters.tracing(real, counted=last, losses=True) as trace:
            of_last = trace.finished(model(hidden))
        with adapters.tracing(real, losses=True) as trace:
            of_all = trace.finished(model(hidden))
        for what in ("probabilities", "choices", "z"):
            torch.testing.assert_close(getattr(of_last, what), getattr(of_all, what))

    def test_a_sequence_needs_to_know_its_tokens(self) -> None:
        model, _ = adapted(settings("sequence"))
        with pytest.raises(RuntimeError, match="inside `tracing`"):
            model(inputs()[0])

    def test_gates_are_let_go(self) -> None:
        model, adapters = adapted(settings("token"))
        with adapters.tracing(None):
            model(inputs()[0])
        assert all(layer._gate.scale is None for layer in adapters.layers.values())

    def test_top_k(self) -> None:
        model, adapters = adapted(settings("sequence", top_k=2))
        with adapters.tracing(None) as trace:
            model(inputs()[0])
        gates = trace.routes().view(3, 2, 4)
        assert ((gates > 0).sum(-1) == 2).all()
        torch.testing.assert_close(gates.sum(-1), torch.ones(3, 2))

    @pytest.mark.parametrize("level", LEVELS)
    def test_noise_in_training_only(self, level: str) -> None:
        model, adapters = adapted(settings(level, noise=1.0))

        def routes() -> Tensor:
            with adapters.tracing(None) as trace:
                model(inputs()[0])
            return trace.routes()

        model.eval()
        torch.testing.assert_close(routes(), routes(), atol=0, rtol=0)
        model.train()
        assert (routes() - routes()).abs().max() > 0.01


class TestCheckpointing:
    @pytest.mark.parametrize("level", LEVELS)
    def test_same_gradients_and_routes(self, level: str) -> None:
        """Two forward passes with different padding, then one backward pass: each has to remember its own."""
        results = []
        for checkpointed in (False, True):
            model, adapters = adapted(settings(level, noise=0.5, dropout=0.1))
            model.train()
            if checkpointed:
                model.context_fn = adapters.routing.checkpoint_context
            torch.manual_seed(5)
            total, routes = torch.zeros(()), []
            for flip in (False, True):
                hidden, real = inputs()
                hidden, real = (hidden.flip(0), real.flip(0)) if flip else (hidden, real)
                with adapters.tracing(real, losses=True) as trace:
                    traced = trace.finished(model(hidden.requires_grad_()))
                balance = load_balance(traced.probabilities, traced.choices)
                total = total + traced.vectors[real].square().sum() + balance + 0.1 * traced.z
                total = total + traced.routes.square().sum()
                routes.append(traced.routes.detach())
            total.backward()
            grads = [p.grad for p in [*adapters.expert_parameters(), *adapters.router_parameters()]]
            results.append((total.detach(), *routes, *grads))
        for plain, again in zip(*results, strict=True):
            assert plain is not None
            assert again is not None
            torch.testing.assert_close(again, plain, atol=1e-5, rtol=1e-4)

    def test_without_the_context_it_says_so(self) -> None:
        from contextlib import nullcontext

        model, adapters = adapted(settings("sequence"))
        model.context_fn = lambda: (nullcontext(), nullcontext())
        hidden, real = inputs()
        with adapters.tracing(real):
            out = model(hidden.requires_grad_())
        with pytest.raises(RuntimeError, match="context_fn=checkpoint_context"):
            out.sum().backward()


class TestPrecision:
    @pytest.mark.parametrize("level", LEVELS)
    @pytest.mark.parametrize("how", ["bfloat16", "float32 experts", "autocast"])
    def test_close_to_float32(self, level: str, how: str) -> None:
        model, adapters = adapted(settings(level))
        hidden, real = inputs()
        with adapters.tracing(real) as trace:
            expected = model(hidden)
        if how == "bfloat16":
            model.to(torch.bfloat16)
        elif how == "float32 experts":
            for layer in adapters.layers.values():
                layer.base_layer.to(torch.bfloat16)
        auto = torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast")
        with auto, adapters.tracing(real) as coarse:
            found = model(hidden if how == "autocast" else hidden.to(torch.bfloat16))
        assert coarse.routes().dtype == torch.float32
        torch.testing.assert_close(coarse.routes(), trace.routes(), atol=0.03, rtol=0.05)
        torch.testing.assert_close(found.float()[real], expected[real], atol=0.15, rtol=0.05)

    def test_gradients_under_autocast(self) -> None:
        model, adapters = adapted(settings("sequence"))
        with torch.autocast("cpu", torch.bfloat16), adapters.tracing(None):
            out = model(inputs()[0])
        out.float().square().sum().backward()
        for parameter in [*adapters.expert_parameters(), *adapters.router_parameters()]:
            assert parameter.grad is not None
            assert parameter.grad.dtype == torch.float32
            assert parameter.grad.isfinite().all()

    @pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
    def test_quantised_base(self) -> None:
        torch.manual_seed(0)
        model = Stack()
        quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8)
        torch.manual_seed(1)
        adapters = attach(quantised, settings("token"), "layers")
        torch.manual_seed(1)
        exact = attach(model, settings("token"), "layers")
        for one in (adapters, exact):
            torch.manual_seed(2)
            randomize(one)
        hidden, real = inputs()
        with adapters.tracing(real), exact.tracing(real):
            error = quantised(hidden) - model(hidden)
        assert error.norm() < 0.05 * hidden.norm()
        with pytest.raises(ModelError, match="quantised"):
            adapters.merge(quantised)


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
def test_compiled(level: str) -> None:
    model, adapters = adapted(settings(level))
    hidden, real = inputs()
    with adapters.tracing(real, losses=True) as trace:
        expected = model(hidden)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with adapters.tracing(real, losses=True) as again:
        found = compiled(hidden)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(again.routes(), trace.routes())
    for what in ("probabilities", "choices", "z"):
        torch.testing.assert_close(getattr(again.finished(found), what), getattr(trace.finished(expected), what))


class TestSettings:
    @pytest.mark.parametrize(
        ("wrong", "words"),
        [
            ({"experts": 4, "top_k": 5}, r"cannot choose 5 of 4 experts.*from 1 to 4"),
            ({"experts": 4, "top_k": 0}, "cannot choose 0"),
            ({"experts": 0}, "cannot be 0 experts"),
            ({"level": "word"}, "not a level"),
            ({"temperature": 0.0}, "temperature"),
            ({"noise": -1.0}, "noise"),
            ({"tokens": "first"}, "does not say which tokens.*all, last, text, image"),
        ],
    )
    def test_router(self, wrong: dict[str, Any], words: str) -> None:
        with pytest.raises(ModelError, match=words):
            RouterSettings(**wrong)

    def test_rank(self) -> None:
        with pytest.raises(ModelError, match="rank 0"):
            AdapterSettings(rank=0)

    @pytest.mark.parametrize(
        ("chosen", "words"),
        [
            ({"projections": ("query",)}, r"no projection called query.*q_proj, o_proj"),
            ({"blocks": (0, 2)}, r"blocks 0 to 1, not \[0, 2\]"),
            ({"blocks": ()}, "no blocks to adapt"),
        ],
    )
    def test_what_the_model_lacks(self, chosen: dict[str, Any], words: str) -> None:
        with pytest.raises(ModelError, match=words):
            attach(Stack(), settings(**chosen), "layers")

    def test_projections_and_blocks(self) -> None:
        _, adapters = adapted(settings(projections=("*_proj",), blocks=(1,)))
        assert list(adapters.layers) == [f"layers.1.{name}_proj" for name in ("q", "o", "up", "down")]
        assert list(adapters.routers) == ["layers.1"]
        assert adapters.shape == (1, 4)


class TestStates:
    def test_round_trip(self) -> None:
        model, adapters = adapted(settings())
        other_model, other = adapted(settings())
        torch.manual_seed(9)
        randomize(other)
        other.mean.fill_(0.1)
        adapters.load_state_dict(other.state_dict())
        hidden, real = inputs()
        with adapters.tracing(real), other.tracing(real):
            torch.testing.assert_close(model(hidden), other_model(hidden))
        assert adapters.mean[0] == pytest.approx(0.1)
        assert "layers.0.q_proj.lora_A.weight" in adapters.expert_state()
        assert "layers.0.weight" in adapters.router_state()

    @pytest.mark.parametrize("change", ["name", "shape", "number"])
    def test_refusals(self, change: str) -> None:
        _, adapters = adapted(settings())
        state = {name: tensor.clone() for name, tensor in adapters.state_dict().items()}
        before = {name: tensor.clone() for name, tensor in state.items()}
        name = next(name for name in state if "lora_B" in name)
        if change == "name":
            state["experts.layers.7.q_proj.lora_A.weight"] = state.pop(name)
        elif change == "shape":
            state[name] = state[name][:-1]
        else:
            state[name][0, 0] = torch.inf
        words = "damaged" if change == "number" else "does not fit the model"
        with pytest.raises(ModelError, match=words):
            adapters.load_state_dict(state)
        for name, tensor in adapters.state_dict().items():
            torch.testing.assert_close(tensor, before[name], atol=0, rtol=0)


@pytest.mark.parametrize("family", list(tiny.MAKERS))
class TestFamilies:
    """On every transformers family: the same promises, with adapters."""

    @pytest.fixture(params=LEVELS)
    def backbone(
        self, request: pytest.FixtureRequest, family: str, model_folder: Callable[[str], Path]
    ) -> hf.TransformersBackbone:
        backbone = hf.load(registry.resolve(model_folder(family)), "cpu")
        torch.manual_seed(0)
        randomize(backbone.adapt(settings(request.param)), 0.05)
        return backbone

    @staticmethod
    def items() -> list[Item]:
        coarse = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((70, 50), Image.Resampling.NEAREST)
        return [Item("a red apple"), Item(image=image), Item("two dogs run along the beach " * 4, image), Item("a")]

    def test_batch_invariance(self, family: str, backbone: hf.TransformersBackbone) -> None:
        assert backbone.info.routes == (2, 4)
        batch = [backbone.prepare(item) for item in self.items()]
        with torch.inference_mode():
            together = backbone.forward(batch)
            alone = [backbone.forward([one]) for one in batch]
        assert together.routes is not None
        assert together.routes.shape == (4, 8)
        torch.testing.assert_close(together.routes.norm(dim=-1), torch.ones(4))
        for row, one in enumerate(alone):
            assert one.routes is not None
            assert functional.cosine_similarity(one.vectors[0], together.vectors[row], dim=0) >= 0.9999
            assert functional.cosine_similarity(one.routes[0], together.routes[row], dim=0) >= 0.9999
        assert (together.routes @ together.routes.T).min() < 0.99, "all items have one route"

    @pytest.mark.parametrize("tokens", ["image", "text"])
    def test_routes_of_pictures_and_words(
        self, family: str, tokens: str, backbone: hf.TransformersBackbone, model_folder: Callable[[str], Path]
    ) -> None:
        assert backbone.adapters is not None
        level = backbone.adapters.settings.level
        chosen = hf.load(registry.resolve(model_folder(family)), "cpu")
        torch.manual_seed(0)
        randomize(chosen.adapt(settings(level, tokens=tokens)), 0.05)
        batch = [backbone.prepare(item) for item in self.items()]
        with torch.inference_mode():
            of_all, of_some = backbone.trace(batch).routes, chosen.trace(batch).routes
            alone = torch.cat([chosen.trace([one]).routes for one in batch])
        torch.testing.assert_close(of_some, alone, atol=1e-4, rtol=1e-3)
        apart = (of_some - of_all).abs().amax(1) > 1e-5
        assert apart.tolist() == [False, True, True, False]  # where there is no picture, all tokens count

    def test_learns_under_checkpointing(self, family: str, backbone: hf.TransformersBackbone) -> None:
        batch = [backbone.prepare(item) for item in self.items()]
        adapters: Any = backbone.adapters
        parameters = [*adapters.expert_parameters(), *adapters.router_parameters()]
        results = []
        for checkpointed in (False, True):
            if checkpointed:
                backbone.enable_gradient_checkpointing()
            backbone.train()
            traced = backbone.trace(batch)
            balance = load_balance(traced.probabilities, traced.choices)
            loss = (traced.vectors @ traced.vectors.T).square().sum() + balance + traced.z
            results.append((loss.detach(), traced.routes.detach(), *torch.autograd.grad(loss, parameters)))
        for plain, again in zip(*results, strict=True):
            torch.testing.assert_close(again, plain, atol=1e-5, rtol=1e-3)
        assert any(gradient.abs().sum() > 0 for gradient in results[0][-2:])

    def test_through_peft(
        self, family: str, backbone: hf.TransformersBackbone, model_folder: Callable[[str], Path], tmp_path: Path
    ) -> None:
        from peft import PeftModel
        from safetensors.torch import save_file

        adapters: Any = backbone.adapters
        for weight in adapters.router_parameters():
            nn.init.zeros_(weight)
        (tmp_path / "adapter_config.json").write_text(json.dumps(adapters.peft_config()))
        state = {f"base_model.model.{name}": tensor for name, tensor in adapters.expert_state().items()}
        save_file(state, tmp_path / "adapter_model.safetensors")
        plain: Any = hf.load(registry.resolve(model_folder(family)), "cpu")
        plain.model = PeftModel.from_pretrained(plain.model, tmp_path).eval()
        batch = [backbone.prepare(item) for item in self.items()]
        with torch.inference_mode():
            cosines = functional.cosine_similarity(backbone.forward(batch).vectors, plain.forward(batch).vectors)
        assert cosines.min() >= 0.99999
