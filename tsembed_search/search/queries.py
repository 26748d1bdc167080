"""Queries: of words and pictures, of what is like an item, and of the lines of a file."""

from __future__ import annotations

import hashlib
import json
import math
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from tsembed_search.errors import LoadError, TsembedError, UsageError
from tsembed_search.items import Item, Role
from tsembed_search.paths import NoCurrentFolderError, absolute, current_folder_is_gone, existing, indexed_form, typed
from tsembed_search.ranking.reranking import Query
from tsembed_search.ranking.scores import TELLING_WORDS
from tsembed_search.ranking.words import Asked
from tsembed_search.search.respelling import is_english
from tsembed_search.store.filters import Condition
from tsembed_search.store.schema import point_id
from tsembed_search.wording import encoding_by_mark

if TYPE_CHECKING:
    from tsembed_search.model.embedder import Embedder
    from tsembed_search.store.base import Record, Store

_MOST_TEXT: Final = 200_000
_MOST_PICTURE: Final = 1 << 30
_LONGEST: Final = 16 << 20  # bytes of a line; what has longer ones is something else, or never ends
_NOTHING: Final = np.zeros(0, dtype=np.float32)
_SHAPE: Final = (
    'A line looks like {"id": 1, "text": "a red bicycle", "image": "photo.jpg"}; text or image may be missing.'
)


def embedded_queries(
    embedder: Embedder, items: Sequence[Item], role: Role = "query", *, words: bool = False
) -> list[Query]:
    """Embed items, together, as queries; with `words`, those that are text alone are looked for by words, too.

    Raises `UsageError` for a query that only says what it is not to find.
    """
    asked = [asked_of(item) if words else Asked() for item in items]
    read = [replace(item, text=own.text) if own.strict else item for item, own in zip(items, asked, strict=True)]
    embedded = embedder.embed(read, role)
    found = [
        _query(item, own, vector, route, embedder.info.fingerprint)
        for item, own, vector, route in zip(read, asked, embedded.vectors, embedded.routes, strict=True)
    ]
    # All that cannot be read has the same vector, which is near to nothing that is meant.
    return [
        replace(one, vector=_NOTHING, route=_NOTHING, unread=True)
        if one.modality == "text" and unreadable(one.words, embedder)
        else one
        for one in found
    ]


def unreadable(text: str, embedder: Embedder) -> bool:
    """Tell whether a model has no sign for any letter of a text: of a script that it never saw, or emoji alone."""
    if any(letter.isalnum() for letter in text if letter.isascii()) or text.isascii():
        return False
    tokenizer = _tokenizer(embedder.inputs.text.tokenizer_file)
    unknown = getattr(tokenizer.model, "unk_token", None)
    tokens = tokenizer.encode(text, add_special_tokens=False).tokens if unknown else []
    return unknown in tokens and not any(map(str.isalnum, "".join(one for one in tokens if one != unknown)))


@lru_cache(maxsize=4)
def _tokenizer(file: Path) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_padding()
    return tokenizer


def asked_of(item: Item) -> Asked:
    """Return what a query of words says of words; nothing for one with a picture, whose words say how it is to change.

    Raises `UsageError` for a query that only says what it is not to find.
    """
    if item.modality != "text":
        return Asked()
    asked = Asked.of(item.text or "")
    if not asked.text.strip():
        raise UsageError(f"{item.text!r} only says what it is not to find.", "Say what to find, too.")
    return asked


def queries_by_words(items: Sequence[Item]) -> list[Query]:
    """Return queries that look for words alone. Raises `UsageError` for one with a picture."""
    if any(item.modality != "text" for item in items):
        raise UsageError("A picture cannot be found by words alone.", "Search by meaning, too: {words} auto.")
    return queries_without_model(items)


def queries_without_model(items: Sequence[Item], *, words: bool = True) -> list[Query]:
    """Return what can be looked for without a model: the words of a text, if they are wanted; nothing of a picture.

    Raises `UsageError` for a query that only says what it is not to find.
    """
    asked = [asked_of(item) if words else Asked() for item in items]
    rows = zip(items, asked, strict=True)
    return [Query(_NOTHING, _NOTHING, item.modality, own.text, asked=own) for item, own in rows]


def query_like(like: str, store: Store, embedder: Callable[[], Embedder]) -> Query:
    """Return the query for what is like an item of the index, by its id or by its file's path, or like a file that is
    not in it, which is embedded. The item itself is left out.

    Raises `UsageError` when it is none of these, `LoadError` for a file that cannot be searched with.
    """
    if records := stored_records(store, like):
        return _mean_query(records)
    path = typed(like)
    if not path.is_file():
        raise UsageError(
            f"{like!r} is neither the id of an item, nor an indexed path, nor a file.",
            "The list of files says what is indexed; hits say their ids.",
        )
    return embedded_queries(embedder(), [item_of_file(path)], "document")[0]


def stored_records(store: Store, like: str) -> list[Record]:
    """Return the points, with vectors, of an item of the index: by its id, or all of a file's by its path."""
    with suppress(ValueError):
        id = str(uuid.UUID(like))
        return store.retrieve([id], with_vectors=True)
    here = indexed_form(absolute(like))
    found = list(store.scroll(Condition("path", "=", here), with_vectors=True))
    # Two names may differ in their form only: then the one that was typed is meant.
    return [one for one in found if any(place["path"] == here for place in one.payload["places"])] or found


def item_of_file(path: Path) -> Item:
    """Return a picture or a plain text as an item. Raises `LoadError` for anything else."""
    from tsembed_search.documents.pictures import open_image

    try:
        return Item(image=open_image(path, None).pixels)
    except LoadError as error:
        with suppress(OSError, UnicodeDecodeError), path.open("rb") as file:
            text = file.read(_MOST_TEXT).decode("utf-8-sig").strip()
            if text and "\0" not in text:
                return Item(text)
        raise LoadError(
            f"{path} is neither a picture nor plain text. {error.message}",
            "To search with a document, index it first.",
        ) from error


@dataclass(frozen=True)
class BatchQuery:
    """One line of a file of queries. `where` is `FILE:LINE`, for messages."""

    id: Any
    item: Item
    where: str


def read_queries(stream: BinaryIO, name: str, folder: Path) -> Iterator[BatchQuery | TsembedError]:
    """Read JSON Lines `{"id","text","image"}`: queries, or what is wrong with a line. `id` defaults to its number.

    `name` is the file's, for messages; the path of an image is relative to `folder`. Blank lines are skipped. Raises
    `UsageError` where a line has no end: that is no file of queries.
    """
    for number, line in enumerate(_lines(stream), 1):
        if line.strip():
            try:
                yield _read_query(line, number, f"{name}:{number}", folder)
            except TsembedError as error:
                yield error


def _query(
    item: Item, asked: Asked, vector: NDArray[np.float32], route: NDArray[np.float32], fingerprint: str
) -> Query:
    """A query that knows its picture's file: asked for by itself, it is the first to be meant; with words that say how
    it is to change, it is the one picture that cannot be meant.
    """
    sha = "" if item.modality == "text" else _hash_of(item.image)
    same = point_id(sha, None, None, fingerprint) if sha and item.modality == "image" else ""
    without = frozenset({sha} if sha and item.modality == "joint" else ())
    return Query(vector, route, item.modality, item.text or "", without, asked, same=same, telling=_telling(asked))


def _telling(asked: Asked) -> float:
    """The part (0..1) of its words' evidence that a query's meaning does not have already: all, where they are many, or
    one is a name, a number or a code that no model knows.
    """
    few = asked.plain < TELLING_WORDS and len(asked.terms) == asked.plain and not asked.required
    return asked.plain / TELLING_WORDS if few and asked.plain and all(map(is_english, asked.forms)) else 1.0


def _hash_of(image: object) -> str:
    """The hash of a picture's file, as an index has it; nothing for what is no file that could be indexed."""
    # A file of that size is no picture that could be indexed, whatever it begins with.
    with suppress(OSError):
        if isinstance(image, Path) and image.is_file() and image.stat().st_size <= _MOST_PICTURE:
            with image.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
    return ""


def _mean_query(records: Sequence[Record]) -> Query:
    """One query for a whole item: the mean direction of its points of the first kind (a document's text, say)."""
    records = [record for record in records if record.vector is not None]
    if not records:
        raise UsageError(
            "The item has its words in the index, but no vector yet.",
            "Index its files once more, with the model: {add()}",
        )
    kind = max((record.payload["kind"] for record in records), key=lambda kind: kind == "text")
    chosen = [record for record in records if record.payload["kind"] == kind]
    vectors = np.stack([record.vector for record in chosen if record.vector is not None])
    routes = np.array([record.payload.get("route") or [] for record in chosen], dtype=np.float32)
    without = frozenset(record.payload["sha"] for record in records)
    means = _unit(vectors.mean(axis=0)), _unit(routes.mean(axis=0))
    return Query(*means, "text" if kind == "text" else "image", without=without)


def _unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    length = float(np.linalg.norm(vector))
    return (vector / length if length > 0 else vector).astype(np.float32)


def _lines(stream: BinaryIO) -> Iterator[str]:
    """The lines of a text in UTF-8, or in what its byte-order mark says. Bytes that are none become lone surrogates."""
    line = stream.readline(_LONGEST)
    encoding = encoding_by_mark(line)
    if encoding != "utf-8-sig":
        yield from (line + stream.read(_LONGEST)).decode(encoding, "replace").split("\n")
        return
    while line:
        if len(line) == _LONGEST:
            raise UsageError(f"A line of the queries has more than {_LONGEST:,} bytes.", _SHAPE)
        yield line.decode(encoding, "surrogateescape")
        encoding = "utf-8"
        line = stream.readline(_LONGEST)


def _read_query(line: str, number: int, where: str, folder: Path) -> BatchQuery:
    data = _json(line, where)
    if unknown := sorted(set(data) - {"id", "text", "image"}):
        raise UsageError(f"{where}: unknown key {unknown[0]!r}.", _SHAPE)
    text, image = data.get("text"), data.get("image")
    for key, value in (("text", text), ("image", image)):
        if value is not None and not isinstance(value, str):
            raise UsageError(f"{where}: {key!r} must be a string.", _SHAPE)
    picture = existing(folder / image) if image else None
    if picture is not None and not picture.is_file():
        hint = "Paths are relative to the file with the queries."
        if not picture.is_absolute() and current_folder_is_gone():
            hint = str(NoCurrentFolderError())
        raise UsageError(f"{where}: there is no file {picture}.", hint)
    try:
        item = Item(text or None, picture)
    except UsageError as error:
        raise UsageError(f"{where}: {error.message}", _SHAPE) from None
    return BatchQuery(data.get("id", number), item, where)


def _json(line: str, where: str) -> dict[str, Any]:
    """A line as strict JSON: no NaN, no key twice, and an `id` that can be given back in an answer."""
    try:
        line.encode()
        data = json.loads(line, parse_constant=_finite, parse_float=_finite, object_pairs_hook=_each_once)
        # What is given back in the answer must be JSON, too: half of a surrogate pair is not.
        json.dumps(data.get("id") if isinstance(data, dict) else None, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        what = "the id is no valid text" if error.object != line else "it is not in UTF-8"
        raise UsageError(f"{where}: {what} (character {error.start + 1}).", _SHAPE) from None
    except RecursionError:
        raise UsageError(f"{where}: too many brackets inside each other.", _SHAPE) from None
    except ValueError as error:
        raise UsageError(f"{where}: not JSON: {error}.", _SHAPE) from None
    if not isinstance(data, dict):
        raise UsageError(f"{where}: a JSON object is needed.", _SHAPE)
    return data


def _finite(digits: str) -> float:
    if not math.isfinite(number := float(digits)):
        raise ValueError(f"{digits} is no number")
    return number


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    name, count = Counter(name for name, _ in pairs).most_common(1)[0] if pairs else ("", 0)
    if count > 1:
        raise ValueError(f"{name!r} is there twice")
    return dict(pairs)
