"""Ignore files: what a `.tsembedignore` leaves out, of an index and of training alike.

What is left out may be private, so an exclusion that is not understood is worse than a run that stops. A file that
cannot be read as text, and a pattern that can match nothing, stop the run (`UsageError`). `patterns.py` tells how
patterns are read.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tsembed_search.errors import UsageError
from tsembed_search.patterns import Patterns
from tsembed_search.wording import encoding_by_mark

IGNORE_FILE: Final = ".tsembedignore"
"""In any folder: patterns as in a .gitignore, for that folder and all below."""

_MOST_BYTES: Final = 4 << 20
_LINE_END: Final = re.compile(r"\r\n|\n|\r")
_NO_TEXT: Final = re.compile("[\0-\x08\x0e-\x1f\x7f\ufffd]")
_WHY: Final = "Without it, what it excludes would be read."


@dataclass(frozen=True)
class IgnoreRules:
    """The ignore file of a folder, and of those above it. The nearest one that says something decides."""

    folder: str
    patterns: Patterns
    above: IgnoreRules | None

    def ignores(self, path: str, *, is_folder: bool = False) -> bool:
        """Whether a path below `folder` is left out."""
        said = self.patterns.say(path[len(self.folder.rstrip(os.sep)) + 1 :], is_folder=is_folder)
        if said is None:
            return self.above is not None and self.above.ignores(path, is_folder=is_folder)
        return said


def rules_in(folder: str, above: IgnoreRules | None) -> IgnoreRules | None:
    """The rules that hold in a folder: its own ignore file's, if it has one, over those from above."""
    path = Path(folder, IGNORE_FILE)
    text = _read(path)
    if text is None:
        return above
    patterns = Patterns(folder)
    for number, line in enumerate(_LINE_END.split(text.removesuffix("\x1a")), 1):
        if line.strip() and not line.startswith("#") and not patterns.add(line, base=folder):
            raise UsageError(f"{path}, line {number}: {line.strip()!r} can match nothing in {folder}.", _WHY)
    patterns.check(str(path))
    return IgnoreRules(folder, patterns, above)


def _read(path: Path) -> str | None:
    """The text of an ignore file, None when there is none. Raises `UsageError` for what cannot be read as text."""
    # A pipe that nobody writes to would keep us waiting.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
    try:
        with os.fdopen(os.open(path, flags, 0), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UsageError(f"{path} is not a file.", f"Put patterns into a file of that name. {_WHY}")
            data = file.read(_MOST_BYTES + 1)
    except IsADirectoryError:
        raise UsageError(f"{path} is a folder.", f"Put patterns into a file of that name. {_WHY}") from None
    except (FileNotFoundError, NotADirectoryError) as error:
        if os.path.lexists(path):
            raise UsageError(f"{path} is a link to a file that does not exist.", _WHY) from error
        return None
    except OSError as error:
        raise UsageError(f"Cannot read {path}: {error.strerror}.", _WHY) from error
    if len(data) > _MOST_BYTES:
        raise UsageError(f"{path} has more than {_MOST_BYTES >> 20} MB.", f"Patterns need less. {_WHY}")
    try:
        text = data.decode(encoding_by_mark(data))
        odd = _NO_TEXT.search(text.removesuffix("\x1a"))
        line = text[: odd.start()].count("\n") + 1 if odd else 0
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
    if line:
        raise UsageError(f"{path} is not text in UTF-8: see line {line}.", f"Save it as UTF-8. {_WHY}")
    return text


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
