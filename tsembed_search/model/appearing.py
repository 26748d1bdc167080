"""Folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tsembed_search.errors import ModelError


@contextmanager
def appearing(folder: str | Path, replaces: str | None = None) -> Iterator[tuple[Path, Path]]:
    """A new folder to fill, and where it will be: when it is filled, it takes its place at once.

    What is there already is replaced if it holds a file called `replaces`; else raises `ModelError`, unless it is
    empty. Where something is replaced, a crash between two renames can leave it as `.NAME.old` beside where it was.
    """
    target = Path(os.path.abspath(Path(folder).expanduser()))  # noqa: PTH100 - resolve() would follow links
    known = replaces is not None and (target / replaces).is_file()
    if target.exists() and not known and not (target.is_dir() and not any(target.iterdir())):
        what = " and is not a checkpoint" if replaces else " and is not empty"
        raise ModelError(f"{target} exists{what}.", "Choose another folder, or empty this one.")
    target.parent.mkdir(parents=True, exist_ok=True)
    new, old = (target.with_name(f".{target.name}.{what}") for what in ("new", "old"))
    for left in (new, old):
        shutil.rmtree(left, ignore_errors=True)
    new.mkdir()
    try:
        yield new, target
        for path in [*new.rglob("*"), new]:
            flush(path)
        if target.exists():
            target.rename(old)
        new.rename(target)
        flush(target.parent)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def flush(path: Path) -> None:
    """To the disk: a rename that survives a power cut is worth nothing when the files did not."""
    if os.name == "nt" and path.is_dir():
        return
    number = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(number)
    finally:
        os.close(number)
