"""Ways to reorder what a search found. Adding one is a function and a line in `RERANKERS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tsembed_search.errors import UsageError
from tsembed_search.items import Kind, Modality
from tsembed_search.store.base import Record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Query:
    """What is searched for: a unit vector `[D]` and the model's routing vector `[L·E]` (`[0]` without experts), both
    float32. `words` is the query's text, for marking snippets; contents whose hash is in `without` are left out.
    """

    vector: NDArray[np.float32]
    route: NDArray[np.float32]
    modality: Modality
    words: str = ""
    without: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Candidate:
    """A point that may become a hit. `score` is calibrated (0..1), `route_similarity` 0 when a side has no route.

    `record.score` is the raw cosine; `record.vector` is there if the reranker asked for vectors.
    """

    record: Record
    kind: Kind
    score: float
    route_similarity: float


@dataclass(frozen=True)
class Reranker:
    """`order` sorts (and may rescore or drop) the `depth` best candidates, or the k best when k is larger."""

    order: Callable[[Query, Sequence[Candidate]], list[Candidate]]
    depth: int = 0
    needs_vectors: bool = False


def _unchanged(query: Query, candidates: Sequence[Candidate]) -> list[Candidate]:
    return list(candidates)


RERANKERS: Final[Mapping[str, Reranker]] = {"none": Reranker(_unchanged)}


def reranker(name: str) -> Reranker:
    """The reranker of that name. Raises `UsageError` that lists them."""
    try:
        return RERANKERS[name]
    except KeyError:
        raise UsageError(f"There is no reranking called {name!r}.", f"Use one of: {', '.join(RERANKERS)}.") from None
