"""The schema of all that is stored, the same on every engine: a point's payload, and an index's facts about itself.

A point is one *content*: the same bytes in two places are one point whose `places` name both. `path`, `root`, `rel`,
`ext` and `mtime` describe the first place, for readers that want one.

A route is stored twice. `route` is a list, for whoever reads the index from outside. An engine keeps it as JSON and
makes a Python object of every number, which for a hundred candidates would take longer than the search; so
`packed_route` has it as one short string, base64 of little-endian float16. That rounds each number by at most 1/2048 of
itself, and so a cosine of two routes by less than 0.0005. In the same way, `packed_classes` has the likeliest classes
of a picture: their places, as 16-bit integers, and then their probabilities.
"""

from __future__ import annotations

import base64
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NotRequired, TypedDict

from tsembed_search.errors import IndexMismatchError, StoreError
from tsembed_search.items import Kind
from tsembed_search.paths import indexed_form, name_form
from tsembed_search.ranking.scores import Calibration
from tsembed_search.ranking.words import Words, document_texts, document_words
from tsembed_search.store.filters import path_keys

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tsembed_search.model.backbone import ModelInfo
    from tsembed_search.ranking.concepts import ConceptVector

SCHEMA_VERSION: Final = 3
"""The layout of what is stored. An index of another one is refused: it must be made again."""

VECTOR_NAME: Final = "dense"
WORDS_NAME: Final = "words"
"""The sparse vector of an item's words, beside its dense one (see `ranking/words.py`)."""
WORD_FIELDS: Final = ("text", "title", "places")
"""The fields of a payload that its words are made of."""
CONCEPTS_NAME: Final = "concepts"
"""The sparse vector of what a picture shows, where the index has it (see `ranking/concepts.py`)."""
PATH_KEYS: Final = "path_keys"
VECTORLESS: Final = "vectorless"
READS: Final = "reads"
WORDS_LEFT: Final = "words_left"
"""The key of an index's metadata that is true while some items have no vector: only then are they counted."""
ROUTE: Final = "route"
PACKED_ROUTE: Final = "packed_route"
CONCEPTS: Final = "concepts"
PACKED_CLASSES: Final = "packed_classes"

IndexType = Literal["keyword", "integer", "float"]

PAYLOAD_INDEXES: Final[Mapping[str, IndexType]] = {
    "kind": "keyword",
    PATH_KEYS: "keyword",
    "places[].ext": "keyword",
    "places[].mtime": "float",
    "page": "integer",
    "sha": "keyword",
    "model": "keyword",
    "top_experts": "keyword",
    CONCEPTS: "keyword",
}
"""The fields that filters and the indexer ask for, and so have a payload index."""

_NAMESPACE: Final = uuid.UUID("6f0d3f7e-5a0e-5c43-9d0b-7c1d1f6a2b90")
_DIGITS: Final = 6  # of the route's numbers, which lie in -1..1: more than the model is exact to, and short to store
_CLASSES: Final = 100  # as many as the soft caption of `mini` is made of
_YEAR_10_000: Final = 253_402_300_800.0
_CHANGED: Final = "The index was changed from outside. Index the files again under another name: {index}."


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
    `bytes` the file's size. `headings` are those that a text stands under, outermost first; `lines` its first and last
    line in the file, from 1; `page_label` is what a document calls a page where that is not its number. `route`,
    `packed_route` and `top_experts` exist when the model has experts. `path_keys` is what the places are looked up by
    (`filters.path_keys`). `vectorless` is there while the item has no vector yet; so is `reads`, what the model will
    read instead of the text, such as the text below its headings. Pictures have `concepts`, the names
    of what they show, and `packed_classes`, when the model tells classes.
    `title` is what the file says about itself, such as a picture's title, keywords and camera (`documents/said.py`).
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
    headings: NotRequired[list[str]]
    lines: NotRequired[list[int]]
    page_label: NotRequired[str]
    title: NotRequired[str]
    width: int | None
    height: int | None
    bytes: int
    sha: str
    model: str
    indexed_at: float
    vectorless: NotRequired[bool]
    reads: NotRequired[str]
    route: NotRequired[list[float]]
    packed_route: NotRequired[str]
    top_experts: NotRequired[list[str]]
    concepts: NotRequired[list[str]]
    packed_classes: NotRequired[str]


def point_id(sha: str, page: int | None, chunk: int | None, fingerprint: str) -> str:
    """Return the UUIDv5 of (content hash, page, chunk, model fingerprint): the same content is the same point anywhere.

    Pictures inside a document continue the numbering of the text chunks of their page; a rendered page has no chunk.
    """
    return str(uuid.uuid5(_NAMESPACE, f"{sha}\0{page}\0{chunk}\0{fingerprint}"))


def place_of(path: str, root: str, mtime_ns: int) -> Place:
    """Return the place of a file; `path` and `root` are as the system spells them."""
    full, base = Path(path), Path(root)
    return {
        "path": indexed_form(full),
        "root": indexed_form(base),
        "rel": indexed_form(full.relative_to(base)),
        "ext": name_form(indexed_form(Path(full.suffix[1:].lower()))) if full.suffix else "",
        "mtime": mtime_ns / 1e9,
    }


def with_path_keys(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Add what the payload's places are looked up by. Stores call it on all that is written."""
    places = payload.get("places")
    if not places:
        return dict(payload)
    return {**payload, PATH_KEYS: sorted({key for place in places for key in path_keys(place["path"])})}


def words_of(payload: Mapping[str, Any]) -> Words:
    """Return the words that an item is found by: those of its text, its title, and its files' names and folders."""
    return document_words(*_worded(payload))


def texts_of(payload: Mapping[str, Any]) -> list[str]:
    """Return all texts of an item that its words are made of; the payload has at least `WORD_FIELDS`."""
    return document_texts(*_worded(payload))


def _worded(payload: Mapping[str, Any]) -> tuple[str, list[str]]:
    names = [name for place in payload.get("places") or () for name in _names(place)]
    text, title = payload.get("text"), payload.get("title")
    return text if isinstance(text, str) else "", [*names, title] if isinstance(title, str) else names


def _names(place: Mapping[str, Any]) -> list[str]:
    """The parts of a path below its root, the root's own name, and the file's name without its type."""
    parts = str(place["rel"]).split("/")
    return [*parts, parts[-1].rpartition(".")[0], str(place["root"]).rpartition("/")[2]]


def route_fields(route: NDArray[np.float32]) -> dict[str, Any]:
    """Return the payload fields of a route `[L·E]` with numbers in -1..1."""
    import numpy as np

    packed = base64.b64encode(np.asarray(route, dtype="<f2").tobytes()).decode("ascii")
    return {ROUTE: np.asarray(route, dtype=np.float64).round(_DIGITS).tolist(), PACKED_ROUTE: packed}


def has_route(payload: Mapping[str, Any]) -> bool:
    """Tell whether the item has a route."""
    return bool(payload.get(PACKED_ROUTE))


def stored_routes(payloads: Sequence[Mapping[str, Any]], size: int) -> NDArray[np.float32]:
    """Return the routes `[N, size]` of items that have one. Raises `StoreError` for one of another size, or damaged."""
    import numpy as np

    # All at once: number by number, it takes five times as long.
    joined = b"".join([_unpacked(payload[PACKED_ROUTE], size) for payload in payloads])
    return np.frombuffer(joined, dtype="<f2").reshape(len(payloads), size).astype(np.float32)


def concept_fields(classes: NDArray[np.float32]) -> dict[str, Any]:
    """Return the payload fields of the classes `[C]` that a picture shows; none for an item without a picture."""
    import numpy as np

    from tsembed_search.model.concepts import hierarchy
    from tsembed_search.ranking.concepts import shown_names

    places = np.argsort(-classes, kind="stable")[:_CLASSES]
    kept = classes[places]
    if not kept.any():
        return {}
    likeliest = np.zeros_like(classes)
    likeliest[places] = kept / kept.sum()
    packed = places.astype("<u2").tobytes() + likeliest[places].astype("<f2").tobytes()
    return {
        CONCEPTS: shown_names(hierarchy(), likeliest),
        PACKED_CLASSES: base64.b64encode(packed).decode("ascii"),
    }


def stored_classes(payload: Mapping[str, Any]) -> NDArray[np.float32] | None:
    """Return the probabilities `[C]` of classes in a picture; None for an item without. Raises `StoreError` for damaged
    ones.
    """
    import numpy as np

    from tsembed_search.model.concepts import hierarchy

    packed = payload.get(PACKED_CLASSES)
    if not packed:
        return None
    found = np.zeros(hierarchy().classes, np.float32)
    try:
        places, probabilities = np.frombuffer(base64.b64decode(packed), "<u2").reshape(2, -1)
        found[places] = probabilities.view("<f2")
    except (ValueError, TypeError, IndexError) as error:
        raise StoreError(f"An item has damaged classes ({error}).", _CHANGED) from error
    return found


def concepts_of(payload: Mapping[str, Any]) -> ConceptVector | None:
    """Return what an item's picture shows; None for one without, and where the model told no classes."""
    classes = stored_classes(payload)
    if classes is None:
        return None
    from tsembed_search.model.concepts import hierarchy
    from tsembed_search.ranking.concepts import evidence

    return evidence(hierarchy(), classes)


def _unpacked(packed: str, size: int) -> bytes:
    try:
        numbers = base64.b64decode(packed)
    except (ValueError, TypeError) as error:  # binascii's own error is a ValueError
        raise StoreError(f"An item has a damaged routing vector ({error}).", _CHANGED) from error
    if len(numbers) != 2 * size:
        raise StoreError(
            f"An item has a routing vector of {len(numbers) / 2:g} numbers, where the model has {size}.", _CHANGED
        )
    return numbers


@dataclass(frozen=True)
class IndexMetadata:
    """Facts of an index about the model that made it. `routes`: (L adapted blocks, E experts), or None.

    `route_weight`: the share of routes in re-ranking by experts unless a search says; None when the model has none.
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
        """Return the metadata of a new index for this model. A model in a folder is remembered by its absolute path."""
        from tsembed_search.model.registry import MODELS

        folder = Path(info.name).expanduser()
        # The name of a built-in model means that one, also where a folder is called so.
        name = str(folder.absolute()) if info.name not in MODELS and folder.is_dir() else info.name
        return IndexMetadata(
            name, info.fingerprint, info.dim, info.routes, info.calibration, time.time(), info.route_weight
        )

    def to_json(self) -> dict[str, Any]:
        """Return a JSON form that `from_json` reads back."""
        routes, calibration = self.routes and list(self.routes), self.calibration and self.calibration.to_json()
        return vars(self) | {"routes": routes, "calibration": calibration}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> IndexMetadata:
        """Read what `to_json` gave; keys that others added are ignored. Raises `StoreError` for anything else."""
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
                "Index its files again.",
            ) from error

    def check(self, name: str, model: str, fingerprint: str) -> None:
        """Raise `IndexMismatchError` unless vectors of that model may be compared with those of this index, `name`."""
        if fingerprint == self.fingerprint:
            return
        if model == self.model:
            raise IndexMismatchError(
                f"The index {name!r} was made by another version of the model {model} "
                f"({self.fingerprint[:12]}; now {fingerprint[:12]}).",
                "Index the files again under another name: {index}.",
            )
        raise IndexMismatchError(
            f"The index {name!r} was made by the model {self.model} ({self.fingerprint[:12]}), "
            f"not by {model} ({fingerprint[:12]}).",
            f"Use the model {self.model} ({{model}}), choose another index ({{index}}), or index the files again under "
            "another name.",
        )


def _clock_time(seconds: float) -> float:
    """A time that a calendar has, or 0: a damaged date must not keep anybody from the index."""
    return seconds if 0 <= seconds < _YEAR_10_000 else 0.0
