"""Printing: every word that comes from a file or a user passes through `shown` first."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO, TypeAlias

from tsembed_search import wording
from tsembed_search.errors import spelled
from tsembed_search.paths import file_path, indexed_form
from tsembed_search.wording import shown

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from tsembed_search.data.tasks import EvaluationData
    from tsembed_search.data.training import DataSet
    from tsembed_search.search.results import SearchResult


Cell: TypeAlias = "str | Text | tuple[str, str]"

_EIGHTHS: Final = " ▏▎▍▌▋▊▉█"
_MOST_SHOWN: Final = 5


def console(*, stderr: bool = False) -> Console:
    """A rich console on stdout or stderr that neither guesses at markup nor colours words by itself."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False, highlight=False, emoji=False, soft_wrap=False)


def is_terminal(*, stderr: bool = False) -> bool:
    """Tell whether people look at the stream. `NO_COLOR` and `TERM=dumb` are left to rich."""
    stream = sys.stderr if stderr else sys.stdout
    return stream is not None and stream.isatty()


def discard(stream: TextIO) -> None:
    """Throw away what a stream still holds and gets: it cannot be written, and must not be tried again at exit."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, stream.fileno())
    os.close(devnull)


def styled(*parts: Cell, **whole: Any) -> Text:
    """Return words for rich, which is imported only now: each part alone or with its style; `whole` is for `Text`."""
    from rich.text import Text

    return Text.assemble(*parts, **whole)


def tell(text: str) -> None:
    """Print a line on stderr. Where that cannot be written, the command goes on without: its result matters more."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        discard(sys.stderr)


def remark(*lines: str) -> None:
    """Print lines for people on stderr, dim in a terminal; empty ones are left out."""
    text = "\n".join(shown(line) for line in lines if line)
    if not is_terminal(stderr=True):
        tell(text)
        return
    console(stderr=True).print(styled(text, style="dim"))


@contextmanager
def working(what: str, *, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """Show on a terminal's stderr that something is going on, until it is done. Gives what says it in other words."""
    if quiet or not is_terminal(stderr=True):
        yield lambda words: None
        return
    with console(stderr=True).status(shown(what) + " …") as status:
        yield lambda words: status.update(shown(words) + " …")


def print_json(document: Mapping[str, Any]) -> None:
    """Print one JSON document on a line of stdout. It is pure ASCII: no data acts on a terminal or breaks an encoding.

    It is valid whatever the data: half of a surrogate pair is spelled `\\udcff`, a number that is not finite is null.
    """
    sys.stdout.write(json.dumps(_valid(document), ensure_ascii=True, allow_nan=False) + "\n")
    sys.stdout.flush()


def _valid(value: Any) -> Any:
    """`value` with nothing that JSON does not have."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_valid(key): _valid(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_valid(entry) for entry in value]
    return value


def print_fields(*fields: object) -> None:
    """Print the fields of a line for programs, with tabs between them."""
    print("\t".join(shown(str(field)) for field in fields))


def print_table(
    headings: Sequence[str], rows: Iterable[Iterable[Cell]], *, right: Sequence[str] = (), whole: Sequence[str] = ()
) -> None:
    """Print a table for people, of cells that are safe to show, each alone or with its style.

    Columns named in `right` are aligned there; those in `whole` are never broken. Without headings, the last one is.
    """
    from rich.table import Table

    made = Table(box=None, pad_edge=False, header_style="bold", show_header=any(headings))
    for number, heading in enumerate(headings, 1):
        unbroken = heading in right or heading in whole if heading else number < len(headings)
        made.add_column(heading, justify="right" if heading in right else "left", overflow="fold", no_wrap=unbroken)
    for row in rows:
        made.add_row(*(styled(cell[0], style=cell[1]) if isinstance(cell, tuple) else cell for cell in row))
    console().print(made)


def bar(share: float, width: int) -> str:
    """Return a bar for 0 to 1, in eighths of a character, filled up with blanks to `width`."""
    full, part = divmod(round(max(0.0, min(1.0, share)) * width * 8), 8)
    return ("█" * full + (_EIGHTHS[part] if part else "")).ljust(width)


def blended(first: tuple[int, int, int], second: tuple[int, int, int], share: float) -> str:
    """Return, for a style, the colour that is `share` (0 to 1) of the way from one to the other."""
    share = max(0.0, min(1.0, share))
    return "rgb({},{},{})".format(*(round(a + (b - a) * share) for a, b in zip(first, second, strict=True)))


def print_paths(paths: Iterable[str], *, end: str) -> None:
    """Print paths only, each followed by `end`, as the bytes that the file system knows, for `xargs -0` and its like.

    A terminal gets them safe to show instead.
    """
    if is_terminal():
        for path in paths:
            print(shown(path))
        return
    sys.stdout.flush()
    for path in paths:
        sys.stdout.buffer.write(os.fsencode(file_path(path)) + end.encode())
    sys.stdout.buffer.flush()


_IN_SHELL: Final = {
    "add()": "tsembed index FOLDER",
    "files()": "tsembed ls",
    "repair()": "tsembed doctor --repair",
    "known_models()": "tsembed models",
    "evaluate()": "tsembed eval",
    "train()": "tsembed train",
    "check()": "tsembed data check",
    "store": "--url",
}


def in_shell(name: str) -> str:
    """Spell a setting, or a method of `Index`, that a hint names as the command line has it."""
    return _IN_SHELL.get(name, "--" + name.replace("_", "-"))


def complain(message: str, hint: str = "", *, label: str = "error: ") -> None:
    """Print an error as one block on stderr: what happened, and what to do about it."""
    lines = [shown(line) for line in message.splitlines()] or [""]
    hints = [shown(line) for line in spelled(hint, in_shell).splitlines()]
    if not is_terminal(stderr=True):
        tell("\n".join([label + lines[0], *lines[1:], *hints]))
        return
    advice = [("\n" + "\n".join(hints), "dim")] if hints else []
    console(stderr=True).print(styled((label, "bold red"), "\n".join(lines), *advice))


def link_to(path: str) -> str:
    """Return the `file://` address of an absolute path, safe inside an OSC 8 link."""
    # What is no path of this system (a surrogate that stands for no byte) becomes one before it is encoded.
    return file_path(indexed_form(Path(path))).as_uri()


def path_text(path: str, *, style: str = "") -> Text:
    """Return a path for rich, shortened, and clickable where the terminal can."""
    from rich.style import Style

    return styled(shown(shortened(path)), style=Style.parse(style) + Style(link=link_to(path)), overflow="fold")


def shortened(path: str) -> str:
    """Return an indexed path relative to the current folder where it lies in it, else as it is."""
    try:
        return path.removeprefix(indexed_form(Path.cwd()) + "/") or path
    except OSError:  # the current folder was deleted
        return path


def tell_left_out(data: DataSet | EvaluationData, count: int, *, quiet: bool) -> None:
    """Name rows that were left out, `count` in all, and fields that nothing reads. With `quiet`, the first of them
    still: they change what is learned and what is measured.
    """
    most = 1 if quiet else _MOST_SHOWN
    said = []
    if count:
        what = "row" if any(problem.line for problem in data.problems) else "file"
        said = [f"{wording.count_words(count, what)} left out:", *(f"  {one}" for one in data.problems[:most])]
    if count > most:
        said.append(f"  ... and {count - most:,} more. All of them: tsembed data check DATA --json")
    said += map(str, data.unread[:most])
    if more := len(data.unread[most:]):
        said.append(f"... and {wording.count_words(more, 'more file')} with fields that nothing reads.")
    if said:
        remark(*said)


def expert_legend(names: Iterable[str]) -> str:
    """Say what the names of experts mean, by the first of them; nothing when there are none."""
    said = next(filter(None, map(wording.expert_words, names)), "")
    return f"{said}." if said else ""


def share_words(with_vectors: int | None, items: int | None) -> str:
    """Say what share of the items is found by meaning, too; nothing when all are."""
    if with_vectors is None or not items or with_vectors >= items:
        return ""
    return f"words for all, meaning for {100 * with_vectors // items}%"


def matches_words(result: SearchResult) -> str:
    """Say how many hits are good matches: `4 good matches; 6 weaker`."""
    if result.good is None:
        return wording.count_words(len(result.hits), "hit")
    if not result.good:
        return "Nothing here is a good match; these are the nearest"
    matches = wording.count_words(result.good, "good match", "good matches")
    weaker = len(result.hits) - result.good
    return f"{matches}; {weaker} weaker" if weaker else matches
