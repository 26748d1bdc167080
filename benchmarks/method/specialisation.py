"""What the experts of a trained model are used for, on the validation rows: who uses which, and what kappa tells.

Gates are shares, so an item counts for several experts, each by its share. Information is in bits, and what labels
dealt out at random would seem to tell (the bias of a small sample) is subtracted. Kappa is that of the negatives
weighing and of reranking: the cosine of two items' routes after subtracting the training mean.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, Final

import numpy as np
import running
import runs
from numpy.typing import NDArray
from runs import Floats, Json

from tsembed_search.ranking.similarity import similarity

ROWS: Final = 60
"""Queries of each task, at most."""
RESULT: Final = "specialisation.json"
VARIANTS: Final = ("moe", "moe-eans", "tsembed", "targets")
"""Whose experts are looked at: not those of the controls."""
_SHUFFLES: Final = 20

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Embedded:
    """Queries and their right candidates, N of each: `vectors` `[N, D]`, `gates` `[N, L, E]`, `routes` `[N, L·E]`
    centred, first of the queries, then of the candidates. `tasks` `[N]` and `kinds` `[2N]` (text, image or both) are
    labels; `right` `[N, N]`: which candidates are right for which queries.
    """

    vectors: tuple[Floats, Floats]
    gates: tuple[Floats, Floats]
    routes: tuple[Floats, Floats]
    tasks: Ints
    kinds: tuple[Ints, Ints]
    right: NDArray[np.bool_]
    names: tuple[str, ...]


def table(out: Path, data: Path) -> Json:
    """{run: figures} of the variants, measured once for each checkpoint and kept beside it."""
    there = runs.found(out, "variants")
    return {
        f"{name}-{seed}": measured(folder, data)
        for name in VARIANTS
        for seed, folder in there.get(name, {}).items()
        if (folder / "model").is_dir()
    }


def measured(folder: Path, data: Path) -> Json:
    """The figures of one run, from its file where it has been measured."""
    path = folder / RESULT
    if not path.is_file():
        path.write_text(json.dumps(figures(embedded(folder / "model", data))), encoding="utf-8")
    return dict(json.loads(path.read_text(encoding="utf-8")))


def embedded(model: Path, data: Path) -> Embedded:
    """Embeds some validation queries of each task, and one right candidate of each."""
    from tsembed_search.data.tasks import load

    embedder = running.remembering(str(model))
    tasks = load([data], splits=("validation",), limit=ROWS).tasks
    queries = [query for task in tasks for query in task.queries]
    places = [(number, min(right)) for number, task in enumerate(tasks) for right in task.correct]
    items = [tasks[number].candidates[place] for number, place in places]
    correct = [right for task in tasks for right in task.correct]
    right = np.asarray(
        [
            [one == other and place in correct[row] for other, place in places]
            for row, (one, _) in enumerate(places)
        ]
    )  # fmt: skip
    sides = [_embed(embedder, queries, "query"), _embed(embedder, items, "document")]
    (asked, asked_gates, asked_routes), (found, found_gates, found_routes) = sides
    return Embedded(
        (asked, found),
        (asked_gates, found_gates),
        (asked_routes, found_routes),
        np.asarray([number for number, _ in places]),
        (_kinds(queries), _kinds(items)),
        right,
        tuple(task.name for task in tasks),
    )


def figures(given: Embedded) -> Json:
    """`routing` {queries, candidates: {task_bits, kind_bits, task_bits_within_kind (means over blocks), blocks (task
    bits of each), entropy, dead, load [L][E]}} and `kappa` {within, across (deviations), correlation_within,
    correlation_all, auc, cosine_auc, auc_all, hard_auc, hard_auc_target}, the latter means over tasks unless they are
    over all.
    """
    sides = zip(("queries", "candidates"), given.gates, given.kinds, strict=True)
    return {
        "tasks": list(given.names),
        "routing": {name: routing(gates, given.tasks, kinds) for name, gates, kinds in sides},
        "kappa": kappa(given),
    }


def routing(gates: Floats, tasks: Ints, kinds: Ints) -> Json:
    """Who uses which experts, for gates `[N, L, E]`."""
    experts = gates.shape[-1]
    load = gates.mean(axis=0)
    blocks = information(gates, tasks)
    within = [
        (float((kinds == kind).mean()), information(gates[kinds == kind], tasks[kinds == kind]))
        for kind in set(kinds.tolist())
    ]
    return {
        "task_bits": float(blocks.mean()),
        "most_bits": float(np.log2(experts)),
        "kind_bits": float(information(gates, kinds).mean()),
        "task_bits_within_kind": sum(share * float(bits.mean()) for share, bits in within),
        "blocks": blocks.tolist(),
        "entropy": float(entropy(gates).mean() / np.log2(experts)) if experts > 1 else None,
        "dead": int((load < 1 / (10 * experts)).sum()),
        "load": load.tolist(),
    }


def information(gates: Floats, labels: Ints) -> Floats:
    """`[L]`: mutual information in bits between an item's label and its expert, for gates `[N, L, E]`; every label
    counts alike, and the mean over shuffled labels is subtracted.
    """
    random = np.random.default_rng(0)
    chance = np.mean([_plug_in(gates, random.permutation(labels)) for _ in range(_SHUFFLES)], axis=0)
    bits: Floats = _plug_in(gates, labels) - chance
    return bits


def entropy(shares: Floats) -> Floats:
    """Bits, over the last axis."""
    logs = np.log2(shares, where=shares > 0, out=np.zeros_like(shares))
    bits: Floats = -(shares * logs).sum(axis=-1)
    return bits


def kappa(given: Embedded) -> Json:
    """What kappa tells about negatives, and how far cosine would have told the same.

    A negative is hard if it is among the tenth of its task's that have the highest cosine with the query. `hard_auc`
    and `hard_auc_target`: how often a hard one is above another one by the likeness of its experts to the query's, and
    to the right candidate's.
    """
    likeness, cosine = similarity(*given.routes), similarity(*given.vectors)
    to_target = similarity(given.routes[1], given.routes[1])
    same = given.tasks[:, None] == given.tasks[None, :]
    negative = ~given.right
    within, correlations, areas, cosine_areas, hard_areas = [], [], [], [], []
    for task in range(len(given.names)):
        rows = given.tasks == task
        pairs, right = np.ix_(rows, rows), given.right[np.ix_(rows, rows)]
        own, own_cosine = likeness[pairs], cosine[pairs]
        if right.all():
            continue
        within.append(float(own[~right].std()))
        correlations.append(correlation(own[~right], own_cosine[~right]))
        areas.append(area(own[right], own[~right]))
        cosine_areas.append(area(own_cosine[right], own_cosine[~right]))
        hard = ~right & (own_cosine >= np.quantile(own_cosine[~right], 0.9))
        easy = ~right & ~hard
        if easy.any():
            hard_areas.append([area(one[hard], one[easy]) for one in (own, to_target[pairs])])
    return {
        "within": mean(within),
        "across": float(likeness[negative & ~same].std()),
        "correlation_within": _mean(correlations),
        "correlation_all": correlation(likeness[negative], cosine[negative]),
        "auc": mean(areas),
        "cosine_auc": mean(cosine_areas),
        "auc_all": area(likeness[given.right], likeness[negative]),
        "hard_auc": mean(one for one, _ in hard_areas),
        "hard_auc_target": mean(one for _, one in hard_areas),
    }


def area(positive: Floats, negative: Floats) -> float:
    """The area under the ROC curve: how often a positive is above a negative, a draw counting half."""
    order = np.sort(negative)
    below, upto = np.searchsorted(order, positive, "left"), np.searchsorted(order, positive, "right")
    return float((below + upto).mean() / (2 * len(negative)))


def correlation(one: Floats, other: Floats) -> float | None:
    """Pearson's; None where one side does not vary."""
    if one.std() == 0 or other.std() == 0:
        return None
    return float(np.corrcoef(one, other)[0, 1])


def _plug_in(gates: Floats, labels: Ints) -> Floats:
    """`[L]`: entropy of the mean gate, less the mean entropy of the labels' mean gates."""
    means = np.stack([gates[labels == label].mean(axis=0) for label in np.unique(labels)])
    bits: Floats = entropy(means.mean(axis=0)) - entropy(means).mean(axis=0)
    return bits


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return mean(known) if known else None


def _kinds(items: Sequence[Any]) -> Ints:
    """0 for text, 1 for a picture, 2 for both."""
    return np.asarray([0 if item.image is None else 1 if not item.text else 2 for item in items])


def _embed(embedder: Any, items: Sequence[Any], role: str) -> tuple[Floats, Floats, Floats]:
    """Vectors, raw gates and centred routes of items, all of which can be read."""
    import torch

    from tsembed_search.model.embedder import batches
    from tsembed_search.model.routing import centred

    backbone = embedder.backbone
    adapters = backbone.adapters
    blocks, experts = adapters.shape
    vectors = np.zeros((len(items), backbone.info.dim))
    routes = np.zeros((len(items), blocks * experts))
    prepared = ((row, embedder.prepare(item, role)) for row, item in enumerate(items))
    backbone.train(False)
    for batch in batches(prepared, embedder.batch_tokens):
        with torch.inference_mode():
            found = backbone.trace([one for _, one in batch], losses=False)
        rows = [row for row, _ in batch]
        vectors[rows], routes[rows] = found.vectors.double().numpy(), found.routes.double().numpy()
    away = centred(torch.from_numpy(routes), adapters.mean.double()).numpy()
    return vectors, routes.reshape(len(items), blocks, experts), away
