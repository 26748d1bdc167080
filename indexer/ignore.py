"""Which files a run looks at: hidden ones, `--include` and `--exclude`; ignore files are `ignore_files.py`'s."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tsembed_search.errors import UsageError
from tsembed_search.indexer.loaders import EXTENSIONS, extension_of
from tsembed_search.paths import current_folder_is_gone
from tsembed_search.patterns import Patterns


class Selection:
    """What the options of one run let through. Patterns are gitignore's, relative to each root.

    They are also read as paths from the current folder, as shells complete them. Raises `UsageError` for an empty one.
    """

    def __init__(self, include: tuple[str, ...] = (), exclude: tuple[str, ...] = (), *, hidden: bool = False) -> None:
        self._include = include
        self._exclude = exclude
        self._hidden = hidden
        if "" in (pattern.strip() for pattern in (*include, *exclude)):
            raise UsageError("A pattern is empty.", "Write * for everything.")

    def below(self, roots: Sequence[str]) -> list[RootSelection]:
        """What is let through of what lies below each root.

        Raises `UsageError` for a pattern that makes no sense, or that can match nothing below any of the roots.
        """
        includes = _for_roots(self._include, roots, "--include")
        excludes = _for_roots(self._exclude, roots, "--exclude")
        return [RootSelection(*both, hidden=self._hidden) for both in zip(includes, excludes, strict=True)]


class RootSelection:
    """A `Selection` for what lies below one root."""

    def __init__(self, include: Patterns | None, exclude: Patterns | None, *, hidden: bool) -> None:
        self._include = include
        self._exclude = exclude
        self._hidden = hidden

    def takes_folder(self, name: str, rel: str) -> bool:
        """Whether to look into a folder. `rel`: relative to the root."""
        if name.startswith(".") and not self._hidden:
            return False
        return self._exclude is None or not self._exclude.say(rel, is_folder=True)

    def takes_file(self, name: str, rel: str) -> bool:
        """Whether to look at a file: one of a kind that is indexed, or one that was asked for."""
        if name.startswith(".") and not self._hidden:
            return False
        if self._exclude is not None and self._exclude.say(rel):
            return False
        return extension_of(name) in EXTENSIONS if self._include is None else self._include.cover(rel)


def _for_roots(patterns: Sequence[str], roots: Sequence[str], option: str) -> list[Patterns | None]:
    if not patterns:
        return [None] * len(roots)
    base = "" if current_folder_is_gone() else str(Path.cwd())
    found = [Patterns(root if Path(root).is_dir() else str(Path(root).parent)) for root in roots]
    for pattern in patterns:
        # On a command line there are no comments.
        written = "\\" + pattern if pattern.startswith("#") else pattern
        if not sum(each.add(written, base=base) for each in found):
            raise UsageError(f"{option} {pattern} can match nothing below {', '.join(roots)}.", "Check the pattern.")
    if patterns[0].startswith("!"):
        raise UsageError(f"{option} {patterns[0]} takes back what no pattern before it has named.", "Check the order.")
    for each in found:
        each.check(option)
    return list(found)
