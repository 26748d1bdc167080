"""Queries for what is like an item, of the index or of a file that is not in it, and what a query leaves out."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tsembed_search.errors import LoadError
from tsembed_search.items import Item, Modality
from tsembed_search.paths import absolute, indexed_form
from tsembed_search.search.rerank import Query
from tsembed_search.store.filters import Condition

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tsembed_search.store.base import Record, Store

_MOST_TEXT = 200_000
_MOST_PICTURE = 1 << 30


def stored_records(store: Store, like: str) -> list[Record]:
    """The points, with vectors, of an item of the index: by its id, or all of a file's by its path."""
    if id := _as_id(like):
        return store.retrieve([id], with_vectors=True)
    here = indexed_form(absolute(like))
    found = list(store.scroll(Condition("path", "=", here), with_vectors=True))
    # Two names may differ in their form only: then the one that was typed is meant.
    return [one for one in found if any(place["path"] == here for place in one.payload["places"])] or found


def stored_query(store: Store, like: str) -> Query | None:
    """The query for an item of the index, by its id or by its file's path; None when there is no such item.

    A file of many points gives their mean direction: of its text, if it has any. The item itself is left out.
    """
    records = stored_records(store, like)
    return _mean_query(records) if records else None


def changed_content(item: Item) -> frozenset[str]:
    """The hash of the picture file that a query's words ask to see changed, else nothing. A search that found that very
    file would find it first, and it is the one picture that cannot be meant.
    """
    if item.modality != "joint" or not isinstance(item.image, Path):
        return frozenset()
    # A file of that size is no picture that could be indexed, whatever it begins with.
    with suppress(OSError), item.image.open("rb") as file:
        if os.fstat(file.fileno()).st_size <= _MOST_PICTURE:
            return frozenset({hashlib.file_digest(file, "sha256").hexdigest()})
    return frozenset()


def item_of_file(path: Path) -> Item:
    """A picture or a plain text as an item. Raises `LoadError` for anything else."""
    from tsembed_search.documents.pictures import open_image

    try:
        return Item(image=open_image(path, None).pixels)
    except LoadError as error:
        text = _plain_text(path)
        if not text:
            raise LoadError(
                f"{path} is neither a picture nor plain text. {error.message}",
                "To search with a document, index it first.",
            ) from error
        return Item(text=text)


def _mean_query(records: Sequence[Record]) -> Query:
    """One query for a whole item: the mean direction of its points of the first kind (a document's text, say)."""
    import numpy as np

    kinds = [record.payload["kind"] for record in records]
    kind = "text" if "text" in kinds else kinds[0]
    chosen = [record for record in records if record.payload["kind"] == kind]
    vectors = np.stack([record.vector for record in chosen if record.vector is not None])
    routes = np.array([record.payload.get("route") or [] for record in chosen], dtype=np.float32)
    modality: Modality = "text" if kind == "text" else "image"
    without = frozenset(record.payload["sha"] for record in records)
    return Query(_unit(vectors.mean(axis=0)), _unit(routes.mean(axis=0)), modality, without=without)


def _unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    import numpy as np

    length = float(np.linalg.norm(vector))
    return (vector / length if length > 0 else vector).astype(np.float32)


def _plain_text(path: Path) -> str:
    """The beginning of a UTF-8 file, or nothing when it is not one."""
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_TEXT).decode("utf-8-sig", "strict")
    except (OSError, UnicodeDecodeError):
        return ""
    return "" if "\0" in text else text.strip()


def _as_id(text: str) -> str | None:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        return None
