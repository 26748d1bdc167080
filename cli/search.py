"""`tsembed search`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tsembed_search import wording
from tsembed_search.cli import options
from tsembed_search.cli.options import INDEX, described
from tsembed_search.cli.render import text as render
from tsembed_search.cli.render.hits import plain_lines, print_hits
from tsembed_search.errors import LoadError, TsembedError, UsageError
from tsembed_search.paths import existing

if TYPE_CHECKING:
    from tsembed_search.cli.render.thumbnails import Drawer
    from tsembed_search.index import Index
    from tsembed_search.items import Item
    from tsembed_search.search.results import Hit, SearchResult


@described(
    ("by words", "tsembed search a red bicycle in the snow"),
    ("by a picture", "tsembed search --image photo.jpg"),
    ("by both together, as one query", "tsembed search 'the same in blue' --image shirt.png"),
    ("what is like an item of the index", "tsembed search --like ~/Pictures/cat.jpg -k 5"),
    ("pictures of this year only", "tsembed search beach --where 'kind=image and modified>=2026'"),
    ("copy what was found", "tsembed search sunset -0 | xargs -0 cp -t best/"),
    ("many queries with one start", "tsembed search --queries queries.jsonl > hits.jsonl"),
)
def search(
    query: Annotated[list[str] | None, typer.Argument(metavar="QUERY", help="What to look for, in words.")] = None,
    image: Annotated[
        Path | None, typer.Option("--image", "-i", metavar="FILE", help="A picture to look for; with words: one query.")
    ] = None,
    like: Annotated[
        str | None, typer.Option("--like", metavar="ID|PATH", help="What is like an item of the index, or like a file.")
    ] = None,
    queries: Annotated[
        str | None,
        typer.Option("--queries", metavar="FILE.jsonl", help='Many queries, one {"id","text","image"} per line.'),
    ] = None,
    k: Annotated[int, typer.Option("-k", metavar="N", help="How many hits at most.")] = 10,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            "-w",
            metavar="EXPR",
            help="Only items that match, such as kind=image, ext=pdf, path~'2024/*', page<3, modified>=30d.",
            autocompletion=options.where_fields,
        ),
    ] = None,
    min_score: Annotated[
        float | None, typer.Option("--min-score", metavar="S", help="Only hits with a score of at least S (0 to 1).")
    ] = None,
    all_chunks: Annotated[
        bool, typer.Option("--all-chunks", help="Every matching part, not one hit per page or picture.")
    ] = False,
    rerank: Annotated[
        str,
        typer.Option(
            "--rerank",
            metavar="none|expert|mmr",
            help="Reorder the hits: by the experts that they share with the query, or for variety.",
            autocompletion=options.rerankers,
        ),
    ] = "none",
    route_weight: Annotated[
        float | None,
        typer.Option("--route-weight", metavar="W", help="With --rerank expert: how much experts count, 0 to 1."),
    ] = None,
    open_hit: Annotated[int | None, typer.Option("--open", metavar="N", help="Open hit number N.")] = None,
    paths: Annotated[bool, typer.Option("--paths", help="Paths only, one per line.")] = False,
    nul: Annotated[bool, typer.Option("-0", "--null", help="Paths only, each ended by NUL, for xargs -0.")] = False,
    images: Annotated[
        bool | None, typer.Option("--images/--no-images", help="Thumbnails in the terminal.", show_default="if it can")
    ] = None,
    wait: options.Wait = False,
    index: options.IndexName = INDEX,
    url: options.Url = None,
    model: options.Model = None,
    device: options.Device = "auto",
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Find pictures, texts and pages by words, by a picture, or by both as one query.

    Prints the best hits with scores from 0 to 1. Exits with 1 when nothing is found.
    """
    from tsembed_search.index import Index
    from tsembed_search.ranking.reranking import RERANKERS
    from tsembed_search.search.where import selection

    asked = query_item(query, image)
    _check(asked, like, queries, json=json, paths=paths, nul=nul, opens=open_hit)
    wanted: dict[str, Any] = {
        "k": max(k, open_hit or 0),
        "where": selection(where=where or ()),
        "min_score": min_score,
        "all_chunks": all_chunks,
        "rerank": rerank,
        "route_weight": route_weight,
    }
    if queries is not None:
        from tsembed_search.cli.batch import search_batch

        with Index.open(index, store=options.store_of(url), model=model, device=device, wait=wait) as opened:
            raise typer.Exit(search_batch(opened, queries, wanted))
    draw = None if json or paths or nul else _drawer(images)
    with (
        Index.open(index, store=options.store_of(url), model=model, device=device, wait=wait) as opened,
        render.working("Searching", quiet=quiet),
    ):
        result = opened.search(asked, like=like, **wanted)
        why = "" if result.hits or quiet else _why_nothing(opened, wanted)
        idle = RERANKERS.get(rerank).uses_routes and route_weight is None and opened.metadata.route_weight == 0
    if json:
        render.print_json(result.to_json())
    elif paths or nul:
        render.print_paths(dict.fromkeys(hit.path for hit in result.hits), end="\0" if nul else "\n")
    else:
        _show(result, draw, quiet)
    if idle and not quiet:
        render.remark(f"--rerank {rerank} changed nothing: routes have no weight in this model. Try --route-weight 0.1")
    if not result.hits:
        if not quiet:
            render.remark(f"Nothing found{_for_words(asked)}.", why)
        raise typer.Exit(1)
    if open_hit is not None:
        _open(result.hits, open_hit)


def query_item(words: Sequence[str] | None, image: Path | None) -> Item | None:
    """The query as one item, or None when there is none."""
    from tsembed_search.items import Item

    text = " ".join(words or ())
    if words and not text.strip() and image is None:
        raise UsageError("The query is empty.", "Say in words what to look for, or give a picture with --image.")
    if image is not None:
        image = existing(image.expanduser())
        if not image.is_file():
            raise UsageError(f"There is no file {image}.", "Give --image the path of a picture.")
    return Item(text or None, image) if text or image else None


def _check(
    asked: Item | None, like: str | None, queries: str | None, *, json: bool, paths: bool, nul: bool, opens: int | None
) -> None:
    """Raises `UsageError` for no query, more than one, and outputs that exclude each other."""
    given = [asked is not None, like is not None, queries is not None]
    if not any(given):
        raise UsageError(
            "There is nothing to search for.",
            "Give words, --image FILE, both, --like ID-or-PATH, or --queries FILE.jsonl.",
        )
    if sum(given) > 1:
        other = "--like" if like is not None else "--queries"
        hint = "Use --image FILE to combine a picture with words." if like is not None else "Put the query in the file."
        raise UsageError(f"{other} cannot be combined with another query.", hint)
    if sum([json, paths, nul]) > 1:
        raise UsageError("--json, --paths and -0 exclude each other.", "Choose one of them.")
    if queries is not None and (paths or nul or opens is not None):
        raise UsageError("--queries prints JSON lines only.", "Leave out --paths, -0 and --open.")
    if opens is not None and opens < 1:
        raise UsageError("--open counts hits from 1.", "For the best hit: --open 1")


def _drawer(images: bool | None) -> Drawer | None:
    """Only a terminal, or the wish for one, is worth the import."""
    if images is None and not render.is_terminal():
        return None
    from tsembed_search.cli.render.thumbnails import drawer

    return drawer(images)


def _show(result: SearchResult, draw: Drawer | None, quiet: bool) -> None:
    if not render.is_terminal():
        for line in plain_lines(result.hits):
            print(line)
        return
    print_hits(result.hits, draw)
    if result.hits and not quiet:
        spent = ", ".join(f"{what} {wording.time_words(time)}" for what, time in result.seconds.items())
        render.remark(f"{wording.count_words(len(result.hits), 'hit')} ({spent})")


def _why_nothing(index: Index, wanted: Mapping[str, Any]) -> str:
    """What to do when nothing was found."""
    where = wanted["where"]
    if index.store.count() == 0:
        return f"The index {index.name!r} is empty. Fill it with: tsembed index FOLDER"
    if where is not None and index.store.count(where) == 0:
        return f"No item matches the filter: {where}"
    if wanted["min_score"] is not None:
        return f"No item reaches a score of {wanted['min_score']}. Try a lower --min-score."
    return ""


def _for_words(asked: Item | None) -> str:
    return f" for {asked.text!r}" if asked is not None and asked.text else ""


def _open(hits: Sequence[Hit], number: int) -> None:
    """Opens a hit with the program that the desktop uses for such files."""
    import subprocess

    from tsembed_search.paths import file_path

    if number > len(hits):
        raise UsageError(f"There is no hit number {number}.", f"Found: {wording.count_words(len(hits), 'hit')}.")
    path = file_path(hits[number - 1].path)
    if not path.exists():
        raise LoadError(
            f"{path} is no longer there.", "Run `tsembed index` on its folder to bring the index up to date."
        )
    if sys.platform == "win32":
        os.startfile(path)
        return
    opener = "open" if sys.platform == "darwin" else "xdg-open"
    try:
        done = subprocess.run([opener, str(path)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False)
    except FileNotFoundError:
        raise TsembedError(
            f"There is no program to open {path} with.", f"Install {opener}, or open it yourself."
        ) from None
    if done.returncode:
        raise TsembedError(f"{opener} could not open {path} (exit code {done.returncode}).", "Open it yourself.")
