"""Which files a run looks at: hidden ones, `--include` and `--exclude`; ignore files are `ignore_files.py`'s."""

from __future__ import annotations

from tsembed_search.ignore_files import pattern_spec
from tsembed_search.indexer.loaders import EXTENSIONS, extension_of


class Selection:
    """What the options of one run let through. Patterns are gitignore's, relative to the root."""

    def __init__(self, include: tuple[str, ...] = (), exclude: tuple[str, ...] = (), *, hidden: bool = False) -> None:
        self._include = pattern_spec(include, "--include") if include else None
        self._exclude = pattern_spec(exclude, "--exclude") if exclude else None
        self._hidden = hidden

    def takes_folder(self, name: str, rel: str) -> bool:
        """Whether to look into a folder. `rel`: relative to the root."""
        if name.startswith(".") and not self._hidden:
            return False
        return self._exclude is None or not self._exclude.match_file(rel + "/")

    def takes_file(self, name: str, rel: str) -> bool:
        """Whether to look at a file: one of a kind that is indexed, or one that was asked for."""
        if name.startswith(".") and not self._hidden:
            return False
        if self._exclude is not None and self._exclude.match_file(rel):
            return False
        return extension_of(name) in EXTENSIONS if self._include is None else self._include.match_file(rel)
