"""The newest items of an index, for a browser that has not been asked for anything yet."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from tsembed_search.search.results import Hit
from tsembed_search.store.filters import CHECKED_KEYS, Condition, Filter, all_of, matches

if TYPE_CHECKING:
    from tsembed_search.store.base import Store

_FIELDS: Final = (*CHECKED_KEYS, "chunk", "text")
_FIRST_STEP: Final = 1 << 36  # seconds: longer than any file has been there
_SPARE: Final = 4
_MOST: Final = 20_000
_SNIPPET: Final = 200


def newest(store: Store, count: int, where: Filter | None = None) -> list[Hit]:
    """Return at most `count` hits, one for each page and file, the latest changed first.

    The engine knows no order by time, but counts quickly: so the moment is found after which there are enough items,
    and only those are read.
    """
    wanted = count * _SPARE
    if store.count(where) > wanted:
        where = all_of([where, Condition("modified", ">=", _since(store, wanted, where))])
    rows: dict[Any, tuple[float, Hit]] = {}
    for record in islice(store.scroll(where, fields=_FIELDS), max(_MOST, wanted)):
        payload = record.payload
        places = payload["places"]
        asked = [one for one in places if matches(where, {**payload, **one, "places": [one]})] or places
        place = max(asked, key=lambda one: one["mtime"])
        group = (payload["sha"], payload["page"])
        if group in rows and (rows[group][1].chunk or 0) <= (payload["chunk"] or 0):
            continue
        text = " ".join((payload["text"] or "").split())[:_SNIPPET] or None
        others = [one["path"] for one in places if one is not place]
        hit = Hit(0, 0.0, 0.0, 0.0, record.id, payload["kind"], place["path"], payload["page"], payload["chunk"], text,
                  also_at=others)  # fmt: skip
        rows[group] = place["mtime"], hit
    order = sorted(rows.values(), key=lambda row: (-row[0], row[1].path, row[1].page or 0))
    return [hit for _, hit in order[:count]]


def _since(store: Store, wanted: int, where: Filter | None) -> float:
    """The latest moment, in seconds since 1970, since which at least `wanted` items have changed."""
    since, step = 0.0, float(_FIRST_STEP)
    since -= step / 2
    while step > 1:
        step /= 2
        if store.count(all_of([where, Condition("modified", ">=", since + step)])) >= wanted:
            since += step
    return since
