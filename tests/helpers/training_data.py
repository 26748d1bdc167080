"""Tasks made on the spot."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from tsembed_search.data.rows import Row
from tsembed_search.items import Item
from tsembed_search.model.backbones import mini_encoder
from tsembed_search.trainer import distributed, recipe, report
from tsembed_search.trainer.job import Job
from tsembed_search.trainer.settings import Recipe


@dataclass
class Listed:
    """A task whose rows are a list."""

    name: str
    rows: list[Row]
    meta: str = ""
    weight: float = 1.0
    batches: list[int] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> Row:
        return self.rows[row]

    def identity(self, row: int) -> str:
        return self.rows[row].identity

    def batch(self, row: int) -> int:
        return 0 if self.batches is None else self.batches[row]


def listed(name: str, identities: list[str], meta: str = "", weight: float = 1.0) -> Listed:
    """A row per identity: its name as the target, and a question about it."""
    rows = [Row(Item(f"{name} {one} number {at}"), Item(f"the {one}"), one) for at, one in enumerate(identities)]
    return Listed(name, rows, meta, weight)


COLOURS = ["red", "green", "blue", "white", "black", "yellow", "pink", "brown"]
CODES = ["music", "winter", "doctor", "paper", "silver", "river", "history", "sugar", "king", "war", "moon", "school"]
THINGS = ["apple", "boat", "cat", "door", "engine", "flower", "glove", "house", "island", "jar", "kite", "lamp"]


def two_tasks() -> list[Listed]:
    """Something to learn: a code word for each thing, and colours by their opposite of sorts."""
    words = [
        Row(Item(f"code {CODES[at]}"), Item(f"a {thing}"), thing, (Item(f"no {thing}"),), f"words:{at + 1}")
        for at, thing in enumerate(THINGS)
    ]
    colours = [
        Row(Item(f"what is {one} number {number}"), Item(COLOURS[at - 1]), COLOURS[at - 1], origin=f"colours:{at}")
        for at, one in enumerate(COLOURS)
        for number in range(3)
    ]
    return [Listed("words", words, "retrieval"), Listed("colours", colours, "classification")]


def few_targets() -> list[Listed]:
    """Twelve rows of two targets."""
    return [listed("few", ["yes", "no"] * 6)]


def small(*overrides: str) -> Recipe:
    """The whole method, in a minute's shape: eight rows a step, dropout and noise on."""
    fixed = ("steps=6", "batch.size=8", "sub_batch=4", "rank=2", "validate_every=3", "checkpoint_every=2", "workers=1")
    return recipe.load("tsembed", (*fixed, "warmup=1", *overrides))


def job(out: Path, *overrides: str, **changes: Any) -> Job:
    """A job on `two_tasks`, validated on the same rows."""
    return replace(Job(small(*overrides), two_tasks(), two_tasks(), out, "cpu"), **changes)


def run_code(code: str, environment: dict[str, str], errors: Path) -> None:
    """Runs Python code as a process of its own would, in one that is forked with everything imported, on the model of
    the fixture `small_base`.
    """
    os.environ.update(environment)
    torch.set_num_threads(1)
    mini_encoder._LAYERS = 2
    report._plots = lambda kinds: {}  # as the fixture `no_plots`
    distributed._TIME_TO_SPEAK = 0.1  # nothing ends the other processes while the first one speaks
    file = os.open(errors, os.O_WRONLY | os.O_CREAT)
    os.dup2(file, 2)
    sys.stderr = os.fdopen(file, "w", encoding="utf-8", errors="backslashreplace")
    exec(code, {"__name__": "__main__"})


def weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint."""
    return {
        name: tensor
        for file in ("adapter_model.safetensors", "router.safetensors")
        for name, tensor in load_file(folder / file).items()
    }


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether two sets of tensors are the same to the last bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
