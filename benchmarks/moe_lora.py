"""What mixing experts costs: MoE-LoRA beside plain LoRA of the same rank, a loop over experts, and PEFT's X-LoRA.

    python benchmarks/moe_lora.py [--rounds N] [--tokens N] [--json]

Two subjects: `block_1536`, a decoder block with the sizes of Qwen2-VL-2B's (random weights, 8 experts of rank 16), and
`mini`, all six layers of mini's encoder (8 experts of rank 4). All their projections are adapted, in float32, as
checkpoints do it by default. Every round times everything twice, in random order; a figure is the median over rounds of
a ratio within a round.

    forward_vs_lora           our forward pass / that of PEFT's LoRA of rank experts x rank     (aim: at most 1.10)
    train_vs_lora             forward, routing losses and backward / forward and backward of that  (at most 1.15)
    forward_vs_base           our forward pass / the model's without adapters
    expert_loop_vs_forward    the adapters' forward pass, one expert after the other / ours            (at least 3)
    xlora_vs_forward          PEFT's X-LoRA with as many experts of the same rank / our forward pass  (at least 1.8)
    route_recording_overhead  our forward pass with routing vectors / without                       (at most 1.02)
    whole_loop_vs_forward     as expert_loop_vs_forward, for the whole model
    adapters_vs_lora          the adapters' forward pass / that of PEFT's LoRA
    peak_memory_mib           resident memory of a process that trains: its base alone, with LoRA, with MoE-LoRA

"The adapters' forward pass" is what they add to the model: all projections get their inputs, the router runs, and the
frozen projections' own results are taken from memory on both sides. In a whole forward pass the frozen weights take
most of the time whoever mixes the experts, and hide how they are mixed.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from tsembed_search.model.backbones import mini_spec
from tsembed_search.model.backbones.mini_encoder import HIDDEN, MiniEncoder
from tsembed_search.model.expert_settings import AdapterSettings
from tsembed_search.model.moe_lora import Adapters, GatedLinear, attach
from tsembed_search.model.routing import load_balance

EXPERTS = 8
SUBJECTS = {"block_1536": (1536, 16, "layers"), "mini": (HIDDEN, 4, "encoder.layer")}
"""Width, rank per expert, and the path of the blocks."""
_HEADS, _KEY_HEADS, _INNER = 12, 2, 8960


class Block(nn.Module):
    """A decoder block with the sizes of Qwen2-VL-2B's, without rotary embeddings: `[B, T, 1536]` to the same."""

    def __init__(self) -> None:
        super().__init__()
        width, keys = 1536, 1536 // _HEADS * _KEY_HEADS
        self.q_proj, self.o_proj = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.k_proj, self.v_proj = nn.Linear(width, keys), nn.Linear(width, keys)
        self.gate_proj, self.up_proj = (nn.Linear(width, _INNER, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(_INNER, width, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """Attention, then the gated inner layer."""
        rows, length, width = hidden.shape
        x = functional.rms_norm(hidden, (width,))
        query = self.q_proj(x).view(rows, length, _HEADS, -1).transpose(1, 2)
        key, value = (proj(x).view(rows, length, _KEY_HEADS, -1).transpose(1, 2) for proj in (self.k_proj, self.v_proj))
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        hidden = hidden + self.o_proj(mixed.transpose(1, 2).reshape(rows, length, width))
        x = functional.rms_norm(hidden, (width,))
        return hidden + cast(Tensor, self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x)))


class Stack(nn.Module):
    """One block in a list, as models have them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Block()])

    def forward(self, hidden: Tensor) -> Tensor:
        """`[B, T, 1536]` to the same."""
        for layer in self.layers:
            hidden = layer(hidden)
        return hidden


class MiniTokens(MiniEncoder):
    """Mini's encoder without its pooling: X-LoRA wants to see tokens."""

    def forward(self, words: Tensor, real: Tensor | None = None) -> Tensor:
        """`[B, T, 384]` to the same."""
        hidden = self.embeddings(words)
        for layer in self.encoder.layer:
            hidden = layer(hidden, None)
        return cast(Tensor, hidden)


class Wrapped(nn.Module):
    """What X-LoRA expects of a model: a `config`, its parts below `model`, and outputs that have `hidden_states`."""

    def __init__(self, model: nn.Module) -> None:
        from transformers import PretrainedConfig

        super().__init__()
        self.model = model
        self.config = PretrainedConfig(use_cache=False)

    def forward(self, inputs_embeds: Tensor, **_: Any) -> SimpleNamespace:
        """Runs the model."""
        return SimpleNamespace(hidden_states=(self.model(inputs_embeds),))


class ExpertLoop(GatedLinear):
    """The same projection, one expert after the other."""

    def forward(self, x: Tensor) -> Tensor:
        """`[B, T, d_in]` to `[B, T, d_out]`."""
        y: Tensor = self.base_layer(x)
        if self.router is not None:
            self.route(x, x.dtype)
        assert self._gate.scale is not None
        rank = self._settings.rank
        for expert in range(self._settings.experts):
            rows = slice(expert * rank, (expert + 1) * rank)
            low = functional.linear(x, self.down.weight[rows])
            y = y + self._gate.scale[..., rows.start : rows.start + 1] * functional.linear(low, self.up.weight[:, rows])
        return y


def base_model(subject: str) -> nn.Module:
    """The model without adapters, frozen."""
    torch.manual_seed(0)
    if subject == "mini":
        from safetensors.torch import load_file

        return MiniTokens.from_state(load_file(mini_spec.verified("encoder")))
    return Stack().eval().requires_grad_(False)


def shared_copy(model: nn.Module) -> Any:
    """A copy that shares the parameters."""
    return copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})


def adapted(model: nn.Module, subject: str, level: str) -> Adapters:
    """Puts MoE-LoRA on a model; B is not zero, so that the results say something."""
    _, rank, blocks = SUBJECTS[subject]
    torch.manual_seed(1)
    adapters = attach(model, AdapterSettings(EXPERTS, level, rank=rank, alpha=2.0 * rank), blocks)
    with torch.no_grad():
        for layer in adapters.layers.values():
            layer.up.weight.normal_(std=0.01)
    return adapters


def plain_lora(model: nn.Module, subject: str, rank: int) -> Any:
    """PEFT's LoRA on all projections."""
    from peft import LoraConfig, get_peft_model

    names = sorted({name for name, module in model.named_modules() if isinstance(module, nn.Linear)})
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names, lora_dropout=0.0)
    return get_peft_model(cast(Any, model), config)


def x_lora(model: nn.Module, subject: str) -> Any:
    """PEFT's X-LoRA with as many experts of the same rank."""
    from peft import XLoraConfig, get_peft_model

    width, rank, _ = SUBJECTS[subject]
    with tempfile.TemporaryDirectory() as folder:
        plain_lora(Wrapped(shared_copy(model)), subject, rank).save_pretrained(folder)
        adapters = {str(expert): folder for expert in range(EXPERTS)}
        wrapped = Wrapped(shared_copy(model))
        return get_peft_model(cast(Any, wrapped), XLoraConfig(hidden_size=width, adapters=adapters))


def inputs(subject: str, tokens: int) -> Tensor:
    """Sequences of 64 tokens, `[B, T, d]`."""
    generator = torch.Generator().manual_seed(2)
    return torch.randn(max(1, tokens // 64), 64, SUBJECTS[subject][0], generator=generator)


def train_moe(model: nn.Module, adapters: Adapters, x: Tensor) -> None:
    """One step without an optimiser: forward, routing losses, backward."""
    with adapters.tracing(None, losses=True) as trace:
        traced = trace.finished(model(x))
    balance = load_balance(traced.probabilities, traced.choices)
    (traced.vectors.square().mean() + 0.01 * balance + 0.001 * traced.z).backward()
    model.zero_grad(set_to_none=True)


def train_lora(model: nn.Module, x: Tensor) -> None:
    """The same of a LoRA."""
    model(x).square().mean().backward()
    model.zero_grad(set_to_none=True)


def contestants(subject: str, tokens: int, level: str) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    base, x = base_model(subject), inputs(subject, tokens)
    ours, loop = shared_copy(base), shared_copy(base)
    adapters, looped = adapted(ours, subject, level), adapted(loop, subject, level)
    for layer in looped.layers.values():
        layer.__class__ = ExpertLoop
    lora, xlora = plain_lora(shared_copy(base), subject, EXPERTS * SUBJECTS[subject][1]), x_lora(base, subject)

    def forward() -> Tensor:
        with torch.no_grad(), adapters.tracing(None) as trace:
            out: Tensor = ours(x)
            trace.routes()
            return out

    def unrecorded() -> Tensor:
        with torch.no_grad(), adapters.tracing(None) as trace:
            trace.add = lambda block, found: None  # type: ignore[method-assign]
            return cast(Tensor, ours(x))

    def in_loop() -> Tensor:
        with torch.no_grad(), looped.tracing(None) as trace:
            out: Tensor = loop(x)
            trace.routes()
            return out

    def without_gradient(model: nn.Module, **arguments: Tensor) -> object:
        with torch.no_grad():
            return model(x) if not arguments else model(**arguments)

    apart = (forward() - in_loop()).abs().max().item()
    assert apart < 1e-3, f"the loop and the layer differ by {apart}"
    return {
        "base": lambda: without_gradient(base),
        "lora": lambda: without_gradient(lora),
        "forward": forward,
        "unrecorded": unrecorded,
        "expert_loop": in_loop,
        "xlora": lambda: without_gradient(xlora, inputs_embeds=x),
        "train": lambda: train_moe(ours, adapters, x),
        "train_lora": lambda: train_lora(lora, x),
    }


class Known(nn.Module):
    """A frozen projection whose result is known already."""

    def __init__(self, base: nn.Linear, out: Tensor) -> None:
        super().__init__()
        self.in_features, self.out_features, self.weight = base.in_features, base.out_features, base.weight
        self.out = out

    def forward(self, x: Tensor) -> Tensor:
        """What was computed before."""
        return self.out


def branches(model: nn.Module, run: Callable[[], object]) -> Callable[[], object]:
    """All adapted projections of a model, each on the input that it gets in `run`, without their frozen parts."""
    found = [module for module in model.modules() if hasattr(module, "base_layer")]
    given: dict[nn.Module, Tensor] = {}
    hooks = [
        module.register_forward_pre_hook(lambda module, arguments: given.__setitem__(module, arguments[0]))
        for module in found
    ]
    run()
    for hook in hooks:
        hook.remove()
    for module in found:
        with torch.no_grad():
            module.base_layer = Known(cast(Any, module.base_layer), cast(Any, module.base_layer)(given[module]))

    def again() -> None:
        with torch.no_grad():
            for module in found:
                module(given[module])

    return again


def traced(adapters: Adapters, run: Callable[[], object]) -> Callable[[], object]:
    """`run` while routes are recorded."""

    def inside() -> None:
        with adapters.tracing(None) as trace:
            run()
            trace.routes()

    return inside


def branch_contestants(subject: str, tokens: int, level: str) -> dict[str, Callable[[], object]]:
    """What is timed of the adapters by themselves, by name."""
    base, x = base_model(subject), inputs(subject, tokens)
    ours, loop = shared_copy(base), shared_copy(base)
    adapters, looped = adapted(ours, subject, level), adapted(loop, subject, level)
    for layer in looped.layers.values():
        layer.__class__ = ExpertLoop
    lora = plain_lora(shared_copy(base), subject, EXPERTS * SUBJECTS[subject][1])
    return {
        "adapters": traced(adapters, branches(ours, traced(adapters, lambda: ours(x)))),
        "adapters_loop": traced(looped, branches(loop, traced(looped, lambda: loop(x)))),
        "adapters_lora": branches(lora, lambda: lora(x)),
    }


def timed(run: Callable[[], object]) -> float:
    """Seconds."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def rounds_of(named: dict[str, Callable[[], object]], rounds: int) -> list[dict[str, float]]:
    """Seconds of each, per round, in an order that changes; each runs twice in a round, and the quicker one counts."""
    for run in named.values():
        run()
    order, seconds = list(named), []
    for turn in range(rounds):
        random.Random(turn).shuffle(order)
        passes = [{name: timed(named[name]) for name in order} for _ in range(2)]
        seconds.append({name: min(one[name] for one in passes) for name in order})
    return seconds


def measure(subject: str, rounds: int, tokens: int, level: str) -> dict[str, Any]:
    """The figures of one subject."""
    peaks = {kind: peak_memory(subject, kind, tokens, level) for kind in ("base", "lora", "moe")}
    named = contestants(subject, tokens, level)
    whole = rounds_of(named, rounds)
    # Two nearly equal times need more rounds to be told apart.
    recording = rounds_of({name: named[name] for name in ("forward", "unrecorded")}, 3 * rounds)
    del named
    parts = rounds_of(branch_contestants(subject, tokens, level), rounds)
    seconds = [{**one, **other} for one, other in zip(whole, parts, strict=True)]

    def ratio(of: str, to: str) -> float:
        return statistics.median(one[of] / one[to] for one in seconds)

    return {
        "forward_vs_lora": ratio("forward", "lora"),
        "train_vs_lora": ratio("train", "train_lora"),
        "forward_vs_base": ratio("forward", "base"),
        "expert_loop_vs_forward": ratio("adapters_loop", "adapters"),
        "xlora_vs_forward": ratio("xlora", "forward"),
        "route_recording_overhead": statistics.median(one["forward"] / one["unrecorded"] for one in recording),
        "whole_loop_vs_forward": ratio("expert_loop", "forward"),
        "adapters_vs_lora": ratio("adapters", "adapters_lora"),
        "peak_memory_mib": peaks,
        "seconds": {name: statistics.median(one[name] for one in seconds) for name in sorted(seconds[0])},
    }


def peak_memory(subject: str, kind: str, tokens: int, level: str) -> float:
    """MiB at the most, in a process of its own that trains for two steps (`base`: that runs forward)."""
    command = [sys.executable, __file__, "--peak", subject, kind, "--tokens", str(tokens), "--level", level]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.splitlines()[-1])


def print_peak(subject: str, kind: str, tokens: int, level: str) -> None:
    """What the process of `peak_memory` does."""
    model, x = base_model(subject), inputs(subject, tokens)
    for name in ("peft", "transformers"):
        __import__(name)  # so that all kinds have the same libraries in memory
    if kind == "moe":
        adapters = adapted(model, subject, level)
        for _ in range(2):
            train_moe(model, adapters, x)
    elif kind == "lora":
        lora = plain_lora(model, subject, EXPERTS * SUBJECTS[subject][1])
        for _ in range(2):
            train_lora(lora, x)
    else:
        with torch.no_grad():
            model(x)
    print(most_memory())


def most_memory() -> float:
    """The most memory that this process has had, MiB."""
    try:
        # getrusage would count what the parent had when it started us
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    except FileNotFoundError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)
    return int(line.split()[1]) / 1024


def main() -> None:
    """Measures and prints; with `--json`, one object last."""
    parser = argparse.ArgumentParser(description=cast(str, __doc__).splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--level", choices=["sequence", "token"], default="sequence")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--peak", nargs=2, metavar=("SUBJECT", "KIND"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print_peak(*options.peak, options.tokens, options.level)
        return
    result = {name: measure(name, options.rounds, options.tokens, options.level) for name in SUBJECTS}
    for name, figures in result.items():
        print(name)
        for figure, value in figures.items():
            print(f"  {figure:<26}{value:8.3f}" if isinstance(value, float) else f"  {figure:<26}{rounded(value)}")
    if options.json:
        print(json.dumps({**result, "level": options.level, "tokens": options.tokens, "rounds": options.rounds}))


def rounded(values: dict[str, float]) -> str:
    """The values for people."""
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())


if __name__ == "__main__":
    main()
