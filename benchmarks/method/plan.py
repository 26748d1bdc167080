"""What runs the experiment is made of: which recipe, what is changed in it, and which seeds.

All runs share data, base, projector, batches, steps and instructions; `COMMON` says them. The variants differ in
nothing else than their recipe's name says. Four experts of rank 1 against one LoRA of rank 4; the rate suits both on
validation, as does that routers go on learning in stage 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

COMMON = (
    "model.base=mini-base",
    "adapter.projector=true",
    "adapter.dropout=0",
    "optimizer.projector_learning_rate=0.0002",
    "batch.size=32",
    "batch.sub_batch=8",
    "run.steps=120",
    "run.validate_every=0",
    "run.checkpoint_every=50",
    "run.validation_rows=100",
)
EXPERTS = ("adapter.experts=4", "adapter.rank=1", "adapter.alpha=2", "stages.router_factor=1")
LORA = ("adapter.rank=4", "adapter.alpha=8")
SEEDS = (0, 1, 2)
VARIANTS = {
    "lora": "one LoRA of as many parameters",
    "moe": "mixture of LoRA experts",
    "moe-eans": "the same with EANS from the first step, by the query's experts",
    "tsembed": "two stages, EANS by the query's experts",
    "shuffled": "control: kappa shuffled among negatives",
    "similarity": "control: weights by cosine",
    "targets": "the whole method: two stages, EANS by the target's experts, and sharper",
    "targets-shuffled": "control: as sharp, and kappa shuffled among negatives",
}
BY_QUERY = ("negatives.compared_with=query", "negatives.beta=1")
BY_TARGET = ("negatives.compared_with=target", "negatives.beta=3")
CONTROLS = {"tsembed": "shuffled", "targets": "targets-shuffled"}
METHOD = "targets"
"""The variant that ablations change one thing in."""
METAS = {
    "classification": ("clipart_folder", "emoji_subgroup", "clothing", "passage_topic"),
    "retrieval": (
        *("clipart_t2i", "clipart_i2t", "emoji_t2i", "emoji_change", "openmoji_i2t", "emoji_style"),
        *("passage", "gloss", "figure"),
    ),
    "vqa": ("shapes_qa", "scene_qa", "map_qa"),
    "grounding": ("scene_part", "map_part"),
}
ABLATIONS: dict[str, tuple[str, ...]] = {
    "E=2": ("adapter.experts=2", "adapter.rank=2", "adapter.alpha=4"),
    "E=8": ("adapter.experts=8",),
    "r=2": ("adapter.rank=2", "adapter.alpha=4"),
    "r=8": ("adapter.rank=8", "adapter.alpha=16"),
    "beta=1": ("negatives.beta=1",),
    "beta=6": ("negatives.beta=6",),
    "by the query": ("negatives.compared_with=query",),
    "switch=0": ("stages.switch=0",),
    "switch=0.6": ("stages.switch=0.6",),
    "routers slowed": ("stages.router_factor=0.1",),
    "tokens=text": ("adapter.tokens=text",),
    "tokens=image": ("adapter.tokens=image",),
    "tokens=last": ("adapter.tokens=last",),
    "token level": ("adapter.level=token",),
    "top 2": ("adapter.top_k=2",),
    "balance=0": ("loss.balance=0",),
    "balance=0.1": ("loss.balance=0.1",),
    "shared expert": ("adapter.shared=true",),
}


@dataclass(frozen=True)
class Run:
    """One training run. `folder` is its place below the experiment's; `tested`: measured on the test split as well;
    `followed`: the path of its adapters is noted.
    """

    folder: str
    recipe: str
    changes: tuple[str, ...]
    seed: int
    tested: bool = False
    followed: bool = False


def variants(seeds: Sequence[int] = SEEDS) -> list[Run]:
    """The variants, seed by seed, so that what is there early can be compared."""
    return [Run(f"variants/{name}-{seed}", *variant(name), seed, tested=True) for seed in seeds for name in VARIANTS]


def variant(name: str) -> tuple[str, tuple[str, ...]]:
    """Its recipe, and what is changed in it: as many parameters for one LoRA as for the experts."""
    by_target = name.startswith("targets")
    recipe = {"targets": "tsembed", "targets-shuffled": "shuffled"}.get(name, name)
    negatives = () if name in ("lora", "moe") else BY_TARGET if by_target else BY_QUERY
    return recipe, (*COMMON, *(LORA if recipe == "lora" else EXPERTS), *negatives)


def isolated(seeds: Sequence[int] = (0,)) -> list[Run]:
    """One adapter for each meta-task, with the steps that the meta-task has in a joint run: its share of the rows."""
    found = []
    for seed in seeds:
        for meta, tasks in METAS.items():
            share = len(tasks) / sum(map(len, METAS.values()))
            steps = round(share * steps_of(COMMON))
            only = f"data.only=[{', '.join(repr(task).replace(chr(39), chr(34)) for task in tasks)}]"
            changes = (
                *variant("lora")[1],
                "batch.task_temperature=inf",
                only,
                f"run.steps={steps}",
                "run.checkpoint_every=5",
            )
            found.append(Run(f"isolated/{meta}-{seed}", "lora", changes, seed, tested=True, followed=True))
        for name, like in (("joint", "lora"), ("joint-experts", "tsembed")):
            changes = (*variant(like)[1], "batch.task_temperature=inf", "run.checkpoint_every=5")
            found.append(Run(f"isolated/{name}-{seed}", like, changes, seed, tested=True, followed=True))
    return found


def ablations(seeds: Sequence[int] = (0,)) -> list[Run]:
    """The whole method with one thing changed. Validation only: nothing is chosen on test."""
    recipe, own = variant(METHOD)
    return [
        Run(f"ablations/{name.replace(' ', '-').replace('=', '-')}-{seed}", recipe, (*own, *changes), seed)
        for seed in seeds
        for name, changes in ABLATIONS.items()
    ]


def steps_of(changes: Sequence[str]) -> int:
    """The planned steps."""
    return int(next(change.partition("=")[2] for change in reversed(changes) if change.startswith("run.steps=")))


TABLES = {"variants": variants, "isolated": isolated, "ablations": ablations}
