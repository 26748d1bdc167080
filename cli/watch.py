"""`tsembed watch`."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from tsembed_search import wording
from tsembed_search.cli import options
from tsembed_search.cli.index import counted, offline_lines, summary_lines
from tsembed_search.cli.render import text as render
from tsembed_search.cli.surroundings import Interrupts, UserInterrupt, explained
from tsembed_search.errors import IndexBusyError, TsembedError
from tsembed_search.store.base import StoreSettings

if TYPE_CHECKING:
    from tsembed_search.index import Index
    from tsembed_search.indexer.report import IndexOptions, IndexReport, Progress, Skipped
    from tsembed_search.indexer.watching.events import Deaf

_MOST_SKIPS = 3
_AGAIN = re.compile(",? and run (it|the( same)? command) again")


@options.described(
    ("a folder and everything below it, until Ctrl-C", "tsembed watch ~/Documents"),
    ("only PDFs, in an index of their own", "tsembed watch ~/Papers --include '*.pdf' --index papers"),
    ("by words only, without a model", "tsembed watch ~/Notes --words --index notes"),
    ("a network disk, looked at every two minutes", "tsembed watch /mnt/nas --every 2"),
    no_args_is_help=True,
)
def watch(
    paths: Annotated[
        list[Path],
        Argument(metavar="PATH...", help="Files and folders to follow.", show_default=False, readable=False),
    ],
    name: options.IndexName = options.INDEX,
    url: options.Url = None,
    model: options.Model = None,
    dim: options.Dimensions = None,
    device: options.Device = "auto",
    pages: options.Pages = "auto",
    include: options.Include = None,
    exclude: options.Exclude = None,
    hidden: options.Hidden = False,
    follow_links: options.FollowLinks = False,
    no_prune: options.NoPrune = False,
    words: options.WordsOnly = False,
    every: Annotated[
        float,
        Option("--every", metavar="MIN", min=0.1, help="Minutes between two looks at folders that tell of no changes."),
    ] = 10.0,
    workers: options.Workers = None,
    time_limit: options.TimeLimit = 60.0,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Keep the index equal to its files, until Ctrl-C.

    Begins as `tsembed index` does. From then on, two seconds after files have changed it reads them, and says so in a
    line. In between, others can search. With --json, each run that changed something prints a line.
    """
    from tsembed_search.indexer.report import IndexOptions
    from tsembed_search.indexer.watching.loop import Pace, Watcher
    from tsembed_search.paths import IndexAddress

    chosen = IndexOptions(
        pages=pages,
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
        hidden=hidden,
        follow_links=follow_links,
        prune=not no_prune,
        words_only=words,
        workers=workers,
        time_limit=time_limit,
    )

    def opened() -> Index:
        return options.open_index(name, url, model=model, device=device, create=StoreSettings(0), dim=dim)

    folder = IndexAddress(name, options.store_of(url)).folder
    with Interrupts(attentive=1.0) as stop:
        runs = _Runs(opened, paths, name, url, every, stop, json=json, quiet=quiet)
        try:
            Watcher(paths, chosen, folder, runs, stop, Pace(every=60 * every)).follow()
        finally:
            runs.rest()
    raise UserInterrupt("The watch has ended.", "What changes from now on, the next run finds.")


class _Runs:
    """A `WatchRunner`: opens the index, keeps its model for the next run, and prints what happens."""

    def __init__(
        self,
        opened: Callable[[], Index],
        paths: Sequence[Path],
        name: str,
        url: str | None,
        every: float,
        stop: Interrupts,
        *,
        json: bool,
        quiet: bool,
    ) -> None:
        self._opened = opened
        self._paths = paths
        self._name = name
        self._url = url
        self._every = wording.time_words(60 * every)
        self._stop = stop
        self._json = json
        self._quiet = quiet
        self._index: Index | None = None
        self._first = True
        self._skipped: set[Skipped] = set()
        self._away: dict[str, str] = {}

    def run(self, roots: Sequence[str], options: IndexOptions) -> IndexReport:
        from tsembed_search.cli.render.progress import IndexDisplay

        # In a log, only the first run says how far it is.
        silent = not self._first and not render.is_terminal(stderr=True)
        try:
            self._index = self._index or self._opened()
            if silent:
                report = self._index.add(roots, options, progress=_Notes(quiet=self._quiet), stop=self._stop)
            else:
                with IndexDisplay(quiet=self._quiet) as display:
                    report = self._index.add(roots, options, progress=display, stop=self._stop)
        except IndexBusyError:
            raise
        except TsembedError:
            # It may be another index by the next time, of another model.
            self.rest()
            raise
        self._tell(report, roots, words=options.words_only)
        self._first = False
        return report

    def _tell(self, report: IndexReport, roots: Sequence[str], *, words: bool) -> None:
        files = report.files
        new = [one for one in report.skipped if one not in self._skipped]
        self._skipped.update(new)
        counts = vars(files) | {"skipped": len(new)}
        told = counted(counts, "added", "updated", "renamed", "removed", "skipped")
        embedded = report.items.embedded
        written, done = (embedded, "embedded") if embedded else (report.items.stored, "stored")
        if self._json:
            if self._first or told or written:
                render.print_json(report.to_json())
        elif self._first and not self._quiet:
            for line in summary_lines(report, self._paths, self._name, self._url, words=words):
                print(line, flush=True)
        elif (told or written) and not self._quiet:
            items = wording.count_words(report.items.total, "item")
            spent = wording.time_words(report.seconds)
            what = told or f"{wording.count_words(written, 'item')} {done}"
            print(f"{_clock()}  {what} in {spent}. The index has {items}.", flush=True)
            for one in new[:_MOST_SKIPS]:
                print(f"          {wording.shown(render.shortened(one.path))}: {wording.shown(one.reason)}", flush=True)
            if len(new) > _MOST_SKIPS:
                print(f"          and {len(new) - _MOST_SKIPS:,} more: tsembed status --skipped", flush=True)
        self._tell_away(report, roots)

    def _tell_away(self, report: IndexReport, roots: Sequence[str]) -> None:
        """Say once which folders are offline, and that they are back."""
        away = {one.path: one.reason for one in report.offline}
        known = {path for path in self._away if any(Path(path).is_relative_to(root) for root in roots)}
        gone = [one for one in report.offline if one.path not in known]
        back = sorted(known - away.keys())
        self._away = {path: why for path, why in self._away.items() if path not in back} | away
        if self._quiet:
            return
        if gone and not (self._first and not self._json):  # the summary of the first run has them
            render.remark(*offline_lines(gone, self._name, self._url, "the watch goes on by itself"))
        for path in back:
            render.remark(f"{_clock()}  {path} is back.")

    def began(self, folders: int) -> None:
        if self._quiet:
            return
        named = ", ".join(map(str, self._paths[:3])) + (" ..." if len(self._paths) > 3 else "")
        inside = f" ({wording.count_words(folders, 'folder')})" if folders else ""
        render.remark(f"Watching {named}{inside}. Ctrl-C ends it.")

    def failed(self, error: Exception, pause: float) -> None:
        if isinstance(error, IndexBusyError):
            if not self._quiet:
                render.remark(f"{_clock()}  {error.message} The watch goes on when that has ended.")
            return
        if isinstance(error, TsembedError):
            message, hint = error.message, error.hint
        else:
            message, hint = explained(error) or (str(error), "")
        hint = _AGAIN.sub("", hint)
        again = f"The watch goes on: the next try is in {wording.time_words(pause)}."
        render.complain(message, f"{hint}\n{again}" if hint else again, label=f"{_clock()}  error: ")

    def deaf(self, roots: Sequence[Deaf]) -> None:
        if self._quiet:
            return
        reasons: dict[tuple[str, str], list[str]] = {}
        for one in roots:
            reasons.setdefault((one.reason, one.hint), []).append(one.root)
        for (reason, hint), named in reasons.items():
            instead = f"Instead, every {self._every} it is looked for changes in {', '.join(named)}."
            render.remark(f"{_clock()}  {reason}", instead, *hint.splitlines())

    def hears_again(self, roots: Sequence[str]) -> None:
        if not self._quiet:
            render.remark(f"{_clock()}  The system tells of all changes again in {', '.join(roots)}.")

    def gone(self) -> None:
        self.rest()  # what is made anew may be of another model
        self._skipped.clear()
        if not self._quiet:
            render.remark(f"{_clock()}  The index {self._name} was deleted. It is made again from the files.")

    def rest(self) -> None:
        if self._index is not None:
            self._index.close()
            self._index = None


class _Notes:
    """A `ProgressSink` of what is worth a line only."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet

    def update(self, progress: Progress) -> None:
        pass

    def skipped(self, skipped: Skipped) -> None:
        pass

    def note(self, message: str) -> None:
        if not self._quiet:
            render.remark(message)


def _clock() -> str:
    return time.strftime("%H:%M:%S")
