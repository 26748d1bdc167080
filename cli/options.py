"""Options that several commands share, and what the shell completes for them."""

from __future__ import annotations

import math
import re
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Annotated, Any, Final, Self, TypeVar

import typer

from tsembed_search.paths import DEFAULT_INDEX, home

F = TypeVar("F", bound=Callable[..., object])
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


def index_names(incomplete: str) -> list[str]:
    """Names of the indexes on this machine that begin with `incomplete`."""
    folder = home() / "indexes"
    found = sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
    return [name for name in found if name.startswith(incomplete)]


def model_names(incomplete: str) -> list[str]:
    """Names of known models that begin with `incomplete`."""
    from tsembed_search.model.registry import known_models

    usable = (model.name for model in known_models() if model.prompt not in ("refused", "unreadable"))
    return [name for name in usable if name.startswith(incomplete)]


def where_fields(incomplete: str) -> list[str]:
    """Completions of the last condition of a filter: its fields, and the kinds."""
    from tsembed_search.items import KINDS
    from tsembed_search.store.filters import PAYLOAD_KEYS

    head, _, word = incomplete.rpartition(" ")
    head += " " if head else ""
    kinds = [f"kind={kind}" for kind in KINDS]
    starts = [*(f"{field}" for field in PAYLOAD_KEYS if field not in ("kind", "sha", "model")), *kinds]
    return [head + start for start in starts if start.startswith(word)]


def rerankers(incomplete: str) -> list[str]:
    """Names of the ways to rerank that begin with `incomplete`."""
    from tsembed_search.ranking.reranking import RERANKERS

    return [name for name in RERANKERS.names() if name.startswith(incomplete)]


def store_of(url: str | None) -> str:
    """The store that `--url` means: a Qdrant server, or the engine on this machine."""
    if url is None:
        return "edge"
    return url if re.match(r"[\w+.-]+:/", url) else f"http://{url}"


def same_index(name: str, url: str | None) -> str:
    """What to add to a command so that it means this index; nothing for the default one."""
    return ("" if name == DEFAULT_INDEX else f" --index {name}") + (f" --url {url}" if url else "")


class Interrupts:
    """Ctrl-C and SIGTERM while the block runs: the first asks whoever looks (`is_set`) to stop, the next stops at once.

    The first stops at once, too, when nobody has looked for `attentive` seconds: nobody would notice. In other threads
    than the main one signals cannot be handled.
    """

    def __init__(self, attentive: float = math.inf) -> None:
        self._attentive = attentive
        self._looked = -math.inf if attentive < math.inf else 0.0
        self._set = False
        self._before: dict[signal.Signals, Any] = {}

    def is_set(self) -> bool:
        """Tell whether to stop."""
        self._looked = time.monotonic()
        return self._set

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {each: signal.signal(each, self._handle) for each in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each, handler in self._before.items():
            # None: a handler that was not set from Python and cannot be set again from here.
            signal.signal(each, signal.SIG_DFL if handler is None else handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._set or time.monotonic() - self._looked > self._attentive:
            raise KeyboardInterrupt
        self._set = True


def examples(*pairs: tuple[str, str]) -> str:
    """The last part of a command's help: what each example does, and the command to type."""
    lines = [f"[dim]# {escaped(what)}[/dim]\n[cyan]{escaped(command)}[/cyan]" for what, command in pairs]
    return "[bold]Examples[/bold]\n" + "\n".join(lines)


def described(*shown: tuple[str, str], no_args_is_help: bool = False) -> Callable[[F], F]:
    """Give a command its examples, as pairs of what for and the command line. `no_args_is_help`: it needs arguments."""

    def give(function: F) -> F:
        function.command = {"epilog": examples(*shown), "no_args_is_help": no_args_is_help}  # type: ignore[attr-defined]
        return function

    return give


def escaped(text: str) -> str:
    """`text` without a meaning in rich's markup (which is not imported for that)."""
    return text.replace("\\", "\\\\").replace("[", "\\[")


IndexName = Annotated[
    str, typer.Option("--index", metavar="NAME", help="Which index.", autocompletion=index_names, show_default=True)
]
Url = Annotated[
    str | None,
    typer.Option(
        "--url", metavar="URL", help="A Qdrant server or cluster instead of this machine (key: $QDRANT_API_KEY)."
    ),
]
Model = Annotated[
    str | None,
    typer.Option("--model", metavar="NAME", help="A model's name, hub name or folder.", autocompletion=model_names),
]
Device = Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda[:i]|mps", help="Where the model runs.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout and nothing else there.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait for another process that uses the index.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no remarks.")]

INDEX = DEFAULT_INDEX
