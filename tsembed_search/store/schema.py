"""The payload schema: one for the embedded engine and for a server.

A point is one *content*: the same bytes in two places are one point whose `places` name both. `path`, `root`, `rel`,
`ext` and `mtime` describe the first place, for readers that want one.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, Final, Literal, NotRequired, TypedDict

from tsembed_search.items import Kind
from tsembed_search.search.globs import path_keys

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
