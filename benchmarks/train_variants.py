"""What parallel paths and mined negatives bring, beside their controls, at the same number of steps and seeds.

    python examples/mini/data.py --public --out mini-mmeb
    python benchmarks/train_variants.py train paths --data mini-mmeb --out runs
    python benchmarks/train_variants.py report paths --data mini-mmeb --out runs
    python benchmarks/train_variants.py rates --data mini-mmeb

Two tasks: the word for a gloss (`gloss`, texts alone) and the drawing for a title (`clipart_t2i`). 15% of their
training rows are held out, by identity, and asked for after training: each query over all held-out targets of its
task. The test split of both tasks is asked for as well, and told apart: it chooses nothing.

`train` makes the runs that are missing, seed by seed; it can be stopped and started again. `report` says what is there,
in tables of Markdown: hit@1 and MRR, and what each variant is ahead of others, on the same queries, a mean over
seeds, with 95% intervals bootstrapped over queries, and the difference of each seed beside them. `rates` counts the
mined negatives that are right after all: a variant of the same thing, or asked for by the same words in another row.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer
from numpy.typing import NDArray

from tsembed_search.data import training as training_data
from tsembed_search.data.rows import RankingTask, Row, Task, content, ranking_task
from tsembed_search.data.tasks import load as load_tasks
from tsembed_search.evaluation.diversity import likeness, parted, unit
from tsembed_search.evaluation.evaluate import Distinct, Embedded, EmbeddedTasks, embed_tasks, ranked_tasks
from tsembed_search.evaluation.mining import EmbeddedTask, Mined, Mining, TaskTally, choose, embedded, written
from tsembed_search.model import registry
from tsembed_search.model.backbone import ModelRef
from tsembed_search.model.loading import side_by_side
from tsembed_search.ranking.metrics import Ranks, over_tasks
from tsembed_search.ranking.reranking import DEPTH, Kappas, reranked
from tsembed_search.ranking.similarity import Ranked, best_pairs
from tsembed_search.trainer import recipe
from tsembed_search.trainer.batches.features import remembering
from tsembed_search.trainer.job import Job
from tsembed_search.trainer.loop import train as make_model

app = typer.Typer(add_completion=False, no_args_is_help=True)
TASKS: Final = ("gloss", "clipart_t2i")
BASE: Final = "mini-base"
HELD_OUT: Final = 0.15
METRICS: Final = ("hit@1", "mrr")
HELD, TEST = "values.json", "values-test.json"
TOGETHER: Final = -1
"""In place of a seed: all of them together."""
COMMON: Final = (
    *(f"model.base={BASE}", "adapter.rank=4", "adapter.alpha=8", "adapter.dropout=0"),
    *("batch.size=32", "sub_batch=16", "hard_negatives=0", "separation_warmup=10"),
    *("validate_every=0", "checkpoint_every=0"),
)
Floats = NDArray[np.float64]
Values = dict[str, dict[str, list[list[float]]]]
"""Of each label and metric, the figure of every query, by task."""
Seeds = dict[int, dict[str, list[list[float]]]]
"""Of each seed and metric, the figure of every query, by task."""


@dataclass(frozen=True)
class Variant:
    """`about`: in words. `settings`: changes to the recipe. `rows`: which rows it is trained on, by `ROWS`."""

    about: str
    settings: tuple[str, ...] = ()
    rows: str = ""


@dataclass(frozen=True)
class Table:
    """Variants that are compared, with the `recipe` that they share, and `against` which ones."""

    recipe: str
    variants: dict[str, Variant]
    against: tuple[str, ...]


WIDE: Final = ("batch.size=48",)
"""As many items as 32 rows with a negative each."""
NARROW: Final = ("negatives.hard_negatives=1",)
UNTRAINED: Final = "untrained"
TABLES: Final = {
    "paths": Table(
        "pdf",
        {
            UNTRAINED: Variant("the base as it is"),
            "lora": Variant("no paths", ("paths.count=0",)),
            "long": Variant("as `lora`, for half again as many steps", ("paths.count=0",)),
            "no MIM": Variant("four suffixes, not kept apart", ("separation=none",)),
            "vclub": Variant("four suffixes, kept apart by vCLUB"),
            "orthogonal": Variant("kept apart by their cosines", ("separation=orthogonal", "separation_weight=1")),
            "shuffled": Variant("control: vCLUB on paths of different items", ("separation=vclub-shuffled",)),
            "prefix": Variant("four prefixes of four keys and values", ("paths.kind=prefix", "paths.length=4")),
            "one prefix": Variant(
                "control: one of sixteen, equal parameters",
                ("paths.kind=prefix", "paths.count=1", "paths.length=16"),
            ),
            "experts": Variant(
                "four experts of rank 1, no paths", ("paths.count=0", "adapter.experts=4", "adapter.rank=1")
            ),
            "experts as paths": Variant(
                "path p forces expert p", ("paths.kind=expert", "adapter.experts=4", "adapter.rank=1")
            ),
        },
        ("lora", "long", "no MIM"),
    ),
    "mining": Table(
        "lora",
        {
            UNTRAINED: Variant("the base as it is"),
            "none": Variant("no mined negatives, half again as many rows in a batch", WIDE),
            "random": Variant("one negative of a row, any wrong target", NARROW, "random"),
            "top": Variant("the wrong target that is ranked first", NARROW, "top"),
            "top filtered": Variant("the first one that no margin drops", NARROW, "top filtered"),
            "any": Variant("one of the hundred ranked first", NARROW, "any"),
            "any filtered": Variant("one of those that no margin drops: the default", NARROW, "any filtered"),
            "batches": Variant("no negatives, batches of mutual neighbours after B3", WIDE, "batches"),
        },
        ("none", "random"),
    ),
}
_OPEN: Final = {"margin": 9.0, "query_margin": 9.0, "duplicate_margin": 9.0}
ROWS: Final = {
    "top": Mining(1, choose="top", **_OPEN),
    "top filtered": Mining(1, choose="top"),
    "any": Mining(1, **_OPEN),
    "any filtered": Mining(1),
    "batches": Mining(0, batch=16),
}
"""Settings of the miner, by the rows that it makes; margins of 9 drop nothing."""
LONGER: Final = {"long": 1.5}
Which = Annotated[str, typer.Argument(help=f"Which variants: {', '.join(TABLES)}.")]
Data = Annotated[Path, typer.Option("--data", help="The folder of `python examples/mini/data.py`.")]
Out = Annotated[Path, typer.Option("--out", help="Where the runs are.")]


@app.command()
def train(
    which: Which,
    data: Data,
    out: Out,
    seeds: Annotated[int, typer.Option(help="Runs of each variant.")] = 3,
    steps: Annotated[int, typer.Option(help="Steps of a run.")] = 25,
    variant: Annotated[list[str] | None, typer.Option("--variant", help="Only these variants.")] = None,
) -> None:
    """Make the runs that are missing, and measure each on the rows that are held out, and on the test split."""
    table = TABLES[which]
    rows, asked = parts(data)
    last = tests(data)
    bare = [Bare(task) for task in rows]
    for seed in range(seeds):
        for name, one in table.variants.items():
            folder = out / which / f"{name.replace(' ', '-')}-{seed}"
            if (variant and name not in variant) or (folder / TEST).is_file() or (name == UNTRAINED and seed):
                continue
            if name == UNTRAINED:
                measure(registry.resolve(BASE), asked, last, folder)
                continue
            settings = (f"steps={round(steps * LONGER.get(name, 1))}", f"seed={seed}")
            chosen = recipe.load(table.recipe, (*COMMON, *one.settings, *settings))
            if not (folder / "model").is_dir():
                own = mined(one.rows, bare, out / which) if one.rows else rows
                make_model(Job(chosen, own, [], folder, "cpu", resume=(folder / "run.json").is_file()))
            measure(registry.resolve(folder / "model"), asked, last, folder)


def tests(data: Path) -> list[RankingTask]:
    """Return the test split of the tasks."""
    found = {task.name: task for task in load_tasks([data], splits=["test"], only=TASKS).tasks}
    return [found[name] for name in TASKS]


def parts(data: Path) -> tuple[Sequence[Task], list[RankingTask]]:
    """Return the rows to train on, and those that are held out, as queries over their targets."""
    files = [data / "train" / f"{task}.jsonl" for task in TASKS]
    found = training_data.load(files, validation=HELD_OUT)
    return found.train, [ranking_task(task, range(len(task))) for task in found.validation]


@dataclass(frozen=True, eq=False)
class Bare:
    """A task without the negatives that its rows bring."""

    task: Task

    @property
    def name(self) -> str:
        """The task's name."""
        return self.task.name

    @property
    def meta(self) -> str:
        """Its meta-task."""
        return self.task.meta

    @property
    def weight(self) -> float:
        """Its share of the draws."""
        return self.task.weight

    def __len__(self) -> int:
        return len(self.task)

    def __getitem__(self, row: int) -> Row:
        return replace(self.task[row], negatives=())

    def identity(self, row: int) -> str:
        """The row's identity."""
        return self.task.identity(row)

    def batch(self, row: int) -> int:
        """The row's batch."""
        return self.task.batch(row)


def mined(how: str, tasks: Sequence[Bare], folder: Path) -> Sequence[Task]:
    """Return rows with the negatives that the untrained model finds for them; they are found once."""
    path = folder / f"{how.replace(' ', '-')}.jsonl"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        rows = [one for task in tasks for one in found_for(how, task)]
        path.write_text("".join(written(one, BASE, path.absolute().parent) + "\n" for one in rows), encoding="utf-8")
    return training_data.load([path], validation=0).train


def found_for(how: str, task: Bare) -> Iterator[Mined]:
    """Mine one task."""
    if how in ROWS:
        yield from choose(by_base(task), ROWS[how], TaskTally(task.name))
        return
    known, dice = by_base(task), random.Random(0)
    items, correct = known.ranking.candidates, known.ranking.correct
    for number, row in enumerate(known.rows):
        wrong = dice.choice([at for at in range(len(items)) if at not in correct[number]])
        yield Mined(replace(row, negatives=(items[wrong],)), task.name, None, 0.0)


@cache
def by_base(task: Bare) -> EmbeddedTask:
    """Embed a task by the untrained model."""
    return embedded(remembering(registry.resolve(BASE)), task)


def measure(ref: ModelRef, held: Sequence[RankingTask], last: Sequence[RankingTask], folder: Path) -> None:
    """Write a model's figures, query by query, and its vectors for what was held out."""
    embedder, count = remembering(ref), 1
    folder.mkdir(parents=True, exist_ok=True)
    if getattr(embedder.backbone.adapters, "paths", None) is not None:  # type: ignore[attr-defined]
        count = side_by_side(embedder.backbone).count
    for file, tasks in ((HELD, held), (TEST, last)):
        every = embed_tasks(embedder, tasks, lambda done, total: None)
        assert not every.queries.failed and not every.documents.failed
        values = figures(tasks, every, count)
        like = likeness(parted(np.asarray(every.documents.vectors), count)) if count > 1 else None
        said = {
            "values": values,
            "likeness": like and {"cosine": like.cosine, "cka": like.alignment, "rank": like.rank},
        }
        if file == HELD:
            np.savez(
                folder / "vectors.npz",
                queries=np.asarray(every.queries.vectors).astype(np.float16),
                documents=np.asarray(every.documents.vectors).astype(np.float16),
            )
        (folder / file).write_text(json.dumps(said), encoding="utf-8")
        means = ", ".join(f"{label} {100 * mean_of(found['hit@1']):.1f}" for label, found in values.items())
        print(f"{folder.name}, {file}: {means}", flush=True)


def figures(tasks: Sequence[RankingTask], every: EmbeddedTasks, count: int) -> Values:
    """Return the figures of each path, and of all in several ways, of vectors `[N, count · D]` side by side."""
    found: Values = {}

    def add(label: str, ranks: Sequence[Ranks]) -> None:
        found[label] = {metric: [one.metric(metric).tolist() for one in ranks] for metric in METRICS}

    def ranked(change: Any = None, paths: int = 1, depth: int = 0) -> list[Ranked]:
        changed = every if change is None else every.changed(change)
        return [one.ranked for one in ranked_tasks(tasks, changed.of_tasks(), depth, paths)]

    first = ranked(lambda whole: unit(parted(whole, count)[:, 0]), depth=DEPTH)
    add("path 0", [one.ranks for one in first])
    if count == 1:
        return found
    for path in range(1, count):
        add(f"path {path}", [one.ranks for one in ranked(lambda whole, path=path: unit(parted(whole, count)[:, path]))])
    paths = [found[f"path {path}"] for path in range(count)]
    found["oracle"] = best_of(paths)
    add("mean", [one.ranks for one in ranked(lambda whole: unit(parted(whole, count).mean(1)))])
    add("concat", [one.ranks for one in ranked()])
    add("maxsim", [one.ranks for one in ranked(paths=count)])
    by_paths = [of_pairs(one, *own, count) for one, own in zip(first, every.of_tasks(), strict=True)]
    for weight in (0.5, 1.0):
        again = [reranked(one, kappas, weight) for one, kappas in zip(first, by_paths, strict=True)]
        add(f"first hits again, weight {weight:g}", again)
    return found


def of_pairs(ranked: Ranked, asked: Embedded, offered: Embedded, count: int) -> Kappas:
    """Return MaxSim of queries with their right candidates and their best wrong ones, in place of kappa."""
    queries, items = asked.vectors, offered.vectors
    pairs = zip(ranked.rows.tolist(), ranked.right.tolist(), strict=True)
    right = [best_pairs(queries[row : row + 1], items[np.array([place])], count)[0, 0] for row, place in pairs]
    wrong = [best_pairs(queries[row : row + 1], items[places], count)[0] for row, places in enumerate(ranked.wrong)]
    return Kappas(np.array(right, np.float32), np.array(wrong, np.float32))


def best_of(some: Sequence[dict[str, list[list[float]]]]) -> dict[str, list[list[float]]]:
    """Return the figures of whichever ranking is best for each query."""
    return {
        metric: [np.max([one[metric][task] for one in some], axis=0).tolist() for task in range(len(TASKS))]
        for metric in METRICS
    }


def mean_of(found: Sequence[Sequence[float]]) -> float:
    """Return the mean over tasks, which count alike."""
    return float(np.mean([np.mean(task) for task in found]))


@app.command()
def report(which: Which, data: Data, out: Out) -> None:
    """Print the figures of the runs that are there, and their differences, in percent and points."""
    table = TABLES[which]
    runs = read(out / which, table)
    _, tasks = parts(data)
    if together := ensemble([out / which / f"lora-{seed}" for seed in runs.get("lora", {})], tasks):
        runs["ensemble of seeds"] = {TOGETHER: {"values": together, "likeness": None}}
    compare(table, runs)
    print("\n| variant | cosine | CKA | effective rank | oracle less best path | less the same of seeds |")
    print("|---|---|---|---|---|---|")
    chance = None
    if len(runs.get("lora", {})) > 1:
        seeds = [run["values"]["path 0"] for run in runs["lora"].values()]
        chance = mean_of(best_of(seeds)["hit@1"]) - max(mean_of(one["hit@1"]) for one in seeds)
        print(f"| lora, {len(seeds)} seeds | | | | {100 * chance:+.1f} | |")
    for name, own in runs.items():
        if likes := [run["likeness"] for run in own.values() if run["likeness"]]:
            gaps = [oracle_gap(run["values"]) for run in own.values()]
            shown = [f"{np.mean([like[key] for like in likes]):.3f}" for key in ("cosine", "cka", "rank")]
            beyond = "" if chance is None else f"{100 * (np.mean(gaps) - chance):+.1f}"
            print("|", " | ".join([name, *shown, f"{100 * np.mean(gaps):+.1f}", beyond]), "|")
    if last := read(out / which, table, TEST):
        print("\nThe test split\n")
        compare(table, last)


def compare(table: Table, runs: dict[str, dict[int, Any]]) -> None:
    """Print the figures of runs, and their differences."""
    paths = table is TABLES["paths"]
    columns = ["variant", "seeds", "hit@1", "over seeds", "MRR", *(f"less {name}" for name in table.against)]
    columns += ["less its path 0"] if paths else []
    print("|", " | ".join(columns), "|")
    print("|" + "---|" * len(columns))
    for name, own in runs.items():
        every = {label for run in own.values() for label in run["values"]}
        order = ("path 0", "mean", "concat", "maxsim", "oracle")
        for label in [*(one for one in order if one in every), *sorted(one for one in every if " hits " in one)]:
            called = name if label == "path 0" else f"{name}, {label}"
            others = [of_label(runs.get(other, {})) if other != called else {} for other in table.against]
            others += [of_label(own) if label != "path 0" else {}] if paths else []
            print(line(called, of_label(own, label), others))


def read(folder: Path, table: Table, file: str = HELD) -> dict[str, dict[int, Any]]:
    """Return the runs that are there: variant, then seed."""
    found: dict[str, dict[int, Any]] = {}
    for name in table.variants:
        for path in sorted(folder.glob(f"{name.replace(' ', '-')}-[0-9]/{file}")):
            seed = int(path.parent.name.rpartition("-")[2])
            found.setdefault(name, {})[seed] = json.loads(path.read_text("utf-8"))
    return found


def of_label(runs: dict[int, Any], label: str = "path 0") -> Seeds:
    """Return the figures of one label, by seed."""
    return {seed: run["values"][label] for seed, run in runs.items()}


def oracle_gap(values: Values) -> float:
    """Return what the oracle of the paths finds beyond the best path."""
    paths = [mean_of(found["hit@1"]) for label, found in values.items() if label.startswith("path ")]
    return mean_of(values["oracle"]["hit@1"]) - max(paths)


def ensemble(folders: Sequence[Path], tasks: Sequence[RankingTask]) -> Values | None:
    """Return the figures of several models' vectors side by side: their mean cosine. None for fewer than two."""
    if len(folders) < 2:
        return None
    sides = []
    for side in ("queries", "documents"):
        vectors = np.concatenate([np.load(folder / "vectors.npz")[side] for folder in folders], 1)
        sides.append(Embedded(unit(vectors.astype(np.float32)), np.zeros((len(vectors), 0), np.float32), {}))
    return figures(tasks, EmbeddedTasks(*sides, places(tasks)), 1)


def places(tasks: Sequence[RankingTask]) -> list[tuple[Any, Any]]:
    """Return which queries and documents each task has, as `embed_tasks` numbers them."""
    queries, documents = Distinct("query"), Distinct("document")
    return [(queries.rows_of(task.queries), documents.rows_of(task.candidates)) for task in tasks]


def line(name: str, own: Seeds, others: Sequence[Seeds]) -> str:
    """Return a row of the table."""
    hits = np.array([mean_of(one["hit@1"]) for one in own.values()])
    mrr = np.mean([mean_of(one["mrr"]) for one in own.values()])
    deviation = f"{100 * hits.std(ddof=1):.1f}" if len(hits) > 1 else ""
    cells = [name, str(len(hits)), f"{100 * hits.mean():.1f}", deviation, f"{100 * mrr:.1f}"]
    return "| " + " | ".join(cells + [difference(own, other) for other in others]) + " |"


def difference(own: Seeds, other: Seeds) -> str:
    """Say how far hit@1 is ahead, with its interval, by how much with each seed, and the same of MRR without that.

    Seeds that both have are compared; what is made of all seeds together, with the mean over the other's.
    """
    seeds = sorted(own.keys() & other.keys())
    if not other or (not seeds and TOGETHER not in own):
        return ""
    said = []
    for metric in METRICS:
        first, second = ([side[seed][metric] for seed in seeds or side] for side in (own, other))
        gaps = [
            (np.mean([one[task] for one in first], axis=0) - np.mean([one[task] for one in second], axis=0))[:, None]
            for task in range(len(TASKS))
        ]
        (gap,) = over_tasks(gaps, TASKS)
        said.append(f"{100 * gap.mean:+.1f} ({100 * gap.low:+.1f} to {100 * gap.high:+.1f})")
    each = ", ".join(f"{100 * (mean_of(own[seed]['hit@1']) - mean_of(other[seed]['hit@1'])):+.1f}" for seed in seeds)
    return f"{said[0]}; {each or 'together'}; MRR {said[1]}"


@app.command()
def rates(data: Data, task: Annotated[list[str] | None, typer.Option("--task", help="Tasks to mine.")] = None) -> None:
    """Print how many of the negatives that are mined are right after all, in percent, and how many rows get none."""
    files = [data / "train" / f"{name}.jsonl" for name in task or ("clipart_t2i", "emoji_t2i")]
    tasks = [Bare(one) for one in training_data.load(files, validation=0, instructions="field").train]
    print("| negatives |", *(f"{one.name}, right | without |" for one in tasks))
    print("|---|" + "---|---|" * len(tasks))
    for how in ("random", *ROWS):
        cells = []
        for one in tasks:
            rows = list(found_for(how, one))
            pairs = mates(rows) if ROWS.get(how, Mining()).batch else negatives(rows)
            right = right_after_all([row.row for row in rows], pairs)
            cells += [f"{100 * right:.2f}", f"{100 - 100 * len({row for row, _ in pairs}) / len(rows):.1f}"]
        print("|", " | ".join([how, *cells]), "|", flush=True)


def negatives(rows: Sequence[Mined]) -> list[tuple[int, int]]:
    """Return each row's number with the content of its negative."""
    return [(number, content(item)) for number, one in enumerate(rows) for item in one.row.negatives]


def mates(rows: Sequence[Mined]) -> list[tuple[int, int]]:
    """Return each row's number with the content of every other target in its batch."""
    of_batch: dict[str, dict[str, int]] = {}
    for one in rows:
        of_batch.setdefault(one.batch, {})[one.row.identity] = content(one.row.positive)
    return [
        (number, target)
        for number, one in enumerate(rows)
        for identity, target in of_batch[one.batch].items()
        if identity != one.row.identity
    ]


def right_after_all(rows: Sequence[Row], pairs: Sequence[tuple[int, int]]) -> float:
    """Return the share of pairs of a row and a target where the target is of the row's own group, a variant of the same
    thing, or is asked for by the same words in another row.
    """
    groups, words = defaultdict(set), defaultdict(set)
    for row in rows:
        groups[content(row.positive)].add(row.group)
        words[content(row.positive)].add((row.query.text or "").casefold())
    right = [
        rows[number].group in groups[target] or (rows[number].query.text or "").casefold() in words[target]
        for number, target in pairs
    ]
    return float(np.mean(right))


if __name__ == "__main__":
    app()
