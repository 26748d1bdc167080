"""Routing vectors in payloads: `route`, a list for whoever reads the index, and `packed_route`, the same for reranking.

An engine keeps a payload as JSON and makes a Python object of every number. For a hundred candidates that would take
longer than the search, so the route is there a second time as one short string: base64 of little-endian float16. That
rounds each number by at most 1/2048 of itself, and so a cosine of two routes by less than 0.0005.

Items of older indexes have the list only. Whoever reads routes gets the same from either.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from tsembed_search.errors import StoreError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

T = TypeVar("T")

LIST: Final = "route"
PACKED: Final = "packed_route"

_DIGITS: Final = 6
"""Of the list's numbers, which lie in -1..1: more than the model is exact to, and half as long to store and to read."""


def route_fields(route: NDArray[np.float32]) -> dict[str, Any]:
    """The payload fields of a route `[L·E]` with numbers in -1..1."""
    import numpy as np

    packed = base64.b64encode(np.asarray(route, dtype="<f2").tobytes())
    return {LIST: np.asarray(route, dtype=np.float64).round(_DIGITS).tolist(), PACKED: packed.decode("ascii")}


def has_route(payload: Mapping[str, Any]) -> bool:
    """Whether the item has a route, in either form."""
    return bool(payload.get(PACKED) or payload.get(LIST))


def stored_routes(payloads: Sequence[Mapping[str, Any]], size: int) -> NDArray[np.float32]:
    """The routes of items that have one, `[N, size]`. Raises `StoreError` for a route of another size, or damaged."""
    import numpy as np

    routes = np.empty((len(payloads), size), np.float32)
    packed = [row for row, payload in enumerate(payloads) if payload.get(PACKED)]
    if packed:  # numbers all at once: that takes a fifth of the time
        joined = b"".join([_unpacked(payloads[row][PACKED], size) for row in packed])
        routes[packed] = np.frombuffer(joined, dtype="<f2").reshape(-1, size)
    for row in set(range(len(payloads))).difference(packed):
        routes[row] = _listed(payloads[row][LIST], size)
    return routes


def _listed(route: Any, size: int) -> NDArray[np.float32]:
    import numpy as np

    try:
        numbers = np.asarray(route, dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise _not_ours(f"a damaged routing vector ({error})") from error
    return _of_size(numbers, numbers.size if numbers.ndim == 1 else 0, size)


def _unpacked(packed: str, size: int) -> bytes:
    try:
        numbers = binascii.a2b_base64(packed)
    except (ValueError, TypeError) as error:  # binascii's own error is a ValueError
        raise _not_ours(f"a damaged routing vector ({error})") from error
    return _of_size(numbers, len(numbers) / 2, size)


def _of_size(route: T, numbers: float, size: int) -> T:
    if numbers != size:
        raise _not_ours(f"a routing vector of {numbers:g} numbers, where the model has {size}")
    return route


def _not_ours(what: str) -> StoreError:
    return StoreError(
        f"An item has {what}.",
        "The index was changed from outside. Index again under another name: tsembed index PATH --index NEW",
    )
