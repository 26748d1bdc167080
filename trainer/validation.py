"""Validation: how good the model is on rows that it is not trained on.

Every query is ranked against the targets of its task's other rows: quick and the same every time, to steer a run by.
`evaluation` measures what one reports.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from tsembed_search.data.rows import Row, Task
from tsembed_search.data.sameness import content, question
from tsembed_search.items import Embeddings, Item, Role
from tsembed_search.model.backbone import Prepared, Trainable
from tsembed_search.model.embedder import batches, in_fitting_parts
from tsembed_search.model.routing import Traced
from tsembed_search.ranking.similarity import Ranked, rank
from tsembed_search.trainer.batches.features import Preparer
from tsembed_search.trainer.distributed import Processes

_AT_ONCE = 128  # items that are prepared together


@dataclass(frozen=True)
class Ranking:
    """Q queries against C candidates of one task, with raw routes. `correct`: the places of each query's right
    candidates, one or more; `left_out`: those that it is not ranked against, the query itself that is.
    """

    meta: str
    queries: Embeddings
    candidates: Embeddings
    correct: Sequence[frozenset[int]]
    left_out: Sequence[frozenset[int]]

    @property
    def finite(self) -> bool:
        """Say if all vectors and routes are finite numbers."""
        parts = (self.queries.vectors, self.queries.routes, self.candidates.vectors, self.candidates.routes)
        return all(bool(np.isfinite(part).all()) for part in parts)

    def ranked(self, depth: int = 0) -> Ranked:
        """Rank by cosine, and keep the `depth` best wrong candidates."""
        return rank(self.queries.vectors, self.candidates.vectors, self.correct, left_out=self.left_out, depth=depth)


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

    def _mean(self, name: str) -> float:
        return sum(task[name] for task in self.tasks.values()) / max(1, len(self.tasks))

    def to_json(self) -> dict[str, Any]:
        """Return it as in the log."""
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
        """What a person should know of items that were left out."""

    def embed(self, wanted: Sequence[tuple[Item, Role]]) -> tuple[Embeddings, list[int]]:
        """Embed items, with raw routes; also return the places of those that could be read and fit in memory."""
        self._backbone.train(False)
        try:
            parts = [self._some(wanted[at : at + _AT_ONCE]) for at in range(0, len(wanted), _AT_ONCE)]
        finally:
            self._backbone.train(True)
        places = [at * _AT_ONCE + place for at, (_, own) in enumerate(parts) for place in own]
        vectors, routes = (np.concatenate([getattr(part, of) for part, _ in parts]) for of in ("vectors", "routes"))
        return Embeddings(vectors, routes), places

    def finite(self, items: Sequence[Prepared]) -> bool:
        """Say if the model, as it is now, gives finite vectors and routes for some of these items.

        Weights that are finite can be too large for what is computed with them.
        """
        some = items[:: -(-len(items) // 64) or 1]
        self._backbone.train(False)
        try:
            for batch in batches(enumerate(some), self._backbone.batch_tokens, max(1, len(some))):
                for _, traced in in_fitting_parts(self._traced, batch):
                    if traced is not None:
                        fine = torch.isfinite(traced.vectors).all() & torch.isfinite(traced.routes).all()
                        if not bool(fine):
                            return False
            return True
        finally:
            self._backbone.train(True)

    def _some(self, wanted: Sequence[tuple[Item, Role]]) -> tuple[Embeddings, list[int]]:
        prepared = self._preparer.prepare(wanted)
        ready = [(place, one) for place, one in enumerate(prepared) if isinstance(one, Prepared)]
        assert self._backbone.adapters is not None
        vectors = np.empty((len(prepared), self._backbone.info.dim), np.float32)
        routes = np.empty((len(prepared), self._backbone.adapters.mean.numel()), np.float32)
        places: list[int] = []
        for batch in batches(ready, self._backbone.batch_tokens, _AT_ONCE):
            for part, traced in in_fitting_parts(self._traced, batch):
                if traced is None:
                    self.remarks.append(f"An item of {part[0][1].tokens} tokens does not fit in memory: not measured.")
                    continue
                rows = [place for place, _ in part]
                vectors[rows], routes[rows] = (one.float().cpu().numpy() for one in (traced.vectors, traced.routes))
                places += rows
        places.sort()
        return Embeddings(vectors[places], routes[places]), places

    def _traced(self, batch: Sequence[tuple[int, Prepared]]) -> Traced:
        with torch.no_grad(), self._precision():
            return self._backbone.trace([one for _, one in batch], losses=False)


def rank_tasks(embedding: Embedding, tasks: Sequence[Task], rows: int) -> dict[str, Ranking]:
    """Embed up to `rows` rows of each task, always the same ones, and what each query is ranked against: the targets
    of these rows. Right are those of its own identity and all that other rows name for the same query. Tasks with a
    single target are left out.
    """
    found = {}
    for task in tasks:
        chosen = np.random.default_rng(crc32(task.name.encode())).permutation(len(task))[:rows]
        own = [task[int(row)] for row in np.sort(chosen)]
        targets: dict[tuple[int, str], Row] = {}
        for row in own:
            targets.setdefault((content(row.positive), row.identity), row)
        if len(targets) < 2:
            continue
        wanted: list[tuple[Item, Role]] = [(row.query, "query") for row in own]
        wanted += [(row.positive, "document") for row in targets.values()]
        embedded, places = embedding.embed(wanted)
        split = sum(place < len(own) for place in places)
        candidates = list(targets.values())
        ranked = [candidates[place - len(own)] for place in places[split:]]
        correct, left_out = _judged([own[place] for place in places[:split]], ranked, own)
        kept = [place for place, right in enumerate(correct) if right]
        if kept and len(ranked) > 1:
            found[task.name] = Ranking(
                task.meta,
                Embeddings(embedded.vectors[kept], embedded.routes[kept]),
                Embeddings(embedded.vectors[split:], embedded.routes[split:]),
                [correct[place] for place in kept],
                [left_out[place] - correct[place] for place in kept],
            )
    return found


def _judged(
    queries: Sequence[Row], targets: Sequence[Row], rows: Sequence[Row]
) -> tuple[list[frozenset[int]], list[frozenset[int]]]:
    """The places of the right targets of each query, and of those that are the query itself; of targets of `rows`."""
    right: dict[int, set[int]] = defaultdict(set)
    identities: dict[int, set[str]] = defaultdict(set)
    for row in rows:
        asked = question(row.query)
        right[asked] |= {content(row.positive), *row.answers}
        identities[asked].add(row.identity)
    of_content: dict[int, set[int]] = defaultdict(set)
    of_identity: dict[str, set[int]] = defaultdict(set)
    for place, row in enumerate(targets):
        of_content[content(row.positive)].add(place)
        of_identity[row.identity].add(place)
    correct, itself = [], []
    for row in queries:
        asked = question(row.query)
        by_content = (of_content.get(one, set()) for one in right[asked])
        by_identity = (of_identity.get(one, set()) for one in identities[asked])
        correct.append(frozenset().union(*by_content, *by_identity))
        itself.append(frozenset(of_content.get(content(row.query), ())))
    return correct, itself


def measure(
    embedding: Embedding, tasks: Sequence[Task], rows: int, processes: Processes
) -> tuple[Validation, dict[str, Ranking]]:
    """Validate; each process takes a part of the tasks, and all of them know the result. Also return the process's own
    rankings; those with numbers that are not finite count nowhere.
    """
    started = time.perf_counter()
    own = rank_tasks(embedding, tasks[processes.rank :: processes.count], rows)
    scored = {name: score(ranking) for name, ranking in own.items() if ranking.finite}
    together = {name: result for part in processes.collect(scored) for name, result in part.items()}
    ordered = {task.name: together[task.name] for task in tasks if task.name in together}
    return Validation(ordered, time.perf_counter() - started), own


def score(ranking: Ranking) -> dict[str, Any]:
    """Return the figures of one task."""
    ranks = ranking.ranked().ranks
    return {
        "meta": ranking.meta,
        "hit@1": float(ranks.hit(1).mean()),
        "mrr": float(ranks.mrr().mean()),
        "n": len(ranks),
    }
