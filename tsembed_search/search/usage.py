"""How the experts of a model are used by what an index holds: altogether, per kind and per folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from tsembed_search.items import KINDS
from tsembed_search.ranking.routes import TOP
from tsembed_search.store.schema import LIST, has_route, stored_routes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tsembed_search.store.base import Record

FIELDS = ("kind", "root", "rel", LIST)
"""The payload fields that `expert_usage` reads."""
OTHERS = "(other folders)"
_PORTION = 1024
_MOST_FOLDERS = 200

Of = Literal["all", "kind", "folder"]
_Key = tuple[Of, str]


@dataclass(frozen=True)
class Usage:
    """How a number of `items` use the experts. What they share is `of`: nothing, a kind or a folder; `name` says which.

    `share` `[L, E]`: the share of them that have an expert among their top experts. `mean` `[L, E]`: their mean route.
    """

    of: Of
    name: str
    items: int
    share: NDArray[np.float64]
    mean: NDArray[np.float64]

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {
            "of": self.of,
            "name": self.name,
            "items": self.items,
            "share": self.share.tolist(),
            "mean": self.mean.tolist(),
        }


class _Sum:
    def __init__(self, size: int) -> None:
        import numpy as np

        self.items = 0
        self.top = np.zeros(size)
        self.route = np.zeros(size)


def expert_usage(records: Iterable[Record], shape: tuple[int, int]) -> list[Usage]:
    """The usage by all items, then per kind, then per folder, the fullest first; items without a route are left out.

    `records` need the payload `FIELDS`, `shape` is (L, E). A folder is a root that was indexed, or a folder right in
    it; beyond two hundred, the rest count as `OTHERS`. Memory does not grow with the number of records. Raises
    `StoreError` for a route of another size.
    """
    import numpy as np

    size = shape[0] * shape[1]
    sums: dict[_Key, _Sum] = {}
    folders: set[str] = set()
    for portion in _portions(records):
        routes = stored_routes([record.payload for record in portion], size).astype(np.float64)
        order = np.argsort(-routes, axis=1, kind="stable")[:, :TOP]
        top = np.zeros_like(routes)
        np.put_along_axis(top, order, (np.take_along_axis(routes, order, axis=1) > 0).astype(float), axis=1)
        members: dict[_Key, list[int]] = {}
        for row, record in enumerate(portion):
            for key in _keys(record, folders):
                members.setdefault(key, []).append(row)
        for key, rows in members.items():
            total = sums.setdefault(key, _Sum(size))
            total.items += len(rows)
            total.top += top[rows].sum(axis=0)
            total.route += routes[rows].sum(axis=0)
    return [
        Usage(key[0], key[1], one.items, (one.top / one.items).reshape(shape), (one.route / one.items).reshape(shape))
        for key, one in sorted(sums.items(), key=_rank)
    ]


def _portions(records: Iterable[Record]) -> Iterator[list[Record]]:
    with_route = (record for record in records if has_route(record.payload))
    while portion := list(islice(with_route, _PORTION)):
        yield portion


def _keys(record: Record, folders: set[str]) -> tuple[_Key, ...]:
    """The groups that a record belongs to; its folder is added to those known, while there is room."""
    payload = record.payload
    first, _, rest = payload["rel"].partition("/")
    folder = f"{payload['root'].rstrip('/')}/{first}" if rest else payload["root"]
    if len(folders) < _MOST_FOLDERS:
        folders.add(folder)
    return ("all", ""), ("kind", payload["kind"]), ("folder", folder if folder in folders else OTHERS)


def _rank(entry: tuple[_Key, _Sum]) -> tuple[Any, ...]:
    (of, name), total = entry
    if of == "folder":
        return 2, name == OTHERS, -total.items, name
    return (0, False, 0, "") if of == "all" else (1, False, KINDS.index(name) if name in KINDS else len(KINDS), name)
