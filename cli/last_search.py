"""The hits of the last search, remembered so that `tsembed show 3` knows which hit is meant."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tsembed_search import private
from tsembed_search.errors import UsageError
from tsembed_search.paths import IndexAddress, home

if TYPE_CHECKING:
    from tsembed_search.search.results import Hit

_NAME: Final = "last-search.json"
_MOST: Final = 1 << 24  # bytes


@dataclass(frozen=True)
class LastSearch:
    """A search: its words, its index with the folder of that, and the ids of its hits, best first."""

    query: str
    index: str
    folder: str
    ids: list[str]

    def id_of(self, number: int) -> str:
        """Return the id of a hit by its number, from 1. Raises `UsageError` when there is no such hit."""
        if not 1 <= number <= len(self.ids):
            said = f"The last search{f' (for {self.query!r})' if self.query else ''} found {len(self.ids)}."
            raise UsageError(f"There is no hit number {number}.", said)
        return self.ids[number - 1]


def remember(query: str, address: IndexAddress, hits: Sequence[Hit]) -> None:
    """Keep the hits of a search, in a file for its owner alone that is whole at any moment. A disk that cannot be
    written only means that they are not kept.
    """
    known = LastSearch(query, address.name, str(address.folder), [hit.id for hit in hits])
    with suppress(OSError):
        private.make_folder(home())
        # Made for the owner alone; another search at the same time has a file of its own.
        descriptor, name = tempfile.mkstemp(prefix=".last-search-", dir=home())
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                json.dump(vars(known), file)
            Path(name).replace(home() / _NAME)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise


def last_search() -> LastSearch:
    """Return what the last search found. Raises `UsageError` when nothing of that is known."""
    nothing = UsageError("There is no last search whose hits have numbers.", "Search first, or give a path or an id.")
    try:
        with (home() / _NAME).open("rb") as file:
            told = json.loads(file.read(_MOST))
        query, index, folder, ids = told["query"], told["index"], told["folder"], told["ids"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise nothing from None
    if not all(isinstance(one, str) for one in (query, index, folder)) or not isinstance(ids, list):
        raise nothing
    return LastSearch(query, index, folder, [str(one) for one in ids])
