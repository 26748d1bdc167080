"""What a run of the indexer is asked to do, how it tells of its progress, and what it says at the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from tsembed_search.errors import TsembedError

PageMode = Literal["auto", "always", "never"]
"""Whether document pages are also indexed as pictures; `auto`: when the model reads pages by eye."""

Stage = Literal["checking", "crawling", "loading the model", "embedding", "cleaning up", "optimizing"]


@dataclass(frozen=True)
class IndexSettings:
    """What to index, and how.

    `folder`: the index's own folder, where its manifest and lock live (made when missing). `paths`: files and folders.
    `fingerprint` and `model`: the model's, from its `ModelRef`, so that a run with nothing to embed never loads it.

    `include` and `exclude` are gitignore-style patterns; with `include`, only files that match are read, whatever their
    extension. `hidden`: dot files too. `follow_links`: enter linked folders. `prune`: remove what has vanished.
    `prune_empty`: also where a whole folder has, whose disk may only be away (see `offline.py`).
    `retry_skipped`: read again the unchanged files that an earlier run could not.
    `wait`: seconds to wait for another process that owns the index; 0: do not, None: as long as it takes.

    `workers`: decoding processes (None: by cores and device). `time_limit`: the most seconds a file may take without
    giving anything. `memory`: the most bytes of address space that one decoding process may use beyond its own code.
    """

    folder: Path
    paths: tuple[Path, ...]
    fingerprint: str
    model: str
    pages: PageMode = "auto"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    hidden: bool = False
    follow_links: bool = False
    prune: bool = True
    prune_empty: bool = False
    retry_skipped: bool = False
    dry_run: bool = False
    wait: float | None = 0.0
    workers: int | None = None
    time_limit: float = 60.0
    memory: int = 896 << 20
    points_per_write: int = 128


@dataclass
class FileCounts:
    """Files of one run. `seen` is the sum of added, updated, unchanged, renamed and skipped."""

    seen: int = 0
    added: int = 0
    updated: int = 0
    unchanged: int = 0
    renamed: int = 0
    removed: int = 0
    skipped: int = 0


@dataclass
class ItemCounts:
    """Points of one run. `total`: in the store now. `reused`: known already, so not embedded again."""

    embedded: int = 0
    reused: int = 0
    removed: int = 0
    total: int = 0


@dataclass(frozen=True)
class Skipped:
    """Something that was left out: a file, or a part of one (the reason says which)."""

    path: str
    reason: str


@dataclass(frozen=True)
class Offline:
    """A folder whose files were there before and are not now, as if its disk were away. `files` of them stay in the
    index until they are back, or until they are pruned for good.
    """

    path: str
    reason: str
    files: int


@dataclass
class IndexReport:
    """The outcome of a run; `to_json` is what `index --json` prints."""

    files: FileCounts = field(default_factory=FileCounts)
    items: ItemCounts = field(default_factory=ItemCounts)
    skipped: list[Skipped] = field(default_factory=list)
    seconds: float = 0.0
    items_per_second: float = 0.0
    offline: list[Offline] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The fields of the contract, ready for `json.dumps`."""
        return {
            "files": vars(self.files).copy(),
            "items": vars(self.items).copy(),
            "skipped": [{"path": one.path, "reason": one.reason} for one in self.skipped],
            "offline": [vars(one).copy() for one in self.offline],
            "seconds": self.seconds,
            "items_per_second": self.items_per_second,
        }


class Interrupted(TsembedError):
    """The run was stopped by a signal. What was acknowledged is kept; `report` says how far it came."""

    exit_code = 130

    def __init__(self, report: IndexReport) -> None:
        super().__init__(
            f"Interrupted after {report.items.embedded} new items; all of them are kept.",
            "Run the same command again to go on.",
        )
        self.report = report


@dataclass(frozen=True)
class Progress:
    """A snapshot of a running index.

    `files` of `files_total` have been dealt with (`files_total` is None while crawling). `found`: files met while
    crawling; `ignored`: files passed over by rule (unknown kind, hidden, ignore files). `items_per_second`: over the
    last seconds of embedding. `seconds_left`: None until it can be told.
    """

    stage: Stage
    files: int = 0
    files_total: int | None = None
    found: int = 0
    ignored: int = 0
    skipped: int = 0
    items: int = 0
    items_per_second: float = 0.0
    seconds: float = 0.0
    seconds_left: float | None = None
    current: str = ""


class ProgressSink(Protocol):
    """Where progress goes. Called from the thread that runs the index, `update` at most about ten times a second."""

    def update(self, progress: Progress) -> None: ...

    def skipped(self, skipped: Skipped) -> None: ...

    def note(self, message: str) -> None:
        """Something worth a line: the index is being repaired, another process is waited for."""
        ...


class Silent:
    """A sink that shows nothing."""

    def update(self, progress: Progress) -> None:
        """Nothing."""

    def skipped(self, skipped: Skipped) -> None:
        """Nothing."""

    def note(self, message: str) -> None:
        """Nothing."""
