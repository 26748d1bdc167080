"""Fits mini's table of word vectors for picture classes: `python examples/mini/soft_caption.py OUT`.

No picture is needed. Class probabilities p are drawn at random (a class, its neighbours in meaning, noise); the target
is what MiniLM makes of the class names themselves, averaged by p (ConSE, Norouzi et al., arXiv 1312.5650), and for a
picture with a word ("red"), what it makes of the names with that word. The table [1000, 4, 384] learns to give MiniLM
input vectors `p @ table` that lead there: textual inversion (Gal et al., arXiv 2208.01618), for every class at once.
Takes about ten minutes on two cores. `quality.py` measures the result.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from torch import Tensor

from tsembed_search.items import Item
from tsembed_search.model.backbones.mini import Mini
from tsembed_search.model.backbones.mini import load as load_mini
from tsembed_search.model.backbones.mini_spec import TEMPERATURE, TOP_CLASSES
from tsembed_search.model.embedder import Embedder

TOKENS = 4
_BATCH = 96
_RATE = 3e-3

# fmt: off
_BEFORE = (
    "red", "blue", "green", "yellow", "black", "white", "orange", "pink", "purple", "brown", "golden", "silver",
    "small", "big", "old", "new", "young", "happy", "sad", "angry", "sleeping", "broken", "wooden", "metal",
    "plastic", "glass", "wild", "baby", "open", "empty", "wet", "burning", "flying", "running", "striped", "spotted",
    "round", "square", "cute", "ancient", "modern", "cooked", "raw", "toy", "cartoon", "two", "many",
)
# fmt: on
_AFTER = ("in the snow", "at night", "on a table", "in the water", "in a city", "in the forest", "with a hat", "eating")


def class_names() -> list[tuple[list[str], str]]:
    """The 1,000 classes in index order: their names (the usual one first) and WordNet's gloss."""
    file = resources.files("tsembed_search.model") / "data/imagenet_classes.json"
    classes = json.loads(file.read_text(encoding="utf-8"))["classes"]
    return [([name.strip() for name in names.split(",")], gloss) for _, names, gloss in classes]


def texts(embedder: Embedder, lines: Sequence[str]) -> Tensor:
    """Embeds texts: `[N, 384]`."""
    return torch.from_numpy(embedder.embed([Item(text=line) for line in lines]).vectors)


def class_targets(embedder: Embedder, gloss: float) -> Tensor:
    """What each class means: all its names, which count 2 together, and its gloss. `[1000, 384]`, unit length."""
    classes = class_names()
    flat = [(index, name) for index, (names, _) in enumerate(classes) for name in names]
    sums = torch.zeros(len(classes), 384)
    sums.index_add_(0, torch.tensor([index for index, _ in flat]), texts(embedder, [name for _, name in flat]))
    glosses = texts(embedder, [f"{names[0]}: {gloss}" for names, gloss in classes])
    return F.normalize(2 * F.normalize(sums, dim=-1) + gloss * glosses, dim=-1)


def joint_targets(embedder: Embedder) -> tuple[list[str], Tensor]:
    """Words that go with a picture `[J]`, and what each class's name means with them: `[J, 1000, 384]`."""
    names = [names[0] for names, _ in class_names()]
    words = [*_BEFORE, *_AFTER]
    composed = [[f"{word} {name}" for name in names] for word in _BEFORE]
    composed += [[f"{name} {word}" for name in names] for word in _AFTER]
    return words, torch.stack([texts(embedder, lines) for lines in composed])


def random_probabilities(meaning: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Class probabilities like a classifier's, from sharp to nearly flat: `[count, 1000]`, the top 100 kept."""
    classes = len(meaning)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    chosen = torch.randint(classes, (count,), generator=generator)
    gumbel = -torch.log(-torch.log(uniform(count, classes).clamp(1e-9, 1 - 1e-7)))
    logits = (meaning @ meaning.T)[chosen] * 8 * uniform(count, 1) + gumbel * (0.3 + 2 * uniform(count, 1))
    logits.scatter_add_(1, chosen[:, None], 8 * uniform(count, 1))
    values, kept = torch.softmax(logits / TEMPERATURE, dim=-1).topk(TOP_CLASSES, dim=-1)
    return torch.zeros(count, classes).scatter_(1, kept, values / values.sum(dim=-1, keepdim=True))


def first_table(mini: Mini) -> Tensor:
    """Where fitting starts: the word pieces of each class's usual name, spread over the tokens."""
    rows = []
    for names, _ in class_names():
        ids = mini.prepare(Item(text=names[0])).data.ids[:TOKENS]
        rows.append(mini.encoder.words(torch.tensor([ids[place * len(ids) // TOKENS] for place in range(TOKENS)])))
    return torch.stack(rows)


def fit(mini: Mini, steps: int, seed: int, gloss: float = 1.0) -> Tensor:
    """Fits the table by Adam with a cosine schedule. Returns `[1000, 4, 384]` float32."""
    generator = torch.Generator().manual_seed(seed)
    embedder = Embedder(mini)
    meaning = class_targets(embedder, gloss)
    words, joint = joint_targets(embedder)
    word_ids = [torch.tensor(mini.prepare(Item(text=word)).data.ids) for word in words]
    first, last = mini.encoder.words(torch.tensor(mini.ends)).unbind()
    table = first_table(mini).requires_grad_()
    optimizer = torch.optim.Adam([table])
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = _RATE * min(1.0, step / 30) * (1 + math.cos(math.pi * step / steps)) / 2
        probabilities = random_probabilities(meaning, _BATCH, generator)
        caption = torch.einsum("bc,cmd->bmd", probabilities, table)
        target, tail = probabilities @ meaning, []
        if step % 3 == 2:
            choice = int(torch.randint(len(words), (), generator=generator))
            target = probabilities @ joint[choice]
            tail = [mini.encoder.words(word_ids[choice]).expand(_BATCH, -1, -1)]
        ends = first.expand(_BATCH, 1, -1), last.expand(_BATCH, 1, -1)
        vectors = mini.encoder(torch.cat([ends[0], caption, *tail, ends[1]], dim=1))
        target = F.normalize(target, dim=-1)
        agreement = (vectors * target).sum(dim=-1).mean()
        # Neighbours must stay neighbours, not only each vector near its target.
        loss = 1 - agreement + 2 * F.mse_loss(vectors @ vectors.T, target @ target.T)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % 50 == 0:
            typer.echo(f"step {step + 1} of {steps}: cosine to the target {agreement.item():.4f}", err=True)
    return table.detach()


def main(
    out: Annotated[Path, typer.Argument(help="Where to write the table, a .safetensors file.")],
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 1500,
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 0,
    gloss: Annotated[float, typer.Option(help="Weight of a class's gloss; its names have 2.")] = 1.0,
) -> None:
    """Fits the table and writes it in float16 (3 MB)."""
    from safetensors.torch import save_file

    table = fit(load_mini("cpu"), steps, seed, gloss)
    save_file({"table": table.half().contiguous()}, out)


if __name__ == "__main__":
    typer.run(main)
