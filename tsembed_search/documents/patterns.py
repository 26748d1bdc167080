"""Patterns of files, as in a `.gitignore`, in every way that people write them.

By the letter, `./private`, `~/docs/private`, `private\\notes`, `"private"` and `private # mine` match nothing in a
`.gitignore`, silently. So a pattern is read in all ways that a person may have meant, and matches what any of them
matches. What follows a `!` takes back what was excluded: it is read by the letter, but for paths.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from tsembed_search.errors import UsageError
from tsembed_search.paths import name_form

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

_FOLDER: Final = "ps_d"  # pathspec's name for the slash after a folder that a pattern names
_ANY_FOLDER: Final = re.compile("/$")
_STEP: Final = re.compile(r"(^|/)\.\.?(/|$)")
_OPEN_END: Final = re.compile(r"(?<!\\)(\\\\)*\\$")
_REMARK: Final = re.compile(r"\s+#.*$")
# A backslash takes the meaning from one of these; before anything else it is how Windows separates folders.
_SEPARATING: Final = re.compile(r"\\(?![\\#! *?\[\]])|(?<=\w)\\(?=[*?])")


class Patterns:
    """Patterns for what lies below `folder` (an absolute path as the system spells it)."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._lines: list[str] = []
        self._spec: GitIgnoreSpec | None = None
        self._read: list[tuple[Callable[[str], re.Match[str] | None], bool]] = []

    def add(self, pattern: str, *, base: str) -> bool:
        """Add a pattern, a path in which may count from the folder or from `base`. False: it can match nothing."""
        negated = pattern.startswith("!")
        meant = {pattern[1:]: None} if negated else _meant(pattern)
        found = list(dict.fromkeys(line for each in meant for line in self._located(name_form(each), base)))
        # The first character of a reading has no meaning of its own.
        self._lines += ["!" + line if negated else re.sub("^(?=[!#])", r"\\", line) for line in found]
        return bool(found)

    def check(self, where: str) -> None:
        """Raise `UsageError` for a pattern that makes no sense. `where` names the patterns in the message."""
        from pathspec import GitIgnoreSpec
        from pathspec.patterns.gitignore import GitIgnorePatternError

        try:
            self._spec = GitIgnoreSpec.from_lines(self._lines)
            for line, read in zip(self._lines, self._spec.patterns, strict=True):
                if read.include is None or read.regex is None:  # git passes over a bracket that does not close
                    raise GitIgnorePatternError(f"{line!r}")
                # `*/` is any folder; pathspec looks for the first slash, and here the last matters.
                regex = _ANY_FOLDER if read.regex.pattern == f"(?P<{_FOLDER}>/)" else read.regex
                self._read.append((regex.search, read.include))
        except (GitIgnorePatternError, re.error) as error:
            raise UsageError(f"One of {where} makes no sense: {error}.", "Patterns are those of .gitignore.") from error

    def say(self, rel: str, *, is_folder: bool = False) -> bool | None:
        """Return whether a path (relative to the folder) is matched; None when no pattern speaks of it.

        The last pattern that names it decides, as in git. What names a folder above it says nothing here: whoever walks
        has asked about that folder before.
        """
        name = name_form(rel.replace(os.sep, "/")) + "/" * is_folder
        for search, include in reversed(self._read):
            found = search(name)
            if found is not None and (found.end() == len(name) or found.lastgroup != _FOLDER):
                return include
        return None

    def cover(self, rel: str) -> bool:
        """Return whether a file, or a folder that it lies in, is matched."""
        assert self._spec is not None, "check() comes first"
        return self._spec.match_file(name_form(rel.replace(os.sep, "/")))

    def _located(self, pattern: str, base: str) -> Iterator[str]:
        """The gitignore patterns of this folder for one that was written in `base`; none for what lies elsewhere."""
        pattern = re.sub(r"/{2,}", "/", pattern)
        end = "/" if pattern.endswith("/") else ""
        expanded = os.path.expanduser(pattern)  # noqa: PTH111 - a pattern is no path
        if not _STEP.search(pattern) and pattern.strip("/") and not _OPEN_END.search(pattern):
            yield pattern
        if "/" not in pattern.rstrip("/") and expanded == pattern and not _STEP.search(pattern):
            return
        for start in dict.fromkeys((base, self._folder)):
            whole = os.path.normpath(os.path.join(name_form(start), expanded))  # noqa: PTH118
            for folder in (self._folder, os.path.realpath(self._folder)):
                inside = name_form(folder).rstrip("/") + "/"
                if whole.startswith(inside):
                    yield "/" + whole[len(inside) :] + end
                    break


def _meant(pattern: str) -> dict[str, None]:
    """All that may be meant by a pattern, as keys."""
    readings = {pattern: None}
    changes: tuple[Callable[[str], str], ...] = (
        _seen,
        lambda one: _REMARK.sub("", one),
        lambda one: one if one.strip().endswith("\\") else one.strip(),
        lambda one: one[1:-1] if one[:1] in ("'", '"') and one[:1] == one[-1:] else one,
        lambda one: one.replace("\\", "/") if _SEPARATING.search(one) else one,
    )
    for change in changes:
        readings |= dict.fromkeys(filter(None, map(change, list(readings))))
    return readings


def _seen(pattern: str) -> str:
    """Without characters that nobody sees, which come along when text is copied."""
    return "".join(
        " " if character == "\xa0" else character
        for character in pattern
        if character.isascii() or unicodedata.category(character) != "Cf"
    )
