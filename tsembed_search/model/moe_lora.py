"""MoE-LoRA: low-rank experts beside frozen projections, mixed by one router per block.

    y = W x + (alpha / r) · B ((A x) * repeat(E · g, r))       A [E·r, d_in], B [d_out, E·r], g [.., E] the block's gate

That is one ordinary LoRA of rank E·r with a gate between A and B. The factor E makes a uniform gate the plain LoRA, so
the weights are stored under PEFT's names and PEFT loads them, without the router, as the uniform mixture. With a shared
expert, r more rows of A and columns of B have a gate of 1.

Mixing LoRA experts is the paper's (TSEmbed, arXiv 2603.04772); this form of it is ours.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tsembed_search.errors import ModelError
from tsembed_search.model.expert_settings import PROJECTIONS, AdapterSettings
from tsembed_search.model.routing import Gate, Router, Routing

if TYPE_CHECKING:
    from tsembed_search.model.parallel import ParallelPaths

_PROGRAMS = 32  # with gradients and without, with padding and without, and so on, that one part may be compiled to


class GatedLinear(nn.Module):
    """A frozen projection with gated low-rank experts. The first one of a block runs the block's router."""

    def __init__(self, base: nn.Module, settings: AdapterSettings, gate: Gate) -> None:
        super().__init__()
        inputs, outputs = (int(getattr(base, name)) for name in ("in_features", "out_features"))
        device = next(base.parameters(), torch.empty(0)).device
        # Drawn on the CPU: a seed then means the same adapters on every device.
        down, up = nn.Linear(inputs, settings.width, bias=False), nn.Linear(settings.width, outputs, bias=False)
        nn.init.kaiming_uniform_(down.weight, a=math.sqrt(5))  # depends on d_in alone, so it suits every expert
        nn.init.zeros_(up.weight)
        self.base_layer = base
        self.down, self.up = down.to(device), up.to(device)  # A and B
        self.dropout = nn.Dropout(settings.dropout)
        self.router: Router | None = None
        self._gate = gate
        self._settings = settings
        self._routing: Routing | None = None
        self._block = 0

    def lead(self, block: int, routing: Routing) -> Router:
        """Makes this the projection that runs its block's router."""
        self._block, self._routing = block, routing
        self.router = Router(self.down.in_features, self._settings, self.down.weight.device)
        return self.router

    def forward(self, x: Tensor) -> Tensor:
        """`[B, T, d_in]` to `[B, T, d_out]`."""
        base: Tensor = self.base_layer(x)
        if self._gate.off:
            return base
        if not torch.is_autocast_enabled(x.device.type):
            x = x.to(self.down.weight.dtype)
        low: Tensor = self.down(self.dropout(x))
        if self.router is not None:
            self.route(x, low.dtype)
        assert self._gate.scale is not None
        low = low * self._gate.scale
        if low.dtype == base.dtype:
            add = torch.addmm if torch.is_grad_enabled() else Tensor.addmm_  # in place, a third of the cost is saved
            return add(base.flatten(0, -2), low.flatten(0, -2), self.up.weight.t().to(low.dtype)).view(base.shape)
        high: Tensor = self.up(low)
        return base + high.to(base.dtype)

    def route(self, x: Tensor, dtype: torch.dtype) -> None:
        """Runs the block's router on inputs `[B, T, d]`: sets the block's gate, in `dtype`, and notes it."""
        assert self.router is not None and self._routing is not None
        sequence = self.router.settings.level == "sequence"
        found = self.router(x, self._routing.share_of(x) if sequence else None)
        if self._routing.trace is not None:
            self._routing.trace.add(self._block, found)
        rank, factor = self._settings.rank, self._settings.alpha / self._settings.rank
        gates = found.gates
        if self._routing.trace is not None and self._routing.trace.forced is not None:
            gates = torch.zeros_like(gates)
            gates[..., self._routing.trace.forced] = 1
        scale = (gates * (self.router.settings.experts * factor)).to(dtype)
        scale = scale.unsqueeze(-1).expand(*scale.shape, rank).flatten(-2)
        if self._settings.shared:
            scale = torch.cat([scale, scale.new_full((*scale.shape[:-1], rank), factor)], dim=-1)
        self._gate.scale = scale

    @property
    def exact_weight(self) -> Tensor | None:
        """The projection's weight; None for a quantised one."""
        weight = getattr(self.base_layer, "weight", None)
        return weight if isinstance(weight, Tensor) and weight.is_floating_point() else None

    def delta(self) -> Tensor:
        """Return what a uniform gate adds to the projection's weight: `[d_out, d_in]` float32."""
        factor = self._settings.alpha / self._settings.rank
        return factor * (self.up.weight.float() @ self.down.weight.float())


class Adapters:
    """The MoE-LoRA adapters of one model: everything about them that is not a forward pass of a single projection."""

    def __init__(
        self,
        settings: AdapterSettings,
        layers: Mapping[str, GatedLinear],
        routers: Mapping[str, Router],
        routing: Routing,
    ) -> None:
        self.settings = settings
        self.layers = layers
        self.routers = routers
        self.routing = routing
        self.tracing, self.off = routing.tracing, routing.off
        self.projector: nn.Module | None = None
        """From pictures to the model's tokens, where that is trained as well; the backbone puts it here."""
        self.paths: ParallelPaths | None = None
        """Parallel paths, where the model has some; the backbone puts them here."""
        self.depths: tuple[int, ...] = ()
        """After so many blocks training takes the vector as well; they ascend."""
        self.mean = torch.full((len(routers) * settings.experts,), 1 / settings.experts)
        """The mean raw routing vector `[L·E]` of the training data; uniform until it is measured."""

    @property
    def shape(self) -> tuple[int, int]:
        """(L adapted blocks, E experts)."""
        return len(self.routers), self.settings.experts

    @property
    def blocks(self) -> list[int]:
        """The numbers of the adapted blocks, from 0."""
        return [int(path.rpartition(".")[2]) for path in self.routers]

    def keep(self, depth: int) -> None:
        """Forget the experts beyond the model's first `depth` blocks."""
        kept = [path for path, number in zip(self.routers, self.blocks, strict=True) if number < depth]
        self.layers = {path: one for path, one in self.layers.items() if path.startswith(tuple(f"{b}." for b in kept))}
        self.routers = {path: self.routers[path] for path in kept}
        self.mean = self.mean[: len(kept) * self.settings.experts]

    def compile(self, blocks: nn.ModuleList, **options: Any) -> None:
        """Runs the parts of the blocks, attention and what follows it, through torch.compile from now on.

        Only them: they are where the time goes. A vision tower asks for numbers midway, and checkpointing, which is
        around a block, cannot be compiled. Routers are left out: each notes what it decides under its block's number,
        and a number that differs is another program. `options` are those of `Module.compile`.
        """
        import torch._dynamo

        torch._dynamo.config.recompile_limit = _PROGRAMS
        for layer in self.layers.values():
            layer.route = torch.compiler.disable(layer.route)  # type: ignore[method-assign, no-untyped-call]
        for block in blocks:
            for part in block.children():
                part.compile(dynamic=True, **options)

    def state_dict(self) -> dict[str, Tensor]:
        """Experts, routers, projector and paths, each under its name."""
        parts = {"experts": self.expert_state(), "routers": self.router_state(), "projector": self.projector_state()}
        parts["paths"] = self.path_state()
        return {f"{part}.{name}": tensor for part, state in parts.items() for name, tensor in state.items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` gave.

        Raises `ModelError` when names or shapes are those of another base model, or numbers are not finite.
        """
        own = self.state_dict()
        odd = sorted(own.keys() ^ state.keys())
        odd += sorted(name for name in own.keys() & state.keys() if own[name].shape != state[name].shape)
        if odd:
            raise ModelError(
                f"The adapter does not fit the model: {len(odd)} tensors differ, {odd[0]} among them.",
                "It was made for another base model, or with other settings.",
            )
        for name, tensor in state.items():
            if not bool(torch.isfinite(tensor).all()):
                raise ModelError(
                    f"The adapter is damaged: {name} holds numbers that are not finite.", "Train it again."
                )
        for name, tensor in state.items():
            own[name].copy_(tensor)

    def calm(self) -> None:
        """Turns dropout and router noise off, and leaves the model in training mode if it is."""
        for layer in self.layers.values():
            layer.dropout.eval()
        for router in self.routers.values():
            router.eval()

    def expert_parameters(self) -> Iterator[Tensor]:
        """The parameters of all A and B."""
        return (linear.weight for layer in self.layers.values() for linear in (layer.down, layer.up))

    def router_parameters(self) -> Iterator[Tensor]:
        """The parameters of all routers."""
        return (router.weight for router in self.routers.values())

    def projector_parameters(self) -> Iterator[Tensor]:
        """The parameters of the projector, if there is one."""
        return iter(()) if self.projector is None else self.projector.parameters()

    def path_parameters(self) -> Iterator[Tensor]:
        """The parameters of parallel paths, if there are some."""
        return iter(()) if self.paths is None else self.paths.parameters()

    def parameters(self) -> Iterator[Tensor]:
        """All that is trained."""
        others = self.projector_parameters(), self.path_parameters()
        return chain(self.expert_parameters(), self.router_parameters(), *others)

    def expert_state(self) -> dict[str, Tensor]:
        """A and B under PEFT's names, without the prefix that depends on how the model is wrapped."""
        return {
            f"{path}.lora_{part}.weight": linear.weight.detach()
            for path, layer in self.layers.items()
            for part, linear in (("A", layer.down), ("B", layer.up))
        }

    def router_state(self) -> dict[str, Tensor]:
        """The routers' weights by block, and `mean`."""
        state = {f"{block}.weight": router.weight.detach() for block, router in self.routers.items()}
        return state | {"mean": self.mean}

    def projector_state(self) -> dict[str, Tensor]:
        """The projector's tensors, if there is one."""
        return {} if self.projector is None else {k: v.detach() for k, v in self.projector.state_dict().items()}

    def path_state(self) -> dict[str, Tensor]:
        """The tensors of parallel paths, if there are some."""
        return {} if self.paths is None else {k: v.detach() for k, v in self.paths.state_dict().items()}

    def peft_config(self) -> dict[str, Any]:
        """`adapter_config.json` of the plain LoRA that these adapters are under a uniform gate."""
        paths = "|".join(map(re.escape, self.layers))
        return {
            "peft_type": "LORA",
            "task_type": None,
            "r": self.settings.width,
            "lora_alpha": self.settings.alpha / self.settings.rank * self.settings.width,
            "lora_dropout": self.settings.dropout,
            "target_modules": f"(?:{paths})",
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
        }

    def match_precision(self) -> None:
        """For inference: A and B in the precision of their projection, unless that is quantised. Routers stay exact."""
        for layer in self.layers.values():
            if (weight := layer.exact_weight) is not None:
                layer.down.to(weight.dtype)
                layer.up.to(weight.dtype)

    @torch.no_grad()
    def merge(self, model: nn.Module) -> None:
        """Put the uniform mixture into the projections' weights and take the adapters off the model.

        Raises `ModelError` when a projection is quantised: there is no exact weight to add to.
        """
        for path, layer in self.layers.items():
            if (weight := layer.exact_weight) is None:
                raise ModelError(f"{path} is quantised and cannot take up an adapter.", "Merge before quantising.")
            weight.copy_(weight.float() + layer.delta())  # rounded once
            model.set_submodule(path, layer.base_layer)


def attach(model: nn.Module, settings: AdapterSettings, blocks: str) -> Adapters:
    """Freezes a model and puts adapters beside its projections.

    `blocks` is the path of the `ModuleList` of blocks, such as `language_model.layers`. The output is unchanged until
    training moves B. Raises `ModelError` when the settings name blocks or projections that the model does not have.
    """
    model.requires_grad_(False)
    stack = model.get_submodule(blocks)
    assert isinstance(stack, nn.ModuleList)
    chosen = range(len(stack)) if settings.blocks is None else sorted(set(settings.blocks))
    if settings.blocks is not None and not (chosen and chosen[0] >= 0 and chosen[-1] < len(stack)):
        raise ModelError(f"The model has blocks 0 to {len(stack) - 1}, not {list(chosen)}.", "Choose among those.")
    routing, patterns = Routing(), settings.projections or PROJECTIONS
    layers: dict[str, GatedLinear] = {}
    routers: dict[str, Router] = {}
    for place, index in enumerate(chosen):
        gate = Gate()
        routing.gates.append(gate)
        made = {name: GatedLinear(module, settings, gate) for name, module in _projections(stack[index], patterns)}
        routers[f"{blocks}.{index}"] = next(iter(made.values())).lead(place, routing)
        for name, layer in made.items():
            layer.train(layer.base_layer.training)  # a new module is in training mode, whatever the model is in
            stack[index].set_submodule(name, layer)
            layers[f"{blocks}.{index}.{name}"] = layer
    return Adapters(settings, layers, routers, routing)


def _projections(block: nn.Module, patterns: Sequence[str]) -> list[tuple[str, nn.Module]]:
    """The projections that a pattern names, in the order in which the block declares, and so calls, them.

    Linear layers, also quantised ones of another class.
    """
    linear = [(name, module) for name, module in block.named_modules() if name and hasattr(module, "in_features")]
    found = [
        (name, module)
        for name, module in linear
        if any(name.rpartition(".")[2] == pattern or fnmatchcase(name, pattern) for pattern in patterns)
    ]
    if not found:
        raise ModelError(
            f"The model has no projection called {' or '.join(patterns)}.",
            f"Its blocks have {', '.join(name for name, _ in linear)}.",
        )
    return found
