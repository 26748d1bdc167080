"""A folder that is gone is not a folder that was emptied: its disk may be away for a while.

A *place* is a folder that comes and goes as a whole: one that was given to be indexed, or, below it, a mount point or a
folder behind a link. What is missing from a place that is offline stays in the index. A place is offline when

- it is not there, is no folder any more, or cannot be listed;
- none of its files is there any more;
- it is on another disk than before, and files are missing;
- more than half of its files are missing at once, and they are more than three.

The last one is judged when the run has read what is new, for content that was found elsewhere has only moved. A place
that was found offline stays so until most of what was missing is back, however many runs come between.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tsembed_search.indexer.changes import Changes
from tsembed_search.indexer.manifest import Manifest
from tsembed_search.indexer.report import Offline
from tsembed_search.paths import absence, disk_of

_FEW: Final = 3


@dataclass(frozen=True)
class _Known:
    """A place as the manifest has it: its disk, and how many files were `missing` when it was found offline."""

    disk: str | None
    missing: int


class Guard:
    """The judgement of one run over the places under its `roots`. `disks`: those that the crawl met, by place."""

    def __init__(self, manifest: Manifest, changes: Changes, roots: list[str], disks: Mapping[str, str | None]) -> None:
        self._manifest = manifest
        self._changes = changes
        self._roots = roots
        self._disks = disks
        self._known = {path: _Known(disk, missing) for path, disk, missing in manifest.places()}
        under = [path for path in self._known if any(_within(path, root) for root in roots)]
        self._places = sorted({*roots, *under, *disks})
        self._sizes: dict[str, int] = {}
        self._suspects: dict[str, int] = {}
        self._offline: dict[str, Offline] = {}

    @property
    def offline(self) -> list[Offline]:
        """The places that were found offline, by path; one inside another counts for that one."""
        told: list[Offline] = []
        for path, one in sorted(self._offline.items()):
            if told and _within(path, told[-1].path) and absence(told[-1].path):
                told[-1] = Offline(told[-1].path, told[-1].reason, told[-1].files + one.files)
            else:
                told.append(one)
        return told

    def place_of(self, path: str) -> str:
        """The innermost place that a path lies in."""
        return max((place for place in self._places if _within(path, place)), key=len)

    def look(self, *, most: bool = True) -> None:
        """Judge what the crawl missed, before the new files are read. What is surely offline is off the list of what
        vanished, so that a copy in another place is not taken for it; unless enough is new to hold all of it.

        `most`: also suspect places that most files are missing from.
        """
        missing = self._changes.vanished_by_place()
        for place in self._places:
            gone = missing.get(place, 0)
            if reason := self._surely(place, gone):
                if self._changes.may_have_moved(place):
                    self._suspects[place] = gone
                else:
                    self._set_aside(place, reason, gone)
            elif most and self._mostly(place, gone):
                self._suspects[place] = gone

    def look_again(self) -> None:
        """Judge the suspects, now that what only moved is known."""
        missing = self._changes.vanished_by_place()
        for place in self._suspects:
            gone = missing.get(place, 0)
            reason = self._surely(place, gone) or self._mostly(place, gone)
            if gone and reason:
                self._set_aside(place, reason, gone)

    def remember(self, *, finished: bool) -> None:
        """Write down which places are offline, and the disks of the others. Before the run has `finished`, suspects
        count as offline: a kill must not make the next run forget what was missing.
        """
        lost = {place: one.files for place, one in self._offline.items()}
        if not finished:
            lost |= self._suspects
        now = {path: (disk, missing) for path, disk, missing in self._manifest.places()}
        others = [place for place in self._places if place not in lost and place not in self._disks]
        # To be on disk takes its time, and most runs find everything as it was.
        self._manifest.remember_places(
            {at: disk for at, disk in self._disks.items() if at not in lost and now.get(at) != (disk, 0)},
            {at: missing for at, missing in lost.items() if now.get(at, ("", 0))[1] != missing},
            [place for place in others if place in now],
        )

    def _set_aside(self, place: str, reason: str, gone: int) -> None:
        self._offline[place] = Offline(place, reason, gone or self._size(place))
        self._changes.set_aside(place)

    def _surely(self, place: str, gone: int) -> str:
        """Why a place is offline whatever else there is; empty when that cannot be said."""
        reason = absence(place)
        if not (gone or (reason and not os.path.isfile(place))) or not (size := self._size(place)):  # noqa: PTH113
            return ""
        if reason:
            return reason
        if gone >= size and not self._changes.seen_below(place):
            return "None of its files is there."
        before, now = self._disk_before(place), disk_of(place)
        if before is not None and now is not None and before != now:
            return f"Another disk is in its place, and {gone:,} of {size:,} files are missing."
        return ""

    def _mostly(self, place: str, gone: int) -> str:
        """Why a place is offline if what is missing has not moved."""
        if not gone:
            return ""
        size, known = self._size(place), self._known.get(place)
        if gone > _FEW and 2 * gone > size:
            return f"{gone:,} of {size:,} files are missing at once."
        if known is not None and known.missing and 2 * gone >= known.missing:
            return f"{gone:,} of {size:,} files are still missing."
        return ""

    def _disk_before(self, place: str) -> str | None:
        """The disk that a place was on: its own, or for one that was none before, that of the place around it."""
        around = [known for known in self._known if _within(place, known)]
        return self._known[max(around, key=len)].disk if around else None

    def _size(self, place: str) -> int:
        """The number of files that a place had before this run, without those of places inside it."""
        if place not in self._sizes:
            self._sizes[place] = self._own_files(place)
        return self._sizes[place]

    def _own_files(self, place: str) -> int:
        inside = [other for other in self._places if other != place and _within(other, place)]
        direct = [one for one in inside if not any(one != other and _within(one, other) for other in inside)]
        return self._manifest.count_below(place) - sum(map(self._manifest.count_below, direct))


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
