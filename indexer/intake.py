"""From files that are new or changed to contents that must be read: hashing finds what is known already."""

from __future__ import annotations

import hashlib
import os
import queue
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

from tsembed_search.documents.crawl import Found, open_regular, signature, unreadable
from tsembed_search.documents.document import HEAD, extension_of, format_of, formats, formats_of
from tsembed_search.documents.worker import CHANGED, TooSlow
from tsembed_search.errors import LoadError
from tsembed_search.indexer.changes import Changes
from tsembed_search.indexer.database import FileRow, each_id
from tsembed_search.indexer.jobs import ContentJob, Flow, FlowStopped, InFlight
from tsembed_search.indexer.manifest import Manifest
from tsembed_search.indexer.report import IndexOptions, Meter, PageMode

_PIECE: Final = 1 << 20
_PORTION: Final = 200
# A file that was changed this shortly before it was read may change again without a new time of change: file systems
# count in steps of up to two seconds.
_GRAIN_NS: Final = 2_000_000_000


class Intake:
    """The stage that hashes files and decides: known content in another place, or a job.

    `reads_pages`: None if it is not known yet whether the model reads pages by eye.
    """

    def __init__(
        self, manifest: Manifest, changes: Changes, meter: Meter, options: IndexOptions, reads_pages: bool | None
    ) -> None:
        self._manifest = manifest
        self._changes = changes
        self._meter = meter
        self._options = options
        self.in_flight = InFlight()
        self._placed: list[FileRow] = []
        self._left: list[str] = []
        self.learn(reads_pages)

    @property
    def must_know_the_model(self) -> bool:
        """True when the way to read a document hangs on a model that was never loaded for this index."""
        return self._options.pages == "auto" and self._reads_pages is None

    def learn(self, reads_pages: bool | None) -> None:
        """Take over what the model says of itself."""
        self._reads_pages = reads_pages
        self._recipes = frozenset(valid_recipes(self._options.pages, reads_pages))

    def run(self, flow: Flow, jobs: queue.Queue[ContentJob | None]) -> None:
        """Put a job for each new content into `jobs`, and None at the end."""
        for found in self._changes.todo():
            job = self.examine(found, flow)
            if job is not None:
                flow.put(jobs, job)
        self._remember()
        flow.put(jobs, None)

    def examine(self, found: Found, flow: Flow | None = None) -> ContentJob | None:
        """Hash one file. Places it when its content is known, else gives the job of reading it."""
        old = self._manifest.file(found.path)
        if old is not None:
            # A file stays where it was found first, however small the folder given this time.
            found = replace(found, root=old.root)
        self._meter.current = found.path
        try:
            sha, head, sure = _hashed(found, flow, self._options.time_limit)
        except (OSError, LoadError) as error:
            reason = unreadable(error) if isinstance(error, OSError) else str(error)
            self._meter.skip(found.path, reason)
            if isinstance(error, TooSlow) and not self._options.dry_run:
                recipe = format_of(extension_of(Path(found.path).name)).recipe(pages=False)
                self._manifest.skip([FileRow.of(found, None, recipe, reason)])
            return None
        known = self._manifest.content(sha)
        if known is not None and not known.pending and known.recipe in self._recipes:
            self._place(found, sha, known.recipe, old, sure, len(known.points) // 16)
            return None
        likely = formats_of(extension_of(Path(found.path).name), head)
        if self.in_flight.joined(sha, found, sure):
            return None
        pages = likely[0].pages and self._pages_of(old)
        recipe = likely[0].recipe(pages=pages)
        points = known.points if known is not None else b""
        job = ContentJob(
            found, sha, likely, recipe, pages, sure,
            known=frozenset(each_id(points)),
            reusable=known is not None and known.recipe in (recipe, ""),
        )  # fmt: skip
        self.in_flight.open(job)
        return job

    def _pages_of(self, old: FileRow | None) -> bool:
        kept = self._options.pages == "auto" and old is not None and old.recipe.endswith("+pages")
        return kept or wants_pages(self._options.pages, self._reads_pages)

    def _place(self, found: Found, sha: bytes, recipe: str, old: FileRow | None, sure: bool, points: int) -> None:
        self._placed.append(FileRow.of(found, sha, recipe, sure=sure))
        if len(self._placed) >= _PORTION:
            self._remember()
        if old is not None and old.sha == sha:
            self._meter.count("unchanged")
            return
        renamed = self._options.prune and self._changes.take_renamed(sha)
        if renamed:
            self._left.append(renamed)
        self._meter.count("renamed" if renamed else "added" if old is None or old.sha is None else "updated")
        self._meter.count_items("reused", points)

    def _remember(self) -> None:
        """Files with known content, in one go: to be on disk takes as long for one as for many."""
        placed, left, self._placed, self._left = self._placed, self._left, [], []
        if not self._options.dry_run:
            self._manifest.place(placed, left)


def wants_pages(pages: PageMode, reads_pages: bool | None) -> bool:
    """Tell whether document pages are rendered. `reads_pages`: the model reads them by eye (None: not known yet)."""
    return pages == "always" or (pages == "auto" and bool(reads_pages))


def valid_recipes(pages: PageMode, reads_pages: bool | None) -> list[str]:
    """Return the recipes whose result need not be made again. `auto` keeps pages that were asked for once."""
    wanted = wants_pages(pages, reads_pages)
    recipes = [""]
    for format in formats():
        if not format.pages or not wanted:
            recipes.append(format.recipe(pages=False))
        if format.pages and (wanted or pages == "auto"):
            recipes.append(format.recipe(pages=True))
    return recipes


def _hashed(found: Found, flow: Flow | None, limit: float) -> tuple[bytes, bytes, bool]:
    """(sha256, first bytes, whether it cannot have changed since unnoticed). Raises `TooSlow` after `limit` seconds.

    A file that goes on after its end is not read on: it grows, or the system makes it up.
    """
    now = time.time_ns()
    deadline = time.monotonic() + limit
    left = found.size
    digest = hashlib.sha256()
    head = b""
    expected = found.size, found.mtime_ns, found.inode
    with open_regular(found.path) as file:
        while piece := file.read(_PIECE):
            head = head or piece[:HEAD]
            digest.update(piece)
            left -= len(piece)
            if flow is not None and flow.stopped:
                raise FlowStopped
            if left < 0:
                made_up = signature(os.fstat(file.fileno())) == expected
                raise LoadError("It is longer than it says: the system makes it up.") if made_up else CHANGED
            if time.monotonic() > deadline:
                raise TooSlow(limit)
        if signature(os.fstat(file.fileno())) != expected:
            raise CHANGED
    return digest.digest(), head, abs(now - found.mtime_ns) > _GRAIN_NS
