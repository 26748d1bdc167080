"""Path patterns, as shells and `.gitignore` have them.

`*` and `?` stay within one folder name or file name, `**` stands for any number of folders, `[abc]` and `[!abc]` for
one character. A pattern that starts with `/` (or a drive, `C:/`) is matched from the start of the path; any other may
start at any folder. A pattern that names a folder matches everything in it: `holiday` finds `/pics/holiday/2019/a.jpg`.
Upper and lower case differ.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable
from functools import lru_cache

_WILD = re.compile(r"[*?\[]")
_DRIVE = re.compile(r"[A-Za-z]:/")


def is_anchored(pattern: str) -> bool:
    """Whether the pattern is matched from the start of an absolute path."""
    return pattern.startswith("/") or _DRIVE.match(pattern) is not None


def literal_folder(pattern: str) -> str | None:
    """The one path that the pattern names, without a slash at its end; None when it has wildcards or is relative.

    It matches that path (unless `names_inside_only`) and every path inside.
    """
    path = "/".join(_parts(pattern)[0])
    return path if is_anchored(pattern) and not _WILD.search(path) else None


def names_inside_only(pattern: str) -> bool:
    """Whether the pattern (`holiday/`, `holiday/**`) matches what lies in a folder but nothing of its own name."""
    return _parts(pattern)[1]


def bare_text(pattern: str) -> str | None:
    """`text` when the pattern is `*text*`, which is any path that contains it; else None."""
    found = re.fullmatch(r"\*+([^*?\[/]+)\*+", pattern)
    return found[1] if found else None


def path_matches(pattern: str, path: str) -> bool:
    """Whether `path` (absolute, forward slashes), or a folder that it lies in, is named by `pattern`."""
    parts, inside = _parts(pattern)
    names = path.split("/")
    # Positions in `names` that some reading of the pattern so far has reached.
    reached: Iterable[int] = [0] if is_anchored(pattern) else range(len(names))
    for part in parts:
        if part == "**":
            reached = range(min(reached, default=len(names)), len(names))
        else:
            name_matches = _name(part)
            reached = [at + 1 for at in reached if at < len(names) and name_matches(names[at])]
    return any(at < len(names) for at in reached) if inside else any(True for _ in reached)


def literals(pattern: str) -> list[str]:
    """Texts that every matching path contains: what an index can look for first. Only those of two letters or more."""
    runs = re.split(r"\*+|\?|\[!?\]?[^\]]*\]", re.sub(r"/{2,}", "/", pattern))
    return [run for run in runs if len(run) > 1 and "[" not in run]


@lru_cache(maxsize=256)
def _parts(pattern: str) -> tuple[tuple[str, ...], bool]:
    """The pattern's names, and whether only what lies inside the folder so named matches (`holiday/`, `holiday/**`)."""
    parts = re.sub(r"/{2,}", "/", pattern).split("/")
    inside = False
    while len(parts) > 1 and parts[-1] in ("", "**"):
        inside = True
        parts.pop()
    return tuple(parts), inside


@lru_cache(maxsize=1024)
def _name(part: str) -> Callable[[str], object]:
    return re.compile(fnmatch.translate(part)).match
