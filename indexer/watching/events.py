"""The events of the folders that a run would enter, and of no others: what is excluded or ignored costs nothing.

Each folder is watched by itself. The library for it (watchfiles) takes all folders at once, so a new folder means to
listen anew, to all of them; what happens meanwhile is found by the run that must come after. An event may get lost when
very many come together, and it can name no file whose name is not UTF-8. So many events, and errors, mean that anything
may have changed.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tsembed_search.documents.crawl import IGNORE_FILE, Crawl, Folder, RootSelection, Selection
from tsembed_search.indexer.report import IndexOptions
from tsembed_search.indexer.watching import disks
from tsembed_search.wording import brief

if TYPE_CHECKING:
    from watchfiles._rust_notify import RustNotify

_STEP_MS: Final = 100
_TOGETHER_MS: Final = 300
_TRIES: Final = 5
_MANY: Final = 50
_TOO_MANY: Final = 2000
_MODIFIED: Final = 2
_MORE_WATCHES: Final = (
    "Allow more, such as with: sudo sysctl fs.inotify.max_user_watches=1048576\n"
    "To keep that, write the setting into a file in /etc/sysctl.d."
)
_MORE_WATCHERS: Final = (
    "End other programs that watch folders, or allow more: sudo sysctl fs.inotify.max_user_instances=1024"
)

Batch = set[tuple[int, str]]


@dataclass(frozen=True)
class Heard:
    """The changes until `moment` (of the monotonic clock): the `roots` that they are in, and the `files` by name."""

    moment: float
    roots: frozenset[str]
    files: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Deaf:
    """A root that the system does not tell everything of: the `reason`, and what can be done (`hint`)."""

    root: str
    reason: str
    hint: str = ""


class FolderEvents:
    """Listens to the folders below some roots. `skip`: the index's own folder."""

    def __init__(self, roots: Sequence[str], options: IndexOptions, skip: Path) -> None:
        self.roots = tuple(roots)
        self._options = options
        self._skip = str(skip)
        self._selections: dict[str, RootSelection] = {}
        self._folders: dict[str, list[Folder]] = {}
        self._unheard: dict[str, Deaf] = {}
        self._refused: dict[str, Deaf] = {}
        self._anew = True
        self._ear: _Ear | None = None
        self._heard = _Heap()

    @property
    def folders(self) -> int:
        """The number of folders that are listened to."""
        return len(self._folders) if self._ear is not None else 0

    @property
    def deaf(self) -> dict[str, Deaf]:
        """The roots that must be looked at now and then instead, as `listen` found it."""
        return self._refused | self._unheard

    @property
    def refused(self) -> bool:
        """Tell whether the system has refused to tell of anything: it may do so another time."""
        return bool(self._refused)

    @property
    def heard(self) -> set[str]:
        """The roots that the system tells of, if not of everything."""
        return set() if self._ear is None else {folder.root for each in self._folders.values() for folder in each}

    @property
    def settled(self) -> bool:
        """Tell whether all folders are listened to that there were a moment ago. While there is much coming and going,
        `listen` may not get so far.
        """
        return not self._anew

    def listen(self, *, anew: bool = False) -> bool:
        """Listen to the folders that there are now. Return whether that began `anew`: then only a run that comes after
        can tell what happened before.

        Raises `UsageError` for an ignore file that cannot be read.
        """
        self._anew = self._anew or anew
        began = False
        for _ in range(_TRIES):
            found = self._walk()
            if not self._anew and found == self._folders:
                return began
            self._stop()
            self._folders = found
            # If not, a folder went away meanwhile, or was closed to us.
            self._anew, began = not self._begin(), True
        self._anew = True
        return began

    def wait(self, seconds: float) -> Heard | None:
        """Return what was heard, if need be after waiting for it; None if nothing was."""
        moment, batch = self._heard.take(seconds)
        return None if batch is not None and not batch else self._judged(moment, batch)

    def close(self) -> None:
        """Stop listening."""
        self._stop()

    def _walk(self) -> dict[str, list[Folder]]:
        """The folders to listen to, by path, once for each root that they belong to. Finds the deaf roots, too."""
        options, table = self._options, disks.mounts()
        selection = Selection(options.include, options.exclude, hidden=options.hidden)
        crawl = Crawl(
            self.roots, selection, follow_links=options.follow_links, skip=Path(self._skip), known=lambda path: True
        )
        self._selections = dict(zip(crawl.roots, selection.below(crawl.roots), strict=True))
        self._unheard = {}

        def is_remote(folder: str) -> bool:
            kind = disks.remote_kind(folder, table)
            if kind:
                self._cannot_hear(folder, f"{folder} is on a disk that others may change unheard ({kind}).")
            return bool(kind)

        found: dict[str, list[Folder]] = {}
        for one in crawl.folders(is_remote):
            if not isinstance(one, Folder):
                continue
            try:
                one.path.encode()
            except UnicodeEncodeError:
                self._cannot_hear(one.path, f"{one.path} has a name that is not UTF-8.", "Give it another name.")
                continue
            found.setdefault(one.path, []).append(one)
        return found

    def _cannot_hear(self, folder: str, reason: str, hint: str = "") -> None:
        for root in self.roots:
            if folder == root or folder.startswith(root.rstrip(os.sep) + os.sep) or folder == os.path.dirname(root):  # noqa: PTH120
                self._unheard.setdefault(root, Deaf(root, reason, hint))

    def _begin(self) -> bool:
        """Begin to listen to the folders. False when one of them is not there any more."""
        try:
            notify = _notify(list(self._folders)) if self._folders else None
        except (FileNotFoundError, PermissionError):
            return False
        except (OSError, RuntimeError) as error:
            words = str(error)
            if "watch limit" in words:
                reason, hint = "The system lets nobody watch so many folders.", _MORE_WATCHES
            elif "Too many open files" in words:
                reason, hint = "The system allows no more programs that watch folders.", _MORE_WATCHERS
            else:
                reason, hint = f"The system does not watch these folders: {brief(error)}.", ""
            self._refused = {root: Deaf(root, reason, hint) for root in self.roots}
            return True
        self._refused = {}
        if notify is not None:
            self._ear = _Ear(notify, self._heard)
        return True

    def _stop(self) -> None:
        if self._ear is not None:
            self._ear.close()
        self._ear = None

    def _judged(self, moment: float, batch: Batch | None) -> Heard:
        if batch is None or len(batch) > _TOO_MANY:
            self._anew = True
            return Heard(moment, frozenset(self.roots), frozenset(path for _, path in batch or ()))
        roots, files = set[str](), set[str]()
        for change, path in batch:
            if path == self._skip or path.startswith(self._skip + os.sep):
                continue
            for folder in self._folders.get(path, ()):
                roots.add(folder.root)
                # Another folder may be in its place, which is not listened to.
                self._anew = self._anew or change != _MODIFIED
            for folder in self._folders.get(os.path.dirname(path), ()):  # noqa: PTH120
                if self._concerns(path, folder.root):
                    roots.add(folder.root)
                    files.add(path)
        # The library may lose what comes while it hands over the rest; among few that takes no time.
        return Heard(moment, frozenset(self.roots if roots and len(batch) > _MANY else roots), frozenset(files))

    def _concerns(self, path: str, root: str) -> bool:
        """Tell whether a run would look at a path, or at one that was there before."""
        if path == root:
            return True
        if not path.startswith(root.rstrip(os.sep) + os.sep):
            return False  # the root is a file beside it
        name, selection = os.path.basename(path), self._selections[root]  # noqa: PTH119
        rel = path[len(root.rstrip(os.sep)) + 1 :].replace(os.sep, "/")
        if name == IGNORE_FILE:
            return True
        # Whether it was a folder is not known of what is gone, but then the folder itself was listened to.
        return selection.takes_folder(name, rel) if os.path.isdir(path) else selection.takes_file(name, rel)  # noqa: PTH112


def _notify(folders: Sequence[str]) -> RustNotify:
    from watchfiles._rust_notify import RustNotify

    # Ignoring folders that may not be read would hide every other error, too.
    return RustNotify(list(folders), False, False, 0, False, False)


class _Heap:
    """The events that nobody has taken yet, each once. Of very many, not all are kept: anything may have changed."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._moment = 0.0
        self._batch: Batch | None = set()

    def add(self, batch: Batch | None) -> None:
        """Add events; None: anything may have changed, and nothing more will be heard."""
        with self._changed:
            self._moment = time.monotonic()
            if self._batch is not None:
                # Beyond the limit, more of them say nothing more.
                self._batch = None if batch is None else self._batch | set(islice(batch, _TOO_MANY + 1))
                self._batch = self._batch and set(islice(self._batch, _TOO_MANY + 1))
            self._changed.notify_all()

    def take(self, seconds: float) -> tuple[float, Batch | None]:
        """Take what there is, and the moment of the last of it, if need be after waiting for it."""
        with self._changed:
            self._changed.wait_for(lambda: self._batch != set(), seconds)
            taken, self._batch = self._batch, set()
            return self._moment, taken


class _Ear:
    """A thread that hears events as they come, so that one knows when, also while a run goes on."""

    def __init__(self, notify: Any, heard: _Heap) -> None:
        self._notify = notify
        self._heard = heard
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="tsembed-watch", daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while not self._stop.is_set():
            try:
                # Without a time limit: at its end, the library forgets what came at that moment.
                batch = self._notify.watch(_TOGETHER_MS, _STEP_MS, 0, self._stop)
            except RuntimeError:
                self._heard.add(None)
                return
            if isinstance(batch, set):
                self._heard.add(batch)

    def close(self) -> None:
        """End the thread, then what it listens to."""
        self._stop.set()
        self._thread.join()
        self._notify.close()
