"""The contracts of a store and of an engine, what passes through them, and what every engine refuses.

Input is checked before anything is sent, for engines differ in what they let through. The settings of the search graph
are the same on every engine; `benchmarks/scale.py` measures what they give.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol

from tsembed_search.errors import StoreError
from tsembed_search.store.filters import Filter

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tsembed_search.paths import IndexAddress
    from tsembed_search.ranking.concepts import ConceptVector
    from tsembed_search.ranking.words import Words

Payload = dict[str, Any]

Quantize = Literal["none", "scalar", "binary"]
"""Compression of vectors for the first pass of a search: none, to 8 bits or to 1 bit per dimension. The original
vectors are kept, and every score that a search returns is computed from them."""

HNSW_M: Final = 16
HNSW_EF_CONSTRUCT: Final = 100
HNSW_EF: Final = 160
FILTERED_HNSW_EF: Final = 96
"""Candidates that a search keeps. Those of a filtered search cost more, for each is looked up in a payload index, and
most filters have links of their own in the graph: fewer suffice."""

ENOUGH: Final = 0.15
"""The share of points from which on a graph of 2 · `HNSW_M` neighbours holds together, whatever the filter."""

OVERSAMPLING: Final = {"none": 1.0, "scalar": 2.0, "binary": 16.0}
"""Times the wanted number of hits that are scored again with the original vectors: enough for recall@10 of 0.99."""

_USUAL_ID: Final = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class StoreSettings:
    """Settings chosen when a store is created, which then stay. `shards` and `replicas` matter on a server only.

    `concepts`: points have a sparse vector of what their picture shows.
    """

    dim: int
    quantize: Quantize = "none"
    shards: int = 1
    replicas: int = 1
    concepts: bool = False


@dataclass(frozen=True)
class Point:
    """One item in the store: a UUID, a unit vector `[D]` float32 and its payload (see `schema.py`).

    A vector `[0]` is none: the item is found by its words until it gets one.
    """

    id: str
    vector: NDArray[np.float32]
    payload: Payload


class Record(NamedTuple):
    """A point as a store gives it back. `score` is the cosine for a search, else 0; `vector` only when asked for.

    A tuple, because a search makes hundreds: a frozen dataclass takes three times as long.
    """

    id: str
    payload: Payload
    score: float = 0.0
    vector: NDArray[np.float32] | None = None


class Search(NamedTuple):
    """A search for the `limit` best points of those that pass `where`, from `offset` on; or for all of the points
    `ids` that are there.

    `query` says what is best: a vector `[D]` (by cosine), words (by BM25, see `ranking/words.py`), or concepts, which
    the store must have (by their evidence, see `ranking/concepts.py`). A point with none of the words or concepts is
    left out.
    """

    query: NDArray[np.float32] | Words | ConceptVector
    limit: int = 0
    where: Filter | None = None
    offset: int = 0
    ids: Sequence[str] | None = None


@dataclass(frozen=True)
class StoreInfo:
    """Facts for people: engine name and version, points, points under HNSW, segments or shards, bytes on disk."""

    engine: str
    points: int
    indexed: int
    details: Mapping[str, str] = field(default_factory=dict)


def unheard(left: float | None) -> None:
    """Tell nobody how many seconds are left."""


class Store(Protocol):
    """A collection of points of one vector size `dim`, cosine distance, vector name `dense`.

    Every method raises `StoreError` with words for a user when the engine fails.
    """

    @property
    def dim(self) -> int:
        """The size of the vectors."""

    @property
    def has_concepts(self) -> bool:
        """True when pictures have a vector of what they show."""

    @property
    def metadata(self) -> dict[str, Any]:
        """Facts of the index about itself (model, fingerprint, calibration ...), kept by the engine's side."""

    def write_metadata(self, metadata: Mapping[str, Any]) -> None:
        """Replace the metadata as a whole."""

    def upsert(self, points: Sequence[Point]) -> None:
        """Add or replace points. They are durable (acknowledged) when it returns."""

    def set_payloads(self, payloads: Mapping[str, Mapping[str, Any]]) -> None:
        """Overwrite the given keys of the payloads of points, by their ids. Raises `StoreError`, and changes nothing,
        when one of them is not there.
        """

    def delete(self, ids: Sequence[str]) -> None:
        """Remove points; ids that are not there do no harm."""

    def search(
        self,
        vectors: NDArray[np.float32],
        limit: int,
        where: Filter | None = None,
        *,
        offset: int = 0,
        with_vectors: bool = False,
        fields: Sequence[str] | None = None,
        exact: bool = False,
    ) -> list[list[Record]]:
        """Find the `limit` nearest points of each row of `vectors` `[Q, D]`, best first, by cosine.

        `fields`: the payload keys that are wanted, None for all; reading them is most of the time of a long list.
        """

    def find(self, searches: Sequence[Search]) -> list[list[Record]]:
        """Answer several searches together, in their order: of a server, all of them are asked at once.

        Records come without payload, unless it had to be read to find them.
        """

    def retrieve(
        self, ids: Sequence[str], *, fields: Sequence[str] | None = None, with_vectors: bool = False
    ) -> list[Record]:
        """Return those of the points that exist, in the order asked; `fields` limits the payload keys that are read."""

    def scroll(
        self, where: Filter | None = None, *, fields: Sequence[str] | None = None, with_vectors: bool = False
    ) -> Iterator[Record]:
        """Go over all points that match, in the engine's own order; `fields` limits the payload keys that are read."""

    def count(self, where: Filter | None = None) -> int:
        """Count the points that match."""

    def count_vectors(self) -> int:
        """Count the points that have a vector."""

    def facet(self, key: str, where: Filter | None = None, limit: int = 1000, exact: bool = True) -> dict[str, int]:
        """Count the points that have each value of a payload field with a keyword index, most frequent first.

        Not `exact`: at once, even where there are very many values, but removed points may still be counted.
        """

    def optimize(self, tell: Callable[[float | None], None] = unheard) -> None:
        """Build the search graph where it is worth it, when a run ends; searches go on. May take long.

        `tell` hears now and then how many seconds are left, None when that is not known; what it raises ends the work.
        """

    def info(self) -> StoreInfo:
        """Return facts for people."""

    def close(self) -> None:
        """Let go of the store. Closing twice does no harm."""


class Engine(Protocol):
    """A kind of store, as `opening.STORES` has it: it makes and opens the stores of indexes.

    Every method raises `StoreError` with words for a user when the engine fails.
    """

    def exists(self, address: IndexAddress) -> bool:
        """Tell whether the index has a store."""

    def metadata(self, address: IndexAddress) -> dict[str, Any] | None:
        """Return what the index says about itself; None when there is no store."""

    def open(self, address: IndexAddress, *, writing: bool = False) -> Store:
        """Open the store; `writing`: a long run of changes begins. Raises `StoreError` when there is none."""

    def create(self, address: IndexAddress, settings: StoreSettings) -> Store:
        """Make a new store and open it for writing. Raises `StoreError` when there is one already."""

    def delete(self, address: IndexAddress) -> None:
        """Delete the store and its points. Raises `IndexBusyError` while another process has it open."""

    def salvage(self, address: IndexAddress) -> int:
        """Replace a damaged store by one of all that can be read; returns how many points that are."""


def check_id(id: str) -> str:
    """Return an id in its usual spelling. Raises `StoreError` when it is not a UUID."""
    if isinstance(id, str) and _USUAL_ID.fullmatch(id):
        return id
    try:
        return str(uuid.UUID(id))
    except (ValueError, AttributeError, TypeError):
        hint = "Ids look like 1b4e28ba-2fa1-51d2-883f-0016d3cca427."
        raise StoreError(f"{id!r} is not an item's id.", hint) from None


def check_points(points: Sequence[Point], dim: int) -> tuple[list[str], NDArray[np.float32]]:
    """Return the ids, and the vectors as one array `[N, dim]` float32.

    Raises `StoreError` for an id that is no UUID, and a vector of another size, not finite or zero.
    """
    import numpy as np

    ids = [check_id(point.id) for point in points]
    for point in points:
        if np.shape(point.vector) != (dim,):
            raise StoreError(
                f"Item {point.id} has a vector of shape {np.shape(point.vector)}; the index holds [{dim}]."
            )
    vectors = np.stack([np.asarray(point.vector, dtype=np.float32) for point in points])
    bad = ~(np.isfinite(vectors).all(axis=1) & vectors.any(axis=1))
    if bad.any():
        raise StoreError(f"The vector of item {ids[int(bad.argmax())]} is zero or not finite: the model is at fault.")
    return ids, vectors


def check_some(points: Sequence[Point], dim: int) -> tuple[list[str], list[list[float] | None]]:
    """Return the ids, and the vectors as lists of `dim` numbers, None for a point without one.

    Raises what `check_points` raises.
    """
    import numpy as np

    given = [row for row, point in enumerate(points) if np.shape(point.vector) != (0,)]
    found: list[list[float] | None] = [None] * len(points)
    if given:
        _, vectors = check_points([points[row] for row in given], dim)
        for row, vector in zip(given, vectors.tolist(), strict=True):
            found[row] = vector
    return [check_id(point.id) for point in points], found


def check_queries(vectors: NDArray[np.float32], dim: int) -> NDArray[np.float32]:
    """Return query vectors as `[Q, dim]` float32. Raises `StoreError` for another shape, or for NaN and infinity."""
    import numpy as np

    queries = np.asarray(vectors, dtype=np.float32)
    if queries.ndim != 2 or queries.shape[1] != dim:
        raise StoreError(f"Queries of shape {list(queries.shape)} do not fit an index of vectors [N, {dim}].")
    if not np.isfinite(queries).all():
        raise StoreError("A query's vector is not finite: the model is at fault.")
    return queries


def check_payload(what: str, payload: Mapping[str, Any]) -> None:
    """Raise `StoreError` unless the payload is JSON: no NaN, no bytes, no broken text."""
    try:
        json.dumps(payload, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise StoreError(f"Cannot store {what}: {error}.") from error
