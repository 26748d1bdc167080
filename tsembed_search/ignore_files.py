"""Ignore files: what a `.tsembedignore` leaves out, of an index and of training alike."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tsembed_search.errors import UsageError

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

IGNORE_FILE: Final = ".tsembedignore"
"""In any folder: patterns as in a .gitignore, for that folder and all below."""


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
            return IgnoreRules(folder, pattern_spec(tuple(file.read().splitlines()), f"{folder}/{IGNORE_FILE}"), above)
    except (FileNotFoundError, NotADirectoryError):
        return above
    except OSError as error:
        raise UsageError(
            f"Cannot read {folder}/{IGNORE_FILE}: {error.strerror}.", "Without it, what it excludes would be read."
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


def pattern_spec(patterns: tuple[str, ...], where: str) -> GitIgnoreSpec:
    """Patterns of gitignore's kind. `where` they stand is for the message. Raises `UsageError` for a bad one."""
    from pathspec import GitIgnoreSpec
    from pathspec.patterns.gitignore import GitIgnorePatternError

    try:
        return GitIgnoreSpec.from_lines(patterns)
    except (GitIgnorePatternError, re.error) as error:
        raise UsageError(
            f"A pattern of {where} makes no sense: {error}.", "Patterns are those of .gitignore."
        ) from error
