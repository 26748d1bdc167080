"""Parallel paths: one input, several embeddings, by what is put beside it or by which experts it may use.

That one model gives several embeddings of one input, each conditioned on learned prefixes and trained by its own
contrastive loss, and that one path is enough at inference, is the paper's (PDF, *Explore More, Learn Better*, arXiv
2511.01588). The tokens after the input and their gates, and paths that are experts, are ours; so are all numbers.

    suffix   path 0 is the input's own vector. Behind the input stand n learned tokens for each other path; they see the
             input, and it does not see them. Such a path is the input's own vector plus what its tokens saw, by a gate
             for each number, which is 0 at first: then all paths are the model's own vector, and training parts them
    prefix   n learned keys and values before the input, at every layer, for each path
    expert   path p uses expert p alone; there is nothing to learn but the experts
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from tsembed_search.errors import ModelError
from tsembed_search.model.path_settings import Combine, PathSettings
from tsembed_search.model.routing import Routing, Traced

_SPREAD = 2.0
"""Tokens of a suffix begin with noise of so many deviations of a token: they see different things, and while gates are
0, that costs nothing."""

_GATE = 10.0
"""Gates are multiplied by this, so that they learn as fast as tokens do, whose numbers are that much smaller."""


class ParallelPaths(nn.Module):
    """The learned part of P paths. `tokens` `[P - 1, n, d]` and `gates` `[P - 1, d]` of a suffix; `keys` and `values`
    `[P, L, n, d]` of prefixes.
    """

    def __init__(self, settings: PathSettings, routing: Routing) -> None:
        super().__init__()
        self.settings = settings
        self._routing = routing

    def add_tokens(self, like: Tensor) -> None:
        """Make a suffix: tokens like one `[d]` that the model knows, each with noise of its own."""
        shape = self.settings.count - 1, self.settings.length, len(like)
        like = like.detach().float()
        noise = torch.randn(shape) * (_SPREAD * float(like.std()))  # drawn on the CPU: see GatedLinear
        self.tokens = nn.Parameter(like + noise.to(like.device))
        self.gates = nn.Parameter(torch.zeros(self.settings.count - 1, len(like), device=like.device))

    def add_prefixes(self, layers: int, width: int, like: Tensor) -> None:
        """Make prefixes for layers whose keys are `width` wide. Keys are small, so that at first all count alike."""
        shape = self.settings.count, layers, self.settings.length, width
        self.keys = nn.Parameter((torch.randn(shape) * 0.02).to(like.device))
        self.values = nn.Parameter((torch.randn(shape) * 0.02).to(like.device))

    @property
    def passes(self) -> int:
        """The passes of a batch in training."""
        return 1 if self.settings.kind == "suffix" else self.settings.count

    def several(self, run: Callable[[], Traced], every: bool) -> Traced:
        """Run a pass for each path that is wanted. Routes, and what routing losses need, are those of the first."""
        found = []
        for path in range(self.wanted(every)):
            with self.on(path):
                found.append(run())
        return self.finished(replace(found[0], vectors=torch.stack([one.vectors for one in found], 1)))

    def finished(self, traced: Traced) -> Traced:
        """Return what was traced, with `vectors` `[B, P, D]`, or `[B, D]` of the first path alone, as its paths, and
        combined as its vectors.
        """
        paths = traced.vectors if traced.vectors.ndim == 3 else traced.vectors.unsqueeze(1)
        return replace(traced, vectors=combined(paths, self.settings.combine), paths=paths)

    def without(self, vectors: Tensor) -> Tensor:
        """Return vectors `[B, D]` that have no paths as if all paths were these."""
        return combined(vectors.unsqueeze(1).expand(-1, self.settings.count, -1), self.settings.combine)

    def wanted(self, every: bool) -> int:
        """Return how many paths are computed: all of them, or those that the model's vector is made of."""
        return self.settings.count if every else self.settings.used

    def suffix(self, paths: int) -> Tensor | None:
        """Return the tokens of the first paths, one after the other, `[(paths - 1) · n, d]`; None where there are none:
        for the first path alone, and for other kinds.
        """
        return self.tokens[: paths - 1].flatten(0, 1) if self.settings.kind == "suffix" and paths > 1 else None

    def beside(self, own: Tensor, seen: Tensor) -> Tensor:
        """Return unit paths `[B, P, D]`, from the input's own vector `[B, D]`, of any length, and what the tokens of
        the other paths saw `[B, P - 1, D]`.
        """
        others = own.unsqueeze(1) + _GATE * self.gates[: seen.shape[1]].to(seen.dtype) * seen
        return functional.normalize(torch.cat([own.unsqueeze(1), others], 1), dim=-1)

    @contextmanager
    def on(self, path: int) -> Iterator[None]:
        """Inside, the model computes one path by its prefix or its expert."""
        routing = self._routing
        before = routing.forced, routing.prefix
        if self.settings.kind == "expert":
            routing.forced = path
        if self.settings.kind == "prefix":
            routing.prefix = self.keys[path], self.values[path]
        try:
            yield
        finally:
            routing.forced, routing.prefix = before


def combined(paths: Tensor, how: Combine) -> Tensor:
    """Return one unit vector per item `[B, D]`, or with `concat` `[B, P·D]`, of unit paths `[B, P, D]`."""
    if how == "first":
        return paths[:, 0]
    if how == "mean":
        return functional.normalize(paths.mean(1), dim=-1)
    return functional.normalize(paths.flatten(1), dim=-1)


def checked(settings: PathSettings, experts: int) -> PathSettings:
    """Return the settings. Raises `ModelError` for paths that the experts cannot make."""
    if settings.kind == "expert" and settings.count > experts:
        raise ModelError(
            f"There cannot be {settings.count} paths of kind expert with {experts} experts.",
            "Use as many paths as experts, or fewer.",
        )
    return replace(settings, length=1) if settings.kind == "expert" else settings
