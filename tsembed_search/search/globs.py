"""Path patterns, as shells and `.gitignore` have them.

`*` and `?` stay within one folder name or file name, `**` stands for any number of folders, `[abc]` and `[!abc]` for
one character. A pattern that starts with `/` (or a drive, `C:/`) is matched from the start of the path; any other may
start at any folder. A pattern that names a folder matches everything in it: `holiday` finds `/pics/holiday/2019/a.jpg`.
Upper and lower case differ.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import pairwise

from tsembed_search.paths import name_form

_WILD = re.compile(r"[*?\[]")
_DRIVE = re.compile(r"[A-Za-z]:/")
_TYPE = re.compile(r"\*\.[^.*?\[\]]+")


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
    """Whether `path` (absolute, forward slashes), or a folder that it lies in, is named by `pattern`.

    Both have one form (`paths.name_form`).
    """
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


def path_keys(path: str) -> set[str]:
    """What an index can look a path up by, exactly: every folder that it lies in as a path and by its name, both with a
    slash at the end (`/pics/holiday/` and `holiday/`), the name of the file, what is of a type in a folder
    (`holiday/*.jpg`), and the whole path. All in one form (`paths.name_form`), in which a filter has them, too.

    So what a path contains one of its keys contains, and the other way round, unless it holds a `*`.
    """
    path = name_form(path)
    names = path.split("/")
    folders = names[:-1]
    inner = {f"{name}/" for name in folders if name}
    typed = {f"{folder}/*.{name.rpartition('.')[2]}" for folder, name in pairwise(names) if folder and "." in name}
    within = {f"{'/'.join(folders[:end])}/" for end in range(1, len(folders) + 1)}
    return within | inner | typed | {names[-1], path}


def is_key(pattern: str) -> bool:
    """Whether the pattern is nothing but a name, or `name/*.type`: then a path matches if and only if it has one of its
    `wanted_keys`.
    """
    parts, inside = _parts(pattern)
    if is_anchored(pattern) or not parts[0]:
        return False
    if len(parts) == 2:
        return not inside and _typed(parts, 1) is not None
    return len(parts) == 1 and not _WILD.search(parts[0])


def _typed(parts: Sequence[str], at: int) -> str | None:
    """The key for `*.type` in a folder whose name is known; None when that is not what stands there."""
    if at == 0 or not parts[at - 1] or _WILD.search(parts[at - 1]) or not _TYPE.fullmatch(parts[at]):
        return None
    return f"{parts[at - 1]}/{parts[at]}"


def wanted_keys(pattern: str) -> list[list[str]]:
    """What every matching path has among its `path_keys`: of each list at least one. For what has no wildcards."""
    parts, inside = _parts(pattern)
    wild = [at for at, part in enumerate(parts) if _WILD.search(part)]
    last = len(parts) if inside else len(parts) - 1  # the last may be the file
    start = 0
    keys: list[list[str]] = []
    if is_anchored(pattern):
        start = min([*wild, last])
        if start > 1:  # all paths lie in the first
            keys.append(["/".join(parts[:start]) + "/"])
    keys += [[f"{parts[at]}/"] for at in range(start, last) if at not in wild and parts[at]]
    if last < len(parts) and last not in wild and parts[last]:
        keys.append([parts[last], f"{parts[last]}/"])
    typed = [key for at in wild if (key := _typed(parts, at)) is not None]
    return keys if not typed else [[key] for key in typed] + [each for each in keys if not _implied(each, typed)]


def _implied(keys: Sequence[str], typed: Sequence[str]) -> bool:
    """Whether what has one of the `typed` keys has this one, too: `holiday/*.jpg` lies in `holiday/`."""
    return len(keys) == 1 and any(key.startswith(keys[0]) for key in typed)


def wild_literals(pattern: str) -> list[str]:
    """The `literals` of the names with wildcards, which `wanted_keys` leave out."""
    parts, _ = _parts(pattern)
    wild = [part for at, part in enumerate(parts) if _WILD.search(part) and _typed(parts, at) is None]
    return [literal for part in wild for literal in literals(part)]


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
