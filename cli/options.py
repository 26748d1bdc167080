"""Options that several commands share, and what the shell completes for them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeVar

from typer import Argument, Option

from tsembed_search.errors import UsageError
from tsembed_search.paths import DEFAULT_INDEX, existing, home

if TYPE_CHECKING:
    from tsembed_search.index import Index
    from tsembed_search.items import Item

F = TypeVar("F", bound=Callable[..., object])


def completing(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Make the shell's completion of a function that gives all names there are."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in names() if name.startswith(incomplete)]

    return complete


@completing
def index_names() -> list[str]:
    """The indexes on this machine."""
    folder = home() / "indexes"
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []


@completing
def model_names() -> Iterator[str]:
    """Known models that can be used."""
    from tsembed_search.model.registry import known_models

    return (model.name for model in known_models() if model.prompt not in ("refused", "unreadable"))


@completing
def rerankers() -> list[str]:
    """The ways to rerank."""
    from tsembed_search.ranking.reranking import RERANKERS

    return RERANKERS.names()


def where_fields(incomplete: str) -> list[str]:
    """Completions of the last condition of a filter: its fields, and the kinds."""
    from tsembed_search.items import KINDS
    from tsembed_search.store.filters import PAYLOAD_KEYS

    head, space, word = incomplete.rpartition(" ")
    fields = [field for field in PAYLOAD_KEYS if field not in ("kind", "sha", "model")]
    return [head + space + start for start in [*fields, *(f"kind={kind}" for kind in KINDS)] if start.startswith(word)]


def store_of(url: str | None) -> str:
    """The store that `--url` means: a Qdrant server, or the engine on this machine."""
    if url is None:
        return "edge"
    return url if re.match(r"[\w+.-]+:/", url) else f"http://{url}"


def same_index(name: str, url: str | None) -> str:
    """Return what to add to a command so that it means this index; nothing for the default one."""
    return ("" if name == DEFAULT_INDEX else f" --index {name}") + (f" --url {url}" if url else "")


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


def open_index(name: str, url: str | None, **opened: Any) -> Index:
    """Open the index that `--index` and `--url` name. `opened` are the other arguments of `Index.open`."""
    from tsembed_search.index import Index

    return Index.open(name, store=store_of(url), **opened)


def only_one(**given: object) -> None:
    """Raise `UsageError` when more than one of these options is given. `no_prune` is spelled `--no-prune`."""
    names = ["--" + name.replace("_", "-") if len(name) > 1 else f"-{name}" for name, value in given.items() if value]
    if len(names) > 1:
        raise UsageError(f"{' and '.join(names)} cannot be used together.", "Choose one of them.")


def query_item(words: Sequence[str] | None, image: Path | None) -> Item | None:
    """Return the query as one item, or None when there is none. Raises `UsageError` for an empty or missing one."""
    from tsembed_search.items import Item

    text = " ".join(words or ())
    if words and not text.strip() and image is None:
        raise UsageError("The query is empty.", "Say in words what to look for, or give a picture with --image.")
    if image is not None:
        image = existing(image.expanduser())
        if not image.is_file():
            raise UsageError(f"There is no file {image}.", "Give --image the path of a picture.")
    return Item(text or None, image) if text or image else None


INDEX = DEFAULT_INDEX

_of_index: Final = partial(Option, rich_help_panel="Index")
of_model: Final = partial(Option, rich_help_panel="Model")
_of_output: Final = partial(Option, rich_help_panel="Output")

IndexName = Annotated[str, _of_index("--index", metavar="NAME", help="Name of the index.", autocompletion=index_names)]
Url = Annotated[
    str | None,
    _of_index(
        "--url",
        metavar="URL",
        help="Qdrant server that holds the index, instead of this machine. Its key: $QDRANT_API_KEY.",
    ),
]
Wait = Annotated[bool, _of_index("--wait", help="Wait while another process uses the index.")]
Model = Annotated[
    str | None,
    of_model(
        "--model",
        metavar="NAME",
        help="Model to use: a name from `tsembed models`, a hub name, or a folder.",
        autocompletion=model_names,
    ),
]
Device = Annotated[
    str, of_model("--device", metavar="DEVICE", help="Where the model runs: auto, cpu, cuda, cuda:0, or mps.")
]
RouteWeight = Annotated[
    float | None,
    Option(
        "--route-weight",
        metavar="W",
        help="With --rerank expert: how much the shared experts count, 0 to 1.",
        show_default="the model's own",
    ),
]
Where = Annotated[
    list[str] | None,
    Option(
        "--where",
        "-w",
        metavar="FILTER",
        help="Only items that match, such as 'kind=image', 'ext=pdf and page<3', 'modified>=30d'.",
        autocompletion=where_fields,
    ),
]
Image = Annotated[
    Path | None, Option("--image", "-i", metavar="FILE", help="Picture to search with, alone or with words.")
]
_DATA: Final = Argument(
    metavar="DATA...", help="Rows in JSONL or Parquet files, folders, or hub:owner/name.", show_default=False
)
Data = Annotated[list[str], _DATA]
OptionalData = Annotated[list[str] | None, _DATA]
ImageFolders = Annotated[
    list[Path] | None, Option("--images", metavar="DIR", help="Look for the images of rows here first.")
]
DryRun = Annotated[bool, Option("--dry-run", help="Only say what would happen. Nothing changes.")]
Paths = Annotated[bool, _of_output("--paths", help="Print paths only, one per line.")]
Null = Annotated[bool, _of_output("-0", "--null", help="Print paths only, each ended by NUL, for xargs -0.")]
Json = Annotated[bool, _of_output("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, _of_output("--quiet", "-q", help="No progress and no remarks.")]
# What a run of the indexer does, for `index` and `watch`.
Dimensions = Annotated[
    int | None,
    of_model("--dim", metavar="N", min=1, help="Cut vectors to N numbers: smaller and less exact.", show_default="all"),
]
Depth = Annotated[
    int | None,
    of_model(
        "--depth",
        metavar="N",
        min=1,
        help="Stop after N of the model's blocks: faster and less exact.",
        show_default="all",
    ),
]
Include = Annotated[
    list[str] | None, Option("--include", metavar="GLOB", help="Only files that match, whatever their extension.")
]
Exclude = Annotated[
    list[str] | None,
    Option("--exclude", metavar="GLOB", help="Leave out files that match. See also .tsembedignore."),
]
Hidden = Annotated[bool, Option("--hidden", help="Index hidden files and folders, too.")]
FollowLinks = Annotated[bool, Option("--follow-links", help="Follow links to folders.")]
Pages = Annotated[
    Literal["auto", "always", "never"],
    Option("--pages", help="Index pages of documents as pictures, too. auto: if the model can read them."),
]
NoPrune = Annotated[bool, Option("--no-prune", help="Keep files that are no longer on the disk.")]
WordsOnly = Annotated[
    bool,
    Option("--words", help="Store names and words only, without a model. A run without --words adds the vectors."),
]
Workers = Annotated[
    int | None, Option("--workers", metavar="N", min=1, help="Processes that read files.", show_default="by cores")
]
TimeLimit = Annotated[float, Option("--time-limit", metavar="S", min=1, help="Skip a file after S seconds.")]
