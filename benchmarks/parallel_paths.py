"""What parallel paths cost: `python benchmarks/parallel_paths.py --json`.

Steps of training and passes of inference of `mini` with paths, over the same without, on the same texts:

    step        loss and gradients of a step with P paths, the losses on paths and vCLUB included
    inference   vectors of the same texts, with `combine = "first"`, which computes path 0 alone

for suffixes of one token (at most 1.1 where a text is long beside them), prefixes and experts (at most P: a pass for
each path). A suffix adds P tokens, so its share falls as texts get longer: they are measured at several lengths. Time
is that of the processor, on one thread, so that other programs on the machine count little. Rounds alternate; ratios
are medians over rounds, with the smallest and the largest.
"""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import torch
import typer

from tsembed_search.items import Item
from tsembed_search.model import loading, registry
from tsembed_search.model.backbone import Prepared, Trainable
from tsembed_search.trainer import gradcache, recipe
from tsembed_search.trainer.losses.base import POSITIVE, QUERY, Labels, Shape, label, labels
from tsembed_search.trainer.objective import Objective

WORDS = "river village music church station season family water house king battle school red apple old dog sea".split()
_WHOLE = 10**9  # a budget that makes one piece


def texts(rows: int, length: int) -> tuple[list[Item], Labels]:
    """Queries and targets of `length` words, all different."""
    chance = random.Random(length)
    items = [Item(" ".join(chance.choices(WORDS, k=length))) for _ in range(2 * rows)]
    roles = [QUERY] * rows + [POSITIVE] * rows
    return items, labels(
        [label(role, item, 0, str(at % rows)) for at, (role, item) in enumerate(zip(roles, items, strict=True))]
    )


class Measured:
    """Mini with the recipe `pdf`, its losses, and paths of one kind, or none."""

    def __init__(self, kind: str, count: int) -> None:
        overrides = (f"paths.count={count}", *([f"paths.kind={kind}"] if count else []), "adapter.experts=4", "rank=8")
        chosen = recipe.load("pdf", overrides)
        torch.manual_seed(0)
        backbone: Any = loading.load(registry.resolve("mini-base"), "cpu")
        adapters = backbone.adapt(chosen.adapter)
        if count:
            backbone.add_paths(chosen.paths.settings)
        for parameter in adapters.parameters():
            parameter.requires_grad_(True)
        self.backbone: Trainable = backbone
        shape = Shape(384, *adapters.shape, count, 384 if count else 0)
        self.objective = Objective(chosen.loss, chosen.negatives, shape, paths=chosen.paths)

    def step(self, items: Sequence[Prepared], asked: Labels) -> float:
        """Seconds of one step's loss and gradients."""
        self.backbone.train(True)
        loss = lambda packed: self.objective(packed, asked, 1, 0).total  # noqa: E731
        return _seconds(lambda: gradcache.backward(self.backbone.trace, items, loss, _WHOLE, torch.device("cpu")))

    def inference(self, items: Sequence[Prepared], asked: Labels) -> float:
        """Seconds of one pass without gradients."""
        self.backbone.train(False)
        with torch.inference_mode():
            return _seconds(lambda: self.backbone.forward(items))


def _seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def main(
    rows: Annotated[int, typer.Option(help="Rows of a batch.")] = 16,
    count: Annotated[int, typer.Option(help="Paths.")] = 4,
    rounds: Annotated[int, typer.Option(help="Rounds of each measurement.")] = 5,
    lengths: Annotated[str, typer.Option(help="Words of a text, with commas between.")] = "16,64,200",
    kinds: Annotated[str, typer.Option(help="Kinds of paths, with commas between.")] = "suffix,prefix,expert",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure what paths cost, in shares of the same work without them."""
    torch.set_num_threads(1)
    plain = Measured("suffix", 0)
    found: dict[str, dict[str, list[float]]] = {}
    for kind in kinds.split(","):
        paths = Measured(kind, count)
        for length in map(int, lengths.split(",")):
            items, asked = texts(rows, length)
            ready = [plain.backbone.prepare(item) for item in items]
            for what in ("step", "inference"):
                ratios = []
                for number in range(rounds + 1):
                    models = (plain, paths) if number % 2 else (paths, plain)
                    taken = {one: getattr(one, what)(ready, asked) for one in models}
                    ratios.append(taken[paths] / taken[plain])
                ratios = ratios[1:]  # the first one warms up
                spread = [statistics.median(ratios), min(ratios), max(ratios)]
                found.setdefault(f"{kind} {length}", {})[what] = [round(one, 3) for one in spread]
                if not as_json:
                    print(f"{kind}, {length} words, {what}: {spread[0]:.2f} ({spread[1]:.2f} to {spread[2]:.2f})")
    if as_json:
        print(json.dumps({"paths": count, "rows": rows, "rounds": rounds, "ratios": found}))


if __name__ == "__main__":
    typer.run(main)
