"""Routers, and what they leave behind: which experts an item used, as a vector, and two losses on it.

Notation: B items, T tokens, d width, L adapted blocks, E experts. A router's gate is

    token level      g = softmax(W n(x_t) / tau)                                 [B, T, E]
    sequence level   g = softmax(W n(mean over the item's tokens of n(x_t)) / tau)        [B, 1, E]

with n the root-mean-square norm without weights, and x the input of the block's first adapted projection: the block's
own normalised input. That experts disentangle tasks, and that the pattern of experts tells how alike two items are, is
the paper's (TSEmbed, arXiv 2603.04772); the form of router, gate and routing vector is ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from tsembed_search.model.expert_settings import RouterSettings, Tokens


class Gates(NamedTuple):
    """The decision of one router: `gates` and `probabilities` (those before top-k) `[B, T or 1, E]`, and
    `logits` likewise.
    """

    gates: Tensor
    probabilities: Tensor
    logits: Tensor


class Router(nn.Module):
    """The gate of one block. `weight` `[E, d]`. Always computed in float32, whatever the model's precision."""

    def __init__(self, width: int, settings: RouterSettings, device: torch.device | None = None) -> None:
        super().__init__()
        self.settings = settings
        # Normalised inputs have length sqrt(d), so logits start with deviation 1. Drawn on the CPU: see GatedLinear.
        self.weight = nn.Parameter((torch.randn(settings.experts, width) * width**-0.5).to(device))

    def forward(self, x: Tensor, share: Tensor | None) -> Gates:
        """Gates for inputs `x` `[B, T, d]`. `share` `[B, T]`: each token's share of its item (0 on padding), rows sum
        to 1; the sequence level cannot do without it.
        """
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            scale = x.shape[-1] ** 0.5 / torch.linalg.vector_norm(x, dim=-1).clamp_min(1e-6)  # [B, T], n(x) = scale · x
            if self.settings.level == "sequence":
                assert share is not None
                # n(mean of n(x)) without ever holding n(x)
                x = functional.normalize((share * scale).unsqueeze(1) @ x, dim=-1) * x.shape[-1] ** 0.5
                logits = functional.linear(x, self.weight.float())
            else:
                logits = functional.linear(x, self.weight.float()) * scale.unsqueeze(-1)
            logits = logits / self.settings.temperature
            if self.training and self.settings.noise:
                logits = logits + torch.randn_like(logits) * self.settings.noise
            probabilities = logits.softmax(-1)
            return Gates(_top(probabilities, self.settings.top_k), probabilities, logits)


def _top(probabilities: Tensor, count: int | None) -> Tensor:
    """The largest `count` of each row, scaled to sum to 1 again; the others 0."""
    if count is None or count == probabilities.shape[-1]:
        return probabilities
    values, experts = probabilities.topk(count, dim=-1)
    return torch.zeros_like(probabilities).scatter(-1, experts, values / values.sum(-1, keepdim=True))


@dataclass(frozen=True)
class Traced:
    """A batch in training, in its order and with gradients, on the model's device.

    `vectors` `[B, D]` as `forward` gives them. `routes` `[B, L·E]` raw: not centred, each block's E numbers sum to 1.
    `probabilities` `[B, L, E]`: each item's mean probabilities, before top-k. `choices` `[B, L, E]`: the share of its
    tokens that liked each expert best, without gradient. `z`: the mean square of the logits' log-sum-exp, which keeps
    logits small (Zoph et al., arXiv 2202.08906). Together the last three make the routing losses (`load_balance`, and
    `z` itself); without `losses` they are empty and 0. `paths` `[B, P, D]`: the unit vectors of a model's parallel
    paths, of all of them with `losses`, else of those that `vectors` are made of; None without paths. `shallow`
    `[B, K, D]`: the unit vectors after `Adapters.depths`, with `losses`; None where there are none.
    """

    vectors: Tensor
    routes: Tensor
    probabilities: Tensor
    choices: Tensor
    z: Tensor
    paths: Tensor | None = None
    shallow: Tensor | None = None

    def with_shallow(self) -> Traced:
        """Return it with its vectors `[B, 1 + K, D]` taken for the model's own and the `shallow` ones."""
        return replace(self, vectors=self.vectors[:, 0], shallow=self.vectors[:, 1:])


@dataclass
class Trace:
    """The decisions of a model's routers in one forward pass, per item, padding left out.

    `share` `[B, T]` is each token's share of its item, `counted` `[B, T]` its share of the item's route (None: all
    alike). Losses go by all tokens, because every token uses experts. `forced`: the one expert that every token uses,
    whatever the routers say; `prefix`: keys and values `[L, n, d]` that every token sees. Both are of a parallel path.
    """

    share: Tensor | None
    counted: Tensor | None
    losses: bool = False
    forced: int | None = None
    prefix: tuple[Tensor, Tensor] | None = None
    _noted: dict[int, tuple[Tensor, ...]] = field(default_factory=dict)

    def add(self, block: int, found: Gates) -> None:
        """Note one block's gates."""
        noted: tuple[Tensor, ...] = (_mean(found.gates, self.counted),)
        if self.losses:
            experts = found.gates.shape[-1]
            chosen = functional.one_hot(found.probabilities.detach().argmax(-1), experts).to(found.gates.dtype)
            squares = found.logits.logsumexp(-1, keepdim=True).square()
            noted += tuple(_mean(values, self.share) for values in (found.probabilities, chosen, squares))
        self._noted[block] = noted

    def routes(self) -> Tensor:
        """The routing vectors, raw: `[B, L·E]`, each block's E numbers summing to 1."""
        return self._stacked()[0].flatten(1)

    def finished(self, vectors: Tensor) -> Traced:
        """Everything, beside the vectors `[B, D]` that the model gave."""
        gates, *others = self._stacked()
        routes = gates.flatten(1)
        if not others:
            none = routes.new_zeros(len(routes), 0, 0)
            return Traced(vectors, routes, none, none, routes.new_zeros(()))
        probabilities, choices, squares = others
        return Traced(vectors, routes, probabilities, choices, squares.mean())

    def _stacked(self) -> list[Tensor]:
        """All that was noted, each `[B, L, E or 1]`."""
        return [
            torch.stack(values, dim=1) for values in zip(*(self._noted[at] for at in sorted(self._noted)), strict=True)
        ]


def _mean(values: Tensor, share: Tensor | None) -> Tensor:
    """`[B, T or 1, E]` to the mean over each item's tokens `[B, E]`."""
    if values.shape[1] == 1:
        return values.squeeze(1)
    if share is None:
        return values.mean(1)
    return (share.unsqueeze(-1) * values).sum(1)  # a product of matrices would lose digits under autocast


def counted_tokens(tokens: Tokens, real: Tensor, image: Tensor) -> Tensor | None:
    """The tokens `[B, T]` bool that make up a route: the last one, those of the picture, or all but those (`text`, the
    prompt included). An item that has none of them counts by all its tokens. None for `all`.

    `real` `[B, T]` is false on padding, which is at the end; `image` `[B, T]` is true on a picture's tokens.
    """
    if tokens == "all":
        return None
    if tokens == "last":
        return real & (real.cumsum(1) == real.sum(1, keepdim=True))
    chosen = real & (image if tokens == "image" else ~image)
    return torch.where(chosen.any(1, keepdim=True), chosen, real)


def load_balance(probabilities: Tensor, choices: Tensor) -> Tensor:
    """E times the sum over experts of (mean probability · share of first choices), mean over blocks; 1 when balanced.

    `probabilities`, `choices` `[N, L, E]`, over whatever set of items should be balanced: within one task an imbalance
    is specialisation. Fedus et al., *Switch Transformers*, arXiv 2101.03961, equation 4.
    """
    experts = probabilities.shape[-1]
    return experts * (probabilities.mean(0) * choices.mean(0)).sum(-1).mean()


def centred(routes: Tensor, mean: Tensor) -> Tensor:
    """Routing vectors `[N, L·E]` less their training mean `[L·E]`, of unit length (zero stays zero).

    The dot product of two such vectors is kappa, the similarity of two items' expert patterns.
    """
    return functional.normalize(routes - mean, dim=-1)


@dataclass
class Gate:
    """A block's gate while the block runs, ready to multiply with: `[B, T or 1, ranks of all experts]`. `off`: the
    block does without its experts.
    """

    scale: Tensor | None = None
    off: bool = False


class Routing:
    """The state that all routers of a model share while it runs: the trace to note gates in, and the blocks' gates."""

    def __init__(self) -> None:
        self.trace: Trace | None = None
        self.gates: list[Gate] = []
        self.forced: int | None = None
        self.prefix: tuple[Tensor, Tensor] | None = None
        """The expert and the prefix of passes that begin now: see `Trace`."""

    @contextmanager
    def tracing(self, real: Tensor | None, counted: Tensor | None = None, losses: bool = False) -> Iterator[Trace]:
        """Run the model inside. `real` `[B, T]` bool: false on padding (None: there is none). `counted` `[B, T]` bool:
        the tokens that an item's route is made of, all real ones by default. `losses`: note what losses need.
        """
        before, share = self.trace, _share(real)
        trace = self.trace = Trace(
            share, share if counted is None else _share(counted), losses, self.forced, self.prefix
        )
        try:
            yield trace
        finally:
            self.trace = before
            for gate in self.gates:  # gates are as long as the batch, and hold on to its graph
                gate.scale = None

    @contextmanager
    def off(self) -> Iterator[None]:
        """Inside, the model is what it was before it got experts, and nothing is routed."""
        for gate in self.gates:
            gate.off = True
        try:
            yield
        finally:
            for gate in self.gates:
                gate.off = False

    def checkpoint_context(self) -> tuple[nullcontext[None], _Replay]:
        """The `context_fn` for `torch.utils.checkpoint` (with `use_reentrant=False`): a recomputation happens in the
        backward pass, when `tracing` has ended, and has to see the same shares again.
        """
        return nullcontext(), _Replay(self)

    def share_of(self, x: Tensor) -> Tensor:
        """The share of each token of `x` `[B, T, d]` in its item's route. Raises `RuntimeError` outside `tracing`."""
        if self.trace is None:
            raise RuntimeError(
                "A sequence-level router has to know which tokens are real: run the model inside `tracing`, and "
                "checkpoint it with `context_fn=checkpoint_context`."
            )
        if self.trace.counted is None:
            return x.new_full(x.shape[:2], 1 / x.shape[1], dtype=torch.float32)
        return self.trace.counted


class _Replay:
    """Makes a `Routing` what it was when this was made, with an empty trace: what is computed again is noted in another
    one, because checkpointing wants the same operations. Afterwards that and the gates are forgotten, which hold on to
    the graph of what was computed again.
    """

    def __init__(self, routing: Routing) -> None:
        self._routing = routing
        trace = routing.trace
        self._then = trace and (trace.share, trace.counted, trace.losses, trace.forced, trace.prefix)
        self._now: tuple[Trace | None, list[Tensor | None]] = None, []

    def __enter__(self) -> None:
        self._now = self._routing.trace, [gate.scale for gate in self._routing.gates]
        self._routing.trace = self._then and Trace(*self._then)

    def __exit__(self, *exception: object) -> None:
        self._routing.trace, scales = self._now
        for gate, scale in zip(self._routing.gates, scales, strict=True):
            gate.scale = scale
        self._now = None, []


def _share(real: Tensor | None) -> Tensor | None:
    return None if real is None else real.float() / real.sum(1, keepdim=True).clamp_min(1)
