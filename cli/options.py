"""Options that several commands share, and what the shell completes for them."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from tsembed_search.paths import DEFAULT_INDEX, home


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


def examples(*pairs: tuple[str, str]) -> str:
    """The last part of a command's help: what each example does, and the command to type."""
    lines = [f"[dim]# {escaped(what)}[/dim]\n[cyan]{escaped(command)}[/cyan]" for what, command in pairs]
    return "[bold]Examples[/bold]\n" + "\n".join(lines)


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
