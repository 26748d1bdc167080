"""Validation: how good the model is on rows that it is not trained on.

Every query is ranked against the targets of its task's other rows: quick and the same every time, to steer a run by.
`evaluation` measures what one reports.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tsembed_search.data.rows import Task, ranking_task
from tsembed_search.items import Embeddings, Item, Role
from tsembed_search.model.backbone import Prepared, Trainable
from tsembed_search.model.embedder import batches, forward_stream
from tsembed_search.model.routing import Traced, centred
from tsembed_search.ranking.reranking import DEPTH, Kappas, kappas
from tsembed_search.ranking.similarity import Ranked, rank
from tsembed_search.trainer.batches.features import Preparer
from tsembed_search.trainer.distributed import Processes

_AT_ONCE = 128  # items that are prepared together


@dataclass(frozen=True)
class Ranking:
    """Q queries against C candidates of one task, embedded, with raw routes. `correct`: of each query the right
    candidates, at least one. `left_out`: those that are the query itself, which no query is ranked against.
    """

    meta: str
    queries: Embeddings
    candidates: Embeddings
    correct: Sequence[frozenset[int]]
    left_out: Sequence[frozenset[int]] | None = None

    @property
    def finite(self) -> bool:
        """If all vectors and routes are finite, as they are unless training has diverged."""
        parts = (self.queries.vectors, self.queries.routes, self.candidates.vectors, self.candidates.routes)
        return all(bool(np.isfinite(part).all()) for part in parts)

    def ranked(self) -> Ranked:
        """Rank the candidates. What is no number is like nothing, so that it never makes a good rank."""
        queries, candidates = (_numbers(part.vectors) for part in (self.queries, self.candidates))
        return rank(queries, candidates, self.correct, left_out=self.left_out, depth=DEPTH)

    def kappas(self, ranked: Ranked, mean: Tensor) -> Kappas:
        """Return how alike the routes are, centred by `mean` `[L·E]`."""
        parts = (self.queries, self.candidates)
        queries, candidates = (_numbers(centred(torch.from_numpy(part.routes), mean).numpy()) for part in parts)
        return kappas(ranked, queries, candidates)


def _numbers(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.nan_to_num(rows, nan=0.0, posinf=0.0, neginf=0.0)


@dataclass(frozen=True)
class Validation:
    """`tasks`: per task its meta-task, `hit@1`, `mrr` and `n` queries; `hit` and `mrr` are means over tasks."""

    tasks: Mapping[str, Mapping[str, Any]]
    seconds: float = 0.0

    @property
    def hit(self) -> float:
        """Mean over tasks of the share of queries whose best candidate is right."""
        return self._mean("hit@1")

    @property
    def mrr(self) -> float:
        """Mean over tasks of the mean of 1 / the rank of the best right candidate."""
        return self._mean("mrr")

    def _mean(self, figure: str) -> float:
        return float(sum(task[figure] for task in self.tasks.values()) / max(1, len(self.tasks)))

    def to_json(self) -> dict[str, Any]:
        """As in the log."""
        return {"tasks": dict(self.tasks), "hit@1": self.hit, "mrr": self.mrr}


class Validations:
    """The validations of a run so far: that `before` training, the `last` one, and the `best` one with its step and its
    weights. `waited`: validations without a new best; `step`: that of the last one, -1 for none.
    """

    def __init__(self) -> None:
        self.before: Validation | None = None
        self.last: Validation | None = None
        self.best: tuple[int, Validation] | None = None
        self.best_weights: dict[str, Tensor] = {}
        self.waited = 0
        self.step = -1

    def add(self, step: int, found: Validation, weights: Callable[[], Mapping[str, Tensor]]) -> None:
        """Take in a validation, and keep the weights if it is the best so far. One without tasks says nothing."""
        self.step = step
        if not found.tasks:
            return
        best = self.best is None or found.hit > self.best[1].hit
        self.last, self.waited = found, 0 if best else self.waited + 1
        if step == 0:
            self.before = found
        if best:
            self.best = step, found
            self.best_weights = {name: tensor.detach().cpu().clone() for name, tensor in weights().items()}

    def forget_best(self) -> None:
        """Go on as if nothing had been measured since the beginning: the best weights are lost."""
        self.best, self.waited, self.step = None, 0, -1

    def state_dict(self) -> dict[str, Any]:
        """Return all but the weights, as JSON."""
        return {
            "before": self.before and self.before.to_json(),
            "last": self.last and self.last.to_json(),
            "best": self.best and [self.best[0], self.best[1].to_json()],
            "waited": self.waited,
            "step": self.step,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to what `state_dict` gave."""
        self.before, self.last = (state[which] and Validation(state[which]["tasks"]) for which in ("before", "last"))
        self.best = state["best"] and (int(state["best"][0]), Validation(state["best"][1]["tasks"]))
        self.waited, self.step = int(state["waited"]), int(state["step"])


class Embedding:
    """The model, for measuring: no dropout, no noise, no gradients; training mode afterwards."""

    def __init__(
        self, backbone: Trainable, preparer: Preparer, precision: Callable[[], AbstractContextManager[object]]
    ) -> None:
        self._backbone = backbone
        self._preparer = preparer
        self._precision = precision
        self.remarks: list[str] = []
        """Remarks on items that were left out."""

    def embed(self, wanted: Sequence[tuple[Item, Role]]) -> tuple[Embeddings, list[int]]:
        """Embed items, with raw routes; also the places of those that could be read and fit in memory, in order."""
        found: dict[int, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}
        for at in range(0, len(wanted), _AT_ONCE):
            prepared = self._preparer.prepare(wanted[at : at + _AT_ONCE])
            ready = [(place, one) for place, one in enumerate(prepared, at) if isinstance(one, Prepared)]
            for part, traced in self._traced(ready):
                if traced is None:
                    tokens = part[0][1].tokens
                    self.remarks.append(f"An item of {tokens} tokens does not fit in memory: not measured.")
                    continue
                rows = zip(*(one.float().cpu().numpy() for one in (traced.vectors, traced.routes)), strict=True)
                found.update((place, row) for (place, _), row in zip(part, rows, strict=True))
        places = sorted(found)
        assert self._backbone.adapters is not None
        widths = self._backbone.info.dim, self._backbone.adapters.mean.numel()
        vectors, routes = (
            np.array([found[place][which] for place in places], np.float32).reshape(len(places), width)
            for which, width in enumerate(widths)
        )
        return Embeddings(vectors, routes), places

    def finite(self, items: Sequence[Prepared]) -> bool:
        """Say if the model gives finite vectors for some of these items: finite weights can still be too large."""
        some = list(enumerate(items[:: -(-len(items) // 64) or 1]))
        parts = (part for _, traced in self._traced(some) if traced for part in (traced.vectors, traced.routes))
        return all(bool(torch.isfinite(part).all()) for part in parts)

    def _traced(
        self, ready: Sequence[tuple[int, Prepared]]
    ) -> Iterator[tuple[Sequence[tuple[int, Prepared]], Traced | None]]:
        def trace(batch: Sequence[Prepared]) -> Traced:
            self._backbone.train(False)
            with torch.no_grad(), self._precision():
                return self._backbone.trace(batch, losses=False)

        try:
            yield from forward_stream(trace, batches(ready, self._backbone.batch_tokens, max(1, len(ready))))
        finally:
            self._backbone.train(True)


def rank_tasks(embedding: Embedding, tasks: Sequence[Task], rows: int) -> dict[str, Ranking]:
    """Embed up to `rows` rows of each task, always the same ones, as queries over their targets (see `ranking_task`).

    Tasks with a single target are left out, as are items that cannot be read or do not fit in memory.
    """
    found = {}
    for task in tasks:
        chosen = np.random.default_rng(crc32(task.name.encode())).permutation(len(task))[:rows]
        asked = ranking_task(task, np.sort(chosen).tolist())
        if len(asked.candidates) < 2:
            continue
        wanted: list[tuple[Item, Role]] = [(item, "query") for item in asked.queries]
        wanted += [(item, "document") for item in asked.candidates]
        embedded, places = embedding.embed(wanted)
        split = bisect_left(places, len(asked.queries))
        new = {old - len(asked.queries): place for place, old in enumerate(places[split:])}
        kept, judged = [], []
        for row, old in enumerate(places[:split]):
            both = asked.correct[old], asked.left_out[old] if asked.left_out else frozenset()
            right, itself = (frozenset(new[place] for place in each if place in new) for each in both)
            if right:
                kept.append(row)
                judged.append((right, itself))
        if kept and len(new) > 1:
            queries = Embeddings(embedded.vectors[kept], embedded.routes[kept])
            documents = Embeddings(embedded.vectors[split:], embedded.routes[split:])
            correct, left_out = zip(*judged, strict=True)
            found[task.name] = Ranking(task.meta, queries, documents, correct, left_out)
    return found


def measure(
    embedding: Embedding, tasks: Sequence[Task], rows: int, ranks: Processes
) -> tuple[Validation, dict[str, Ranking]]:
    """Validate, each process a part of the tasks. Return what all know then, and the process's own rankings."""
    started = time.perf_counter()
    own = rank_tasks(embedding, tasks[ranks.rank :: ranks.count], rows)
    scored = {name: score(ranking) for name, ranking in own.items()}
    together = {name: result for part in ranks.collect(scored) for name, result in part.items()}
    ordered = {task.name: together[task.name] for task in tasks if task.name in together}
    return Validation(ordered, time.perf_counter() - started), own


def score(ranking: Ranking) -> dict[str, Any]:
    """Return the figures of one task."""
    ranks = ranking.ranked().ranks
    return {
        "meta": ranking.meta,
        "hit@1": float(ranks.metric("hit@1").mean()),
        "mrr": float(ranks.mrr().mean()),
        "n": len(ranks),
    }
