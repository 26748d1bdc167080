"""The payload schema: one for the embedded engine and for a server.

A point is one *content*: the same bytes in two places are one point whose `places` name both. `path`, `root`, `rel`,
`ext` and `mtime` describe the first place, for readers that want one.

Routing vectors in payloads: `route`, a list for whoever reads the index, and `packed_route`, the same for reranking.

An engine keeps a payload as JSON and makes a Python object of every number. For a hundred candidates that would take
longer than the search, so the route is there a second time as one short string: base64 of little-endian float16. That
rounds each number by at most 1/2048 of itself, and so a cosine of two routes by less than 0.0005.

Items of older indexes have the list only. Whoever reads routes gets the same from either.

What an index says about itself, kept beside its vectors by every store.

Where a content was found, as the payload of its points says it.
"""

from __future__ import annotations

import base64
import binascii
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NotRequired, TypedDict, TypeVar

from tsembed_search.errors import IndexMismatchError, StoreError
from tsembed_search.items import Kind
from tsembed_search.paths import indexed_form, name_form
from tsembed_search.ranking.scores import Calibration
from tsembed_search.store.filters import path_keys

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tsembed_search.model.backbone import ModelInfo


SCHEMA_VERSION: Final = 1

VECTOR_NAME: Final = "dense"

PATH_KEYS: Final = "path_keys"

PATH_KEYS_VERSION: Final = 2

"""What a store notes whose points all have the path keys that `globs.path_keys` gives today."""

_NAMESPACE: Final = uuid.UUID("6f0d3f7e-5a0e-5c43-9d0b-7c1d1f6a2b90")


class Place(TypedDict):
    """Where a content was found. `path` absolute, `rel` relative to `root` (the folder given to `index`), both with
    forward slashes; bytes that are not UTF-8 appear as surrogate escapes turned into `\\udcXX` text. `ext` lower case
    without dot, composed (`paths.name_form`); `mtime` seconds since the epoch.
    """

    path: str
    root: str
    rel: str
    ext: str
    mtime: float


class ItemPayload(TypedDict):
    """Every point's payload. `page` counts from 1; `chunk` counts from 0 within its page or file (text chunks first,
    then pictures found inside the document; a picture file and a rendered page have none); `start` and `end` are
    character offsets of `text` in the page's or file's text. `width` and `height` are the original picture's in pixels,
    `bytes` the file's size. `route`, `packed_route` and `top_experts` exist when the model has experts; items of older
    indexes have no `packed_route` (see `routes.py`).
    """

    kind: Kind
    path: str
    root: str
    rel: str
    ext: str
    mtime: float
    places: list[Place]
    path_keys: NotRequired[list[str]]
    page: int | None
    chunk: int | None
    start: NotRequired[int]
    end: NotRequired[int]
    text: str | None
    width: int | None
    height: int | None
    bytes: int
    sha: str
    model: str
    indexed_at: float
    route: NotRequired[list[float]]
    packed_route: NotRequired[str]
    top_experts: NotRequired[list[str]]


IndexType = Literal["keyword", "integer", "float"]


PAYLOAD_INDEXES: Final[Mapping[str, IndexType]] = {
    "kind": "keyword",
    "places[].path": "keyword",
    PATH_KEYS: "keyword",
    "places[].ext": "keyword",
    "places[].mtime": "float",
    "page": "integer",
    "sha": "keyword",
    "model": "keyword",
    "top_experts": "keyword",
}

"""What `--where` and the indexer filter on, and so what has a payload index."""


def with_path_keys(payload: Mapping[str, Any]) -> dict[str, Any]:
    """The payload, with what its places are looked up by (`globs.path_keys`). Stores call it on all that is written."""
    places = payload.get("places")
    if not places:
        return dict(payload)
    return {**payload, PATH_KEYS: sorted({key for place in places for key in path_keys(place["path"])})}


def point_id(sha: str, page: int | None, chunk: int | None, fingerprint: str) -> str:
    """UUIDv5 of (content hash, page, chunk, model fingerprint): the same content gives the same point anywhere.

    Pictures inside a document continue the numbering of the text chunks of their page; a rendered page has no chunk.
    """
    return str(uuid.uuid5(_NAMESPACE, f"{sha}\0{page}\0{chunk}\0{fingerprint}"))


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


_YEAR_10_000 = 253_402_300_800.0


@dataclass(frozen=True)
class IndexMetadata:
    """What an index says about the model that made it. `routes`: (L adapted blocks, E experts), or None.

    `route_weight`: how much routes count in `--rerank expert` unless the user says; None when the model does not know.
    `created_at` is in seconds since 1970.
    """

    model: str
    fingerprint: str
    dim: int
    routes: tuple[int, int] | None = None
    calibration: Calibration | None = None
    created_at: float = 0.0
    route_weight: float | None = None

    @staticmethod
    def of(info: ModelInfo) -> IndexMetadata:
        """The metadata of a new index for this model. A model in a folder is remembered by its absolute path."""
        folder = Path(info.name).expanduser()
        name = str(folder.absolute()) if folder.is_dir() else info.name
        return IndexMetadata(
            name, info.fingerprint, info.dim, info.routes, info.calibration, time.time(), info.route_weight
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON form that `from_json` reads back."""
        return {
            "model": self.model,
            "fingerprint": self.fingerprint,
            "dim": self.dim,
            "routes": self.routes and list(self.routes),
            "calibration": self.calibration and self.calibration.to_json(),
            "created_at": self.created_at,
            "route_weight": self.route_weight,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> IndexMetadata:
        """The inverse of `to_json`; keys that others added are ignored. Raises `StoreError` for anything else."""
        try:
            routes, calibration, weight = data.get("routes"), data.get("calibration"), data.get("route_weight")
            return IndexMetadata(
                str(data["model"]),
                str(data["fingerprint"]),
                int(data["dim"]),
                (int(routes[0]), int(routes[1])) if routes else None,
                Calibration.from_json(calibration) if calibration else None,
                _clock_time(float(data.get("created_at", 0.0))),
                None if weight is None else float(weight),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(
                "The index does not say which model made it: its creation was cut short, or its metadata is damaged.",
                "Run `tsembed index` on it again.",
            ) from error

    def check(self, name: str, model: str, fingerprint: str) -> None:
        """Raises `IndexMismatchError` unless vectors of that model may be compared with those of this index, `name`."""
        if fingerprint == self.fingerprint:
            return
        if model == self.model:
            raise IndexMismatchError(
                f"The index {name!r} was made by another version of the model {model} "
                f"({_short(self.fingerprint)}; now {_short(fingerprint)}).",
                f"Index again under another name: tsembed index PATH --index NEW --model {model}",
            )
        raise IndexMismatchError(
            f"The index {name!r} was made by the model {self.model} ({_short(self.fingerprint)}), "
            f"not by {model} ({_short(fingerprint)}).",
            f"Use --model {self.model}, choose another index with --index, "
            f"or index again under another name: tsembed index PATH --index NEW --model {model}",
        )


def _clock_time(seconds: float) -> float:
    """A time that a calendar has, or 0: a date that was damaged must not keep anybody from the index."""
    return seconds if 0 <= seconds < _YEAR_10_000 else 0.0


def _short(fingerprint: str) -> str:
    return fingerprint[:12]


def place_of(path: str, root: str, mtime_ns: int) -> Place:
    """The place of one file; the paths as the system spells them."""
    full, base = Path(path), Path(root)
    return {
        "path": indexed_form(full),
        "root": indexed_form(base),
        "rel": indexed_form(full.relative_to(base)),
        "ext": name_form(indexed_form(Path(full.suffix[1:].lower()))) if full.suffix else "",
        "mtime": mtime_ns / 1e9,
    }
