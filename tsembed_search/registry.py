"""One shape for every table of things that others may add to: formats, families, models, losses, stores, commands."""

from __future__ import annotations

import difflib
import importlib
import operator
from collections.abc import Mapping
from typing import Generic, TypeVar, cast

from tsembed_search.errors import UsageError
from tsembed_search.wording import shown

T = TypeVar("T")


class Registry(Generic[T]):
    """Names and what they stand for: an object, or `"module:object"`, which is imported when it is asked for first.

    Packages add entries by entry points in the group `tsembed.` and the registry's plural, such as `tsembed.formats`.
    Own entries come first and keep their names. `kind` is what messages call an entry: "loss", "store".
    """

    def __init__(self, kind: str, group: str, entries: Mapping[str, str | T]) -> None:
        self.kind = kind
        self.group = group
        self._entries: dict[str, str | T] = dict(entries)
        self._searched = False

    def __contains__(self, name: object) -> bool:
        return name in self._entries or name in self._all()

    def names(self) -> list[str]:
        """The names of all entries: own ones in the order of the table, then those of other packages."""
        return list(self._all())

    def add(self, name: str, entry: str | T) -> None:
        """Adds an entry, or puts another in its place."""
        self._entries[name] = entry

    def get(self, name: str) -> T:
        """Return the entry of that name. Raises `UsageError` when there is none, or when it cannot be imported."""
        entry = self._entries[name] if name in self._entries else self._all().get(name)
        if entry is None:
            close = difflib.get_close_matches(name, self.names(), 3)
            hint = f"Is it {' or '.join(close)}?" if close else f"There are: {', '.join(self.names())}."
            raise UsageError(f"There is no {self.kind} called {shown(name)}.", hint)
        if isinstance(entry, str):
            entry = self._entries[name] = self._imported(name, entry)
        return entry

    def all(self) -> list[T]:
        """Return all entries, in the order of `names`."""
        return [self.get(name) for name in self.names()]

    def _imported(self, name: str, path: str) -> T:
        module, _, attributes = path.partition(":")
        try:
            return cast(T, operator.attrgetter(attributes)(importlib.import_module(module)))
        except (ImportError, AttributeError) as error:
            raise UsageError(
                f"The {self.kind} {name} cannot be loaded from {path}: {error}.",
                "Install the package that adds it again, or remove it.",
            ) from error

    def _all(self) -> Mapping[str, str | T]:
        if not self._searched:
            from importlib.metadata import entry_points

            self._searched = True
            for point in entry_points(group=self.group):
                self._entries.setdefault(point.name, point.value)
        return self._entries
