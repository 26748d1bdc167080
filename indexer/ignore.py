"""Which files a run looks at: hidden ones, `--include` and `--exclude`, and `.tsembedignore` files."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tsembed_search.errors import UsageError
from tsembed_search.indexer.loaders import EXTENSIONS, extension_of

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

IGNORE_FILE: Final = ".tsembedignore"
"""In any folder: patterns as in a .gitignore, for that folder and all below."""


class Selection:
    """What the options of one run let through. Patterns are gitignore's, relative to the root."""

    def __init__(self, include: tuple[str, ...] = (), exclude: tuple[str, ...] = (), *, hidden: bool = False) -> None:
        self._include = _spec(include, "--include") if include else None
        self._exclude = _spec(exclude, "--exclude") if exclude else None
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


@dataclass(frozen=True)
class IgnoreRules:
    """The ignore file of a folder, and of those above it. The nearest one that says something decides."""

    folder: str
    spec: GitIgnoreSpec
    above: IgnoreRules | None

    def ignores(self, path: str, *, is_folder: bool = False) -> bool:
        """Whether a path below `folder` is left out."""
        rel = path[len(self.folder.rstrip(os.sep)) + 1 :].replace(os.sep, "/")
        said = self.spec.check_file(rel + "/" if is_folder else rel).include
        if said is None:
            return self.above is not None and self.above.ignores(path, is_folder=is_folder)
        return said


def rules_in(folder: str, above: IgnoreRules | None) -> IgnoreRules | None:
    """The rules that hold in a folder: its own ignore file's, if it has one, over those from above."""
    try:
        with Path(folder, IGNORE_FILE).open(encoding="utf-8", errors="surrogateescape") as file:
            return IgnoreRules(folder, _spec(tuple(file.read().splitlines()), f"{folder}/{IGNORE_FILE}"), above)
    except (FileNotFoundError, NotADirectoryError):
        return above
    except OSError as error:
        raise UsageError(
            f"Cannot read {folder}/{IGNORE_FILE}: {error.strerror}.", "Without it, what it excludes would be indexed."
        ) from error


def is_ignored(path: str, root: str) -> bool:
    """Whether ignore files between `root` and `path` leave out the path, or a folder that it is in."""
    rules = rules_in(root, None)
    at = root.rstrip(os.sep)
    for folder in Path(path).parent.relative_to(root).parts:
        at += os.sep + folder
        if rules is not None and rules.ignores(at, is_folder=True):
            return True
        rules = rules_in(at, rules)
    return rules is not None and rules.ignores(path)


def _spec(patterns: tuple[str, ...], where: str) -> GitIgnoreSpec:
    from pathspec import GitIgnoreSpec
    from pathspec.patterns.gitignore import GitIgnorePatternError

    try:
        return GitIgnoreSpec.from_lines(patterns)
    except (GitIgnorePatternError, re.error) as error:
        raise UsageError(
            f"A pattern of {where} makes no sense: {error}.", "Patterns are those of .gitignore."
        ) from error
