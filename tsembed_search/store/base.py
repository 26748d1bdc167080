"""The store protocol, and what passes through it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from tsembed_search.search.filters import Filter

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Payload = dict[str, Any]

Quantize = Literal["none", "scalar", "binary"]
"""How vectors are compressed for the first pass of a search: not at all, to 8 bits or to 1 bit per dimension. The
original vectors are kept, and every score that a search returns is computed from them.
"""


@dataclass(frozen=True)
class StoreSettings:
    """What is chosen when a store is created and then stays. `shards` and `replicas` matter on a server only.

    `path_keys` says whether all points have these (`schema.py`). Those of older stores get them by `optimize`.
    """

    dim: int
    quantize: Quantize = "none"
    shards: int = 1
    replicas: int = 1
    path_keys: bool = True


@dataclass(frozen=True)
class Point:
    """One item in the store: a UUID, a unit vector `[D]` float32 and its payload (see `schema.py`)."""

    id: str
    vector: NDArray[np.float32]
    payload: Payload


class Record(NamedTuple):
    """What a store gives back. `score` is the cosine for a search, 0 for a retrieval; `vector` only when asked for.

    A tuple, because a search makes hundreds: a frozen dataclass takes three times as long.
    """

    id: str
    payload: Payload
    score: float = 0.0
    vector: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class StoreInfo:
    """Facts for people: engine name and version, points, points under HNSW, segments or shards, bytes on disk."""

    engine: str
    points: int
    indexed: int
    details: Mapping[str, str] = field(default_factory=dict)


class Store(Protocol):
    """A collection of points of one vector size `dim`, cosine distance, vector name `dense`.

    Every method raises `StoreError` with words for a user when the engine fails.
    """

    @property
    def dim(self) -> int: ...

    @property
    def metadata(self) -> dict[str, Any]:
        """What the index says about itself (model, fingerprint, calibration ...), kept by the engine's side."""
        ...

    def write_metadata(self, metadata: Mapping[str, Any]) -> None: ...

    def upsert(self, points: Sequence[Point]) -> None:
        """Adds or replaces points. They are durable (acknowledged) when it returns."""
        ...

    def set_payload(self, id: str, payload: Mapping[str, Any]) -> None:
        """Overwrites the given keys of one point's payload."""
        ...

    def delete(self, ids: Sequence[str]) -> None: ...

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
        """The `limit` nearest points of each row of `vectors` `[Q, D]`, best first, by cosine.

        `fields`: the payload keys that are wanted, None for all; reading them is most of the time of a long list.
        """
        ...

    def retrieve(
        self, ids: Sequence[str], *, fields: Sequence[str] | None = None, with_vectors: bool = False
    ) -> list[Record]:
        """Those of the points that exist, in the order asked; `fields` limits the payload keys that are read."""
        ...

    def scroll(
        self, where: Filter | None = None, *, fields: Sequence[str] | None = None, with_vectors: bool = False
    ) -> Iterator[Record]:
        """All points that match, in the engine's own order; `fields` limits the payload keys that are read."""
        ...

    def count(self, where: Filter | None = None) -> int: ...

    def facet(self, key: str, where: Filter | None = None, limit: int = 1000) -> dict[str, int]:
        """How many points have each value of a payload field that has a keyword index, most frequent first."""
        ...

    def optimize(self) -> None:
        """Builds HNSW where it is worth it, and brings an older store up to date. May take long; called once when an
        index run ends. Interruptible.
        """
        ...

    def info(self) -> StoreInfo: ...

    def close(self) -> None: ...
