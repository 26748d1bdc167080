"""What experts cost against their number: parameters, time of a forward pass, and memory of a training step.

The subject is mini's encoder with all its projections adapted, in float32 on the CPU, on random sequences. A LoRA of
rank 32 is what times are ratios of: the same code with one expert, which has no choice to make. Each round times
everything, in an order that changes; ratios are within a round, and the median over rounds counts. Memory is what a
step keeps for its backward pass, counted exactly; time on a busy machine is not as exact.
"""

from __future__ import annotations

import copy
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from runs import Json

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tsembed_search.model.moe_lora import Adapters

RESULT: Final = "cost.json"
EXPERTS: Final = (1, 2, 4, 8, 16)
TOTAL_RANK: Final = 32
RANK: Final = 8
_ITEMS, _TOKENS = 16, 48
_BLOCKS = "encoder.layer"


def table(out: Path, rounds: int = 15) -> Json:
    """The figures, from the experiment's folder if they have been measured before."""
    path = out / RESULT
    if not path.is_file():
        out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(measured(rounds)), encoding="utf-8")
    return dict(json.loads(path.read_text(encoding="utf-8")))


def measured(rounds: int) -> Json:
    """`equal_total_rank` and `equal_rank_per_expert`: rows of {experts, rank, parameters, routers, adapter_bytes (of
    one copy of the trained weights), kept_bytes (for the backward pass, per item), latency (over the LoRA's)}.
    """
    import torch
    from safetensors.torch import load_file

    from tsembed_search.model.backbones import mini_spec
    from tsembed_search.model.backbones.mini_encoder import HIDDEN, MiniEncoder

    base = MiniEncoder.from_state(load_file(mini_spec.verified("encoder")))
    x = torch.randn(_ITEMS, _TOKENS, HIDDEN, generator=torch.Generator().manual_seed(0))
    shapes = {
        "equal_total_rank": [(experts, TOTAL_RANK // experts) for experts in EXPERTS],
        "equal_rank_per_expert": [(experts, RANK) for experts in EXPERTS],
    }
    subjects = {shape: adapted(base, *shape) for rows in shapes.values() for shape in rows}
    ratios = latencies({shape: _inference(*subject, x) for shape, subject in subjects.items()}, (1, TOTAL_RANK), rounds)

    def row(shape: tuple[int, int]) -> Json:
        model, adapters = subjects[shape]
        experts, rank = shape
        own = sum(tensor.numel() for tensor in adapters.expert_parameters())
        routers = sum(tensor.numel() for tensor in adapters.router_parameters())
        return {
            "experts": experts,
            "rank": rank,
            "parameters": own,
            "routers": routers,
            "adapter_bytes": 4 * (own + routers),
            "kept_bytes": kept(lambda: _tokens(model, x), model, adapters) // _ITEMS,
            "latency": ratios[shape],
        }

    return {
        "items": _ITEMS,
        "tokens": _TOKENS,
        "rounds": rounds,
        **{name: [row(shape) for shape in rows] for name, rows in shapes.items()},
    }


def adapted(base: nn.Module, experts: int, rank: int) -> tuple[nn.Module, Adapters]:
    """A model that shares the base's weights, with adapters."""
    from tsembed_search.model.expert_settings import AdapterSettings
    from tsembed_search.model.moe_lora import attach

    model: Any = copy.deepcopy(base, {id(parameter): parameter for parameter in base.parameters()})
    adapters = attach(model, AdapterSettings(experts, rank=rank, alpha=2.0 * rank), _BLOCKS)
    return model, adapters


def kept(run: Callable[[], object], model: nn.Module, adapters: Adapters) -> int:
    """Bytes that a training step keeps for its backward pass when it `run`s a model, weights left out, everything
    counted once.
    """
    import torch

    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *adapters.parameters()]}
    found: dict[int, tuple[int, Tensor]] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes(), tensor  # held, so that its place is not used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), adapters.tracing(None, losses=True):
        run()
    return sum(size for size, _ in found.values())


def latencies(
    named: dict[tuple[int, int], Callable[[], object]], reference: tuple[int, int], rounds: int
) -> dict[tuple[int, int], float]:
    """Median over rounds of each one's time over the reference's; each runs twice in a round, the quicker counts."""
    for run in named.values():
        run()
    ratios: dict[tuple[int, int], list[float]] = {name: [] for name in named}
    order = list(named)
    for turn in range(rounds):
        random.Random(turn).shuffle(order)
        passes = [{name: _timed(named[name]) for name in order} for _ in range(2)]
        best = {name: min(one[name] for one in passes) for name in order}
        for name, seconds in best.items():
            ratios[name].append(seconds / best[reference])
    return {name: statistics.median(found) for name, found in ratios.items()}


def _tokens(model: Any, x: Tensor) -> Tensor:
    """Mini's encoder from embedded words `[B, T, d]` to tokens."""
    hidden: Tensor = model.embeddings(x)
    for layer in model.encoder.layer:
        hidden = layer(hidden, None)
    return hidden


def _inference(model: nn.Module, adapters: Adapters, x: Tensor) -> Callable[[], object]:
    """A forward pass of all items, routes included."""
    import torch

    def run() -> object:
        with torch.inference_mode(), adapters.tracing(None) as trace:
            _tokens(model, x)
            return trace.routes()

    return run


def _timed(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
