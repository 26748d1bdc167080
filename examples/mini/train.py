"""Makes the model that ships as `mini`: `python examples/mini/train.py DATA OUT`.

DATA is the folder of `python examples/mini/data.py --public`. Two halves, each a recipe: `mini-eyes` trains the
projector on pictures with titles, `mini` trains experts on all tasks, while documents and bare texts are held where
they are.

Pictures of a kind that training never sees decide how far the first half goes. A head that was trained on clip art sees
clip art better and photographs worse; between the untrained and the trained weights lie some that are better at both
(Wortsman et al., arXiv 2109.01903). The share of the change that finds most in `unseen_validation` is kept.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, cast

import numpy as np
import torch
import typer

from tsembed_search.data import training as training_data
from tsembed_search.data.rows import RankingTask
from tsembed_search.data.tasks import load as load_tasks
from tsembed_search.evaluation.evaluate import evaluate
from tsembed_search.model import checkpoint, loading, registry
from tsembed_search.model.backbone import Trainable
from tsembed_search.model.embedder import Embedder
from tsembed_search.trainer import recipe as recipes
from tsembed_search.trainer.batches.features import remembering
from tsembed_search.trainer.job import Job
from tsembed_search.trainer.loop import train
from tsembed_search.trainer.settings import Recipe

HERE = Path(__file__).parent
SHARES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 1.0)
BASE = "mini-base"
_METRICS = ("hit@1", "recall@10")
_CARD = """---
library_name: peft
license: apache-2.0
tags: [tsembed, moe-lora]
---

# mini

The default model of TSEmbed: MiniLM's encoder and EfficientNet-Lite2's eye (`mini-base`), with a trained projector and
four experts of rank 2 in each of six blocks, with one router each. English texts, pictures, and both at once, in 384
dimensions.

**Trained on** eleven tasks of `python examples/mini/data.py --public`: openclipart (public domain), Fluent emoji and
their labels (MIT), Fashion-MNIST (MIT), easy-VQA (MIT), WordNet (its own permissive licence). No share-alike or GPL
data. Weights: Apache-2.0. `tsembed.json` has both recipes and all settings; `python examples/mini/train.py` makes it
again.

**How good it is**, with intervals, and what it cannot do: `docs/results/mini.md` in the repository. In short: it finds
drawings, icons and objects by what they show better than its base does, and texts nearly as well as MiniLM (recall@10
.932 against .937). It knows no people, brands or places, no fine detail of photographs, no text inside pictures, and
no language but English.
"""


def run(recipe: Recipe, data: Path, out: Path) -> Path:
    """Trains by a recipe, or goes on with a run that was cut short. Gives the checkpoint's folder."""
    if (out / "model").is_dir():
        return out / "model"
    chosen = recipe.data
    where = None if chosen.instructions == "layout" else chosen.instructions
    loaded = training_data.load([str(data)], only=chosen.only, instructions=where)
    resume = (out / "run.json").is_file()
    train(Job(recipe, loaded.train, loaded.validation, out, resume=resume, sources=(data.name,)))
    return out / "model"


def with_share(source: Path, tasks: Sequence[RankingTask], out: Path) -> float:
    """Saves the checkpoint with the share of its projector's change that finds most in `tasks`; says which."""
    ref = registry.resolve(source)
    embedder = remembering(ref)
    backbone = cast(Trainable, embedder.backbone)
    assert backbone.adapters is not None
    whole = {name: tensor.clone() for name, tensor in backbone.adapters.projector_state().items()}
    found: dict[float, float] = {}
    for share in SHARES:
        _scale(backbone.adapters.projector_state(), whole, share)
        found[share] = measured(embedder, tasks)
        typer.echo(f"share {share}: {found[share]:.4f} of unseen kinds found", err=True)
    best = max(SHARES, key=lambda share: found[share])
    _scale(backbone.adapters.projector_state(), whole, best)
    said = checkpoint.read(source)
    recipe = dict(said.recipe) | {"projector_share": best}
    checkpoint.save(out, backbone, loading.base_behind(ref), data=said.data, recipe=recipe, metrics=said.metrics)
    return best


def measured(embedder: Embedder, tasks: Sequence[RankingTask]) -> float:
    """The mean over tasks, and over recall at 1 and at 10."""
    return float(np.mean([task.values.mean() for task in evaluate(embedder, tasks, metrics=_METRICS).tasks]))


@torch.no_grad()
def _scale(own: dict[str, torch.Tensor], whole: dict[str, torch.Tensor], share: float) -> None:
    for name, tensor in own.items():
        tensor.copy_(whole[name] * share)


def finished(whole: Path, eyes: Path, out: Path, seed: int, unseen: dict[str, float]) -> None:
    """Saves the model with all that is known of how it was made, and a model card. Its routes do not count in
    reranking: no form of it was found that helps (`docs/results/mini.md`).
    """
    ref = registry.resolve(whole)
    said, first = checkpoint.read(whole), checkpoint.read(eyes)
    checkpoint.save(
        out,
        cast(Trainable, loading.load(ref, "cpu")),
        loading.base_behind(ref),
        route_weight=0.0,
        data={"sources": ["python examples/mini/data.py --public"], "tasks": said.data["tasks"]},
        recipe={
            "made_by": "python examples/mini/train.py",
            "seed": seed,
            "eyes": dict(first.recipe),
            "experts": dict(said.recipe) | {"model": {"base": "the model of the first half"}},
        },
        metrics={"validation": dict(said.metrics), "unseen_validation": unseen},
    )
    (out / checkpoint.CARD).write_text(_CARD, encoding="utf-8")


def main(
    data: Annotated[Path, typer.Argument(help="The folder of `python examples/mini/data.py --public`.")],
    out: Annotated[Path, typer.Argument(help="Where runs and the model go.")],
    seed: Annotated[int, typer.Option(help="Of every random choice.")] = 0,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE of the second recipe, such as loss.depths=[3].")
    ] = None,
) -> None:
    """Trains, chooses and saves OUT/mini. What is done already is not done again."""
    unseen = load_tasks([data], splits=["unseen_validation"]).tasks
    eyes = run(recipes.load(str(HERE / "mini-eyes.toml"), [f"run.seed={seed}"]), data, out / "eyes-run")
    if not (out / "eyes").is_dir():
        with_share(eyes, unseen, out / "eyes")
    base = f"model.base={json.dumps(str(out / 'eyes'))}"
    whole = run(recipes.load(str(HERE / "mini.toml"), [f"run.seed={seed}", base, *(changes or ())]), data, out / "run")
    named = {"before": BASE, "after": str(whole)}
    figures = {what: measured(remembering(registry.resolve(name)), unseen) for what, name in named.items()}
    typer.echo(f"of unseen kinds found: {figures['before']:.4f} before, {figures['after']:.4f} after", err=True)
    finished(whole, out / "eyes", out / "mini", seed, figures)


if __name__ == "__main__":
    typer.run(main)
