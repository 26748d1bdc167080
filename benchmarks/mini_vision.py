"""Mini's vision tower on the engine and in PyTorch, against the same network in naive eager PyTorch, in one run:
`python benchmarks/mini_vision.py`.

The rounds alternate, so that a machine that slows down slows both. Prints one JSON object last.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from typing import Annotated

import torch
import typer
from naive_tower import NaiveTower

from tsembed_search.model.backbones import mini_spec
from tsembed_search.model.backbones.mini_eye import Eye
from tsembed_search.model.backbones.mini_vision import VisionTower


def _rate(run: Callable[[], object], pictures: int) -> float:
    start = time.perf_counter()
    run()
    return pictures / (time.perf_counter() - start)


def main(
    rounds: Annotated[int, typer.Option(help="Alternating rounds.")] = 9,
    pictures: Annotated[int, typer.Option(help="Pictures in a round.")] = 48,
    batch: Annotated[int, typer.Option(help="Batch size of both.")] = 16,
    json_only: Annotated[bool, typer.Option("--json", help="Print the JSON object only.")] = False,
) -> None:
    """Measures pictures per second of the towers and the medians of the ratios."""
    torch.set_grad_enabled(False)
    eye = Eye(None)
    state = torch.load(mini_spec.verified("vision"), map_location="cpu", weights_only=True)
    naive, tower = NaiveTower(state), VisionTower(state, mini_spec.IMAGE_SIZE, torch.device("cpu"))
    pixels = torch.randint(0, 256, (pictures, mini_spec.IMAGE_SIZE, mini_spec.IMAGE_SIZE, 3), dtype=torch.uint8)
    prepared = (pixels.permute(0, 3, 1, 2).float() - 127) / 128
    prepared = prepared.contiguous()

    def run_naive(size: int) -> None:
        for part in prepared.split(size):
            naive(part)

    difference = (tower.logits(pixels[:8]) - naive(prepared[:8])).abs().max().item()
    whole = torch.softmax(tower.logits(pixels[:8]) / mini_spec.TEMPERATURE, dim=-1)
    apart = (torch.from_numpy(eye.see(list(pixels[:8].numpy()))[1]) - whole).abs().max().item()
    run_naive(batch)
    rows = []
    for _ in range(rounds):
        fast = _rate(lambda: [tower.logits(part) for part in pixels.split(batch)], pictures)
        slow = _rate(lambda: run_naive(batch), pictures)
        alone = _rate(lambda: run_naive(1), pictures)
        engine = _rate(lambda: [eye.see(list(part.numpy())) for part in pixels.split(batch)], pictures)
        rows.append((fast, slow, alone, engine))
        if not json_only:
            speeds = {"engine": engine, "PyTorch": fast, "naive": slow, "naive, one by one": alone}
            typer.echo("   ".join(f"{name} {speed:6.1f}/s" for name, speed in speeds.items()))
    ratios = sorted(fast / slow for fast, slow, _, _ in rows)
    gains = sorted(engine / fast for fast, _, _, engine in rows)
    result = {
        "engine_vs_pytorch": statistics.median(gains),
        "engine_vs_pytorch_range": [gains[0], gains[-1]],
        "vs_naive_eager": statistics.median(ratios),
        "vs_naive_eager_range": [ratios[0], ratios[-1]],
        "vs_naive_one_by_one": statistics.median(fast / alone for fast, _, alone, _ in rows),
        "pictures_per_second": statistics.median(fast for fast, _, _, _ in rows),
        "pictures_per_second_on_the_engine": statistics.median(engine for _, _, _, engine in rows),
        "largest_logit_difference": difference,
        "largest_difference_of_probabilities": apart,
        "batch": batch,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    typer.echo(json.dumps(result))


if __name__ == "__main__":
    typer.run(main)
