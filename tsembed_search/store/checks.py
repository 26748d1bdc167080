"""What every engine refuses, checked before anything is sent: engines differ in what they let through."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tsembed_search.errors import StoreError
from tsembed_search.store.base import Point

if TYPE_CHECKING:
    from numpy.typing import NDArray

_USUAL = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def check_id(id: str) -> str:
    """The id in its usual spelling. Raises `StoreError` when it is not a UUID."""
    if isinstance(id, str) and _USUAL.fullmatch(id):
        return id
    try:
        return str(uuid.UUID(id))
    except (ValueError, AttributeError, TypeError):
        raise StoreError(
            f"{id!r} is not an item's id.", "Ids look like 1b4e28ba-2fa1-51d2-883f-0016d3cca427."
        ) from None


def check_points(points: Sequence[Point], dim: int) -> tuple[list[str], NDArray[np.float32]]:
    """The ids, and the vectors as one array `[N, dim]` float32.

    Raises `StoreError` for an id that is no UUID, and a vector of another size, not finite or zero.
    """
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


def check_queries(vectors: NDArray[np.float32], dim: int) -> NDArray[np.float32]:
    """Query vectors `[Q, dim]` float32. Raises `StoreError` for another shape or numbers that are not finite."""
    queries = np.asarray(vectors, dtype=np.float32)
    if queries.ndim != 2 or queries.shape[1] != dim:
        raise StoreError(f"Queries of shape {list(queries.shape)} do not fit an index of vectors [N, {dim}].")
    if not np.isfinite(queries).all():
        raise StoreError("A query's vector is not finite: the model is at fault.")
    return queries


def check_payload(what: str, payload: Mapping[str, Any]) -> None:
    """Raises `StoreError` unless the payload is JSON: no NaN, no bytes, no broken text."""
    try:
        json.dumps(payload, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise StoreError(f"Cannot store {what}: {error}.") from error
