"""The contents of an index, read from its points: files, and their use of the model's experts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from tsembed_search.items import KINDS
from tsembed_search.ranking.routes import Group, Usage, expert_usage
from tsembed_search.search.results import File
from tsembed_search.store.filters import CHECKED_KEYS, Filter, matches
from tsembed_search.store.schema import PACKED_ROUTE, has_route, stored_routes
from tsembed_search.whereabouts import is_offline

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tsembed_search.store.base import Record

FILE_FIELDS: Final = ("bytes", *CHECKED_KEYS)
"""The payload fields that `files_of` reads."""
USAGE_FIELDS: Final = ("kind", "root", "rel", PACKED_ROUTE)
"""The payload fields that `usage_of` reads."""
OTHERS: Final = "(other folders)"
_PORTION = 1024
_MOST_FOLDERS = 200


def leaving(records: Iterable[Record], paths: Set[str]) -> int:
    """Return how many of these points no file has any more when those at `paths` are gone."""
    return sum({place["path"] for place in record.payload["places"]} <= paths for record in records)


def files_of(records: Iterable[Record], chosen: Filter | None, lost: Sequence[str] | None = None) -> list[File]:
    """Return the files that hold these points, by path. A content in several places counts for each that is chosen.

    `lost` are the folders that are known to be offline; None where nothing can be said about files.
    """
    found: dict[str, File] = {}
    for record in records:
        payload = record.payload
        for place in payload["places"]:
            if not matches(chosen, {**payload, **place, "places": [place]}):
                continue
            file = found.get(place["path"])
            if file is None:
                offline = lost is not None and is_offline(place, lost)
                file = found[place["path"]] = File(place["path"], payload["bytes"], place["mtime"], offline)
            file.items[payload["kind"]] += 1
    return [found[path] for path in sorted(found)]


def usage_of(records: Iterable[Record], shape: tuple[int, int]) -> list[Usage]:
    """Return how all items use the experts, then each kind, then each folder, the fullest first.

    Items without a route are left out. `shape` is (L blocks, E experts). A folder is a root that was indexed, or a
    folder right in it; beyond two hundred, the rest count as `OTHERS`. Raises `StoreError` for a route of another size.
    """
    return sorted(expert_usage(_portions(records, shape[0] * shape[1]), shape).values(), key=_rank)


def _portions(records: Iterable[Record], size: int) -> Iterator[tuple[list[Sequence[Group]], NDArray[np.float32]]]:
    folders: set[str] = set()
    with_route = (record.payload for record in records if has_route(record.payload))
    while portion := list(islice(with_route, _PORTION)):
        yield [_groups(payload, folders) for payload in portion], stored_routes(portion, size)


def _groups(payload: dict[str, Any], folders: set[str]) -> Sequence[Group]:
    """The groups that an item belongs to; its folder is added to those known, while there is room."""
    first, _, rest = payload["rel"].partition("/")
    folder = f"{payload['root'].rstrip('/')}/{first}" if rest else payload["root"]
    if len(folders) < _MOST_FOLDERS:
        folders.add(folder)
    return ("all", ""), ("kind", payload["kind"]), ("folder", folder if folder in folders else OTHERS)


def _rank(usage: Usage) -> tuple[Any, ...]:
    if usage.of == "folder":
        return 2, usage.name == OTHERS, -usage.items, usage.name
    return ("all", "kind").index(usage.of), KINDS.index(usage.name) if usage.name in KINDS else len(KINDS), usage.name
