"""Rescuing what can be read from an embedded store that the engine cannot open or read any more.

The readable points of every segment go into a new shard; what is missing is embedded again by the next run over its
files. The write-ahead log is left out: a part of it may be what is damaged, and the manifest knows what was in it.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from tsembed_search.store.base import StoreSettings
from tsembed_search.store.edge import shard

SALVAGED: Final = "salvaged"
"""The key of an index's metadata whose value changes when points may have been lost: the manifest is compared anew."""

_PAGE: Final = 256


def salvage(folder: Path) -> int:
    """Replace the shard in `folder` by one of all that can be read; returns how many points that are.

    A salvage that is cut short is begun again by the next one. The caller owns the index (`ownership.owned`). Raises
    `IndexBusyError` when another process has the shard open, and `StoreError` when the disk is full or `index.json`
    cannot be read.
    """
    settings, metadata = shard.read(folder)
    points, probe = shard.points_of(folder)[0], folder / "points.probe"
    fresh = shard.other(points)
    with shard.explained("rescue the index in", folder):
        if not points.is_dir():  # a file in its place holds nothing that could be read
            points.unlink(missing_ok=True)
        points.mkdir(exist_ok=True)
        if opened := _unless_damaged(shard.load, points, settings):  # or another process has it
            opened.close()
        _give_back(probe, points)
        shutil.rmtree(fresh, ignore_errors=True)
        shard.need_space(folder, shard.WRITE_RESERVE + 2 * shard.disk_bytes(points))
        made = shard.create(fresh, settings)
        for segment in sorted((points / "segments").glob("*")):
            if (segment / "version.info").exists():
                _copy(segment, probe, made, settings)
            _give_back(probe, points)
        count = int(made.info().points_count)
        made.flush()
        made.close()
        # With this, at once, the new shard takes the place of the damaged one.
        shard.write(folder, settings, {**metadata, SALVAGED: uuid.uuid4().hex}, fresh)
        shutil.rmtree(points)
    return count


def _copy(segment: Path, probe: Path, target: Any, settings: StoreSettings) -> None:
    """Copies one segment's points. It is opened alone, so that what ails the others does not matter."""
    import qdrant_edge as engine

    (probe / "segments").mkdir(parents=True, exist_ok=True)
    segment.rename(probe / "segments" / segment.name)
    opened = _unless_damaged(shard.load, probe, settings)
    if opened is None:
        return
    with closing(opened):
        for ids in _pages(opened):
            for part in (ids, *([id] for id in ids)):
                found = _unless_damaged(opened.retrieve, part, True, True)
                if found is not None:
                    points = [engine.Point(each.id, each.vector, each.payload or {}) for each in found]
                    target.update(engine.UpdateOperation.upsert_points(points))
                    if part is ids:  # else one by one, to leave out only those that cannot be read
                        break


def _pages(opened: Any) -> Iterator[list[Any]]:
    import qdrant_edge as engine

    offset = None
    while True:
        request = engine.ScrollRequest(offset=offset, limit=_PAGE, with_payload=False, with_vector=False)
        answer = _unless_damaged(opened.scroll, request)
        if answer is None:
            return
        page, offset = answer
        yield [each.id for each in page]
        if offset is None:
            return


def _unless_damaged(action: Callable[..., Any], *values: Any) -> Any:
    """Return `action(*values)`; None when the engine finds damage."""
    try:
        return action(*values)
    except BaseException as error:  # a panic in the engine's native code is one
        if not shard.is_damage(error):
            raise
        return None


def _give_back(probe: Path, points: Path) -> None:
    """Returns a segment that was being looked at to its place."""
    for segment in (probe / "segments").glob("*"):
        segment.rename(points / "segments" / segment.name)
    shutil.rmtree(probe, ignore_errors=True)
