"""`tsembed search`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from tsembed_search import wording
from tsembed_search.cli import options
from tsembed_search.cli.render import text as render
from tsembed_search.errors import LoadError, TsembedError, UsageError
from tsembed_search.paths import existing

if TYPE_CHECKING:
    from tsembed_search.cli.render.hits import Drawer
    from tsembed_search.index import Index
    from tsembed_search.items import Item
    from tsembed_search.search.queries import BatchQuery
    from tsembed_search.search.results import Hit, SearchOptions, SearchResult
    from tsembed_search.search.searcher import Answer

_BATCH = 256  # queries of a file that are searched for together


@options.described(
    ("by words", "tsembed search a red bicycle in the snow"),
    ("by a picture", "tsembed search --image photo.jpg"),
    ("by a picture and words together", "tsembed search 'the same in blue' --image shirt.png"),
    ("more like a file of the index", "tsembed search --like ~/Pictures/cat.jpg -k 5"),
    ("only pictures of this year", "tsembed search beach --where 'kind=image and modified>=2026'"),
    ("what each score is made of", "tsembed search tulips --explain"),
    ("copy what was found", "tsembed search sunset -0 | xargs -0 cp -t best/"),
    ("many queries at once", "tsembed search --queries queries.jsonl > hits.jsonl"),
)
def search(
    query: Annotated[list[str] | None, Argument(metavar="QUERY", help="What to look for, in words.")] = None,
    image: options.Image = None,
    like: Annotated[
        str | None,
        Option("--like", metavar="PATH|ID", help="Find what is like this file, or like this item of the index."),
    ] = None,
    queries: Annotated[
        str | None,
        Option("--queries", metavar="FILE", help="Many queries: a JSONL file, with text, image and id in each line."),
    ] = None,
    k: Annotated[int, Option("-k", metavar="N", help="Print at most N hits.")] = 10,
    where: options.Where = None,
    min_score: Annotated[
        float | None, Option("--min-score", metavar="S", help="Only hits with a score of at least S, 0 to 1.")
    ] = None,
    good: Annotated[bool, Option("--good", help="Only good matches: most of these are what you look for.")] = False,
    all_chunks: Annotated[
        bool, Option("--all-chunks", help="Show every part of a page or text that matches, not only the best.")
    ] = False,
    rerank: Annotated[
        str,
        Option(
            "--rerank",
            metavar="METHOD",
            help="Re-rank the hits: none; expert, by the experts they share with the query; mmr, for variety.",
            autocompletion=options.rerankers,
        ),
    ] = "none",
    route_weight: options.RouteWeight = None,
    words: Annotated[
        str,
        Option(
            "--words", metavar="HOW", help="Words of the query: auto, beside meaning; only, without a model; never."
        ),
    ] = "auto",
    open_hit: Annotated[int | None, Option("--open", metavar="N", help="Open hit number N.")] = None,
    paths: options.Paths = False,
    nul: options.Null = False,
    explain: Annotated[
        bool, Option("--explain", help="Also show what each score is made of: similarity, words, experts.")
    ] = False,
    images: Annotated[
        bool | None, Option("--images/--no-images", help="Show thumbnails or not.", show_default="if the terminal can")
    ] = None,
    index: options.IndexName = options.INDEX,
    url: options.Url = None,
    wait: options.Wait = False,
    model: options.Model = None,
    device: options.Device = "auto",
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Find pictures, texts and pages that fit your words, a picture, or both.

    Prints good matches first, then weaker ones, with scores from 0 to 1. Exits with 1 when nothing is found.
    """
    from tsembed_search.cli.last_search import remember
    from tsembed_search.ranking.reranking import RERANKERS
    from tsembed_search.search.results import SearchOptions
    from tsembed_search.search.where import selection

    asked = options.query_item(query, image)
    _check(asked, like, queries)
    options.only_one(json=json, paths=paths, **{"0": nul})
    if queries is not None and (paths or nul or open_hit is not None):
        raise UsageError("--queries prints JSON lines only.", "Leave out --paths, -0 and --open.")
    if open_hit is not None and open_hit < 1:
        raise UsageError("--open counts hits from 1.", "For the best hit: --open 1")
    most = max(k, open_hit or 0)
    filtered = selection(where=where or ())
    chosen = SearchOptions(most, filtered, min_score, all_chunks, rerank, route_weight, words, good)  # type: ignore[arg-type]
    # Only a terminal is asked what it can draw, and before anything else is printed.
    draw = None if json or paths or nul or queries is not None else _drawer(images)
    with options.open_index(index, url, model=model, device=device, wait=wait) as opened:
        if queries is not None:
            raise typer.Exit(_search_file(opened, queries, chosen))
        with render.working("Searching", quiet=quiet):
            result = opened.search(asked, chosen, like=like)
            remember((asked and asked.text) or "", opened.address, result.hits)
            why = "" if result.hits or quiet else _why_nothing(opened, chosen, result.told)
            idle = RERANKERS.get(rerank).uses_routes and route_weight is None and opened.metadata.route_weight == 0
    if json:
        render.print_json(result.to_json())
    elif paths or nul:
        render.print_paths(dict.fromkeys(hit.path for hit in result.hits), end="\0" if nul else "\n")
    else:
        offer = "" if quiet else _browsing(query, image, like, where, options.same_index(index, url))
        _show(result, draw, quiet, explain, offer)
    if idle and not quiet:
        render.remark(f"--rerank {rerank} changed nothing: this model gives experts no weight. Try --route-weight 0.1")
    for word, forms in () if quiet else result.respelled.items():
        render.remark(f"Nothing has {word!r}; searched for {' and '.join(map(repr, forms))}.")
    if not quiet and (share := render.share_words(result.with_vectors, result.items)):
        render.remark(f"{share}. Index the same folders without --words to go on.")
    if result.unread and not quiet:
        only = "To look for its words, leave out --words never."
        only = only if words == "never" else "Only its words were looked for."
        render.remark("The model cannot read anything of this query.", only)
    if not result.hits:
        if not quiet:
            what = "Nothing here is a good match" if good else "Nothing found"
            render.remark(f"{what}{f' for {asked.text!r}' if asked and asked.text else ''}.", why)
        raise typer.Exit(1)
    if open_hit is not None:
        _open(result.hits, open_hit)


def _check(asked: Item | None, like: str | None, queries: str | None) -> None:
    """Raise `UsageError` for no query, and for more than one."""
    given = sum(query is not None for query in (asked, like, queries))
    if not given:
        raise UsageError("There is nothing to search for.", "Give words, --image, both, --like, or --queries.")
    if given > 1 and like is not None:
        hint = "To combine a picture with words: --image FILE."
        raise UsageError("--like cannot be combined with another query.", hint)
    if given > 1:
        raise UsageError("--queries cannot be combined with another query.", "Put the query in the file.")


def _drawer(images: bool | None) -> Drawer | None:
    """Return what draws thumbnails. Only a terminal, or the wish for them, is worth the import."""
    if images is None and not render.is_terminal():
        return None
    from tsembed_search.cli.render.hits import drawer

    return drawer(images)


def _show(result: SearchResult, draw: Drawer | None, quiet: bool, explain: bool, offer: str) -> None:
    hits = sorted(result.hits, key=lambda hit: not hit.good)
    if render.is_terminal():
        from tsembed_search.cli.render.hits import print_hits

        print_hits(hits, draw, explain=explain)
    else:
        for line in plain_lines(hits, explain=explain):
            print(line)
    if not hits or quiet:
        return
    legend = render.expert_legend(name for hit in hits for name in hit.top_experts) if explain else ""
    matches = render.matches_words(result)
    if render.is_terminal():
        spent = ", ".join(f"{what} {wording.time_words(time)}" for what, time in result.seconds.items())
        render.remark(legend, f"{matches} ({spent})", offer)
    else:
        render.remark(*[legend] * bool(legend), f"{matches}.")


def _browsing(
    query: list[str] | None, image: Path | None, like: str | None, where: list[str] | None, index: str
) -> str:
    """Name the command that shows the same search to walk through; nothing where there is no such command."""
    from tsembed_search.cli.main import COMMANDS

    if "browse" not in COMMANDS or like is not None:
        return ""
    words = ["tsembed", "browse", *(query or ())]
    words += ["--image", str(image)] if image is not None else []
    for condition in where or ():
        words += ["--where", condition]
    return f"To walk through them: {shlex.join(words)}{index}"


def plain_lines(hits: Sequence[Hit], *, explain: bool = False) -> Iterator[str]:
    """Give one line per hit, and one for its snippet; no control codes, whatever files hold. With `explain`, there is
    one between them for what its score is made of.
    """
    for hit in hits:
        marks = [*["offline"] * hit.offline, *["good match"] * hit.good]
        where = "  ".join([wording.shown(render.shortened(hit.path)), *hit.place, *marks])
        yield f"{hit.rank:>3}  {hit.score:.3f}  {hit.kind:<5}  {where}"
        if explain and (made_of := "  ".join(_made_of(hit))):
            yield f"            {made_of}"
        if hit.snippet:
            yield f"            {wording.shown(hit.snippet)}"


def _made_of(hit: Hit) -> Iterator[str]:
    """The numbers behind a score. Without a similarity, a hit was found by words alone."""
    if hit.similarity:
        yield f"similarity {hit.similarity:.3f}"
    if hit.words:
        yield f"words {hit.words:.3f}"
    if hit.similarity and hit.top_experts:
        yield f"routes {hit.route_similarity:+.3f}"
        if hit.shared_experts:
            yield f"shared experts {wording.shown(' '.join(hit.shared_experts[:3]))}"


def _why_nothing(index: Index, chosen: SearchOptions, told: bool) -> str:
    """Say what to do when nothing was found."""
    if index.store.count() == 0:
        return f"The index {index.name!r} is empty. Fill it with: tsembed index FOLDER"
    if chosen.filter is not None and index.store.count(chosen.filter) == 0:
        return f"No item matches the filter: {chosen.filter}"
    if chosen.min_score is not None:
        return f"No item reaches a score of {chosen.min_score}. Try a lower --min-score."
    if chosen.good and not told:
        return "With this model, nothing tells good matches of such a query from others: leave out --good."
    if chosen.good:
        return "There may be weaker hits: leave out --good to see them."
    return ""


def _open(hits: Sequence[Hit], number: int) -> None:
    """Open a hit with the program that the desktop uses for such files."""
    from tsembed_search.cli.desktop import open_file

    if number > len(hits):
        raise UsageError(f"There is no hit number {number}.", f"Found: {wording.count_words(len(hits), 'hit')}.")
    open_file(hits[number - 1].path)


def _search_file(index: Index, source: str, chosen: SearchOptions) -> int:
    """Print `{"id","hits"}` for each query of the JSONL file `source` (`-`: stdin), in their order.

    A bad line is told on stderr and left out. Returns the exit code: 1 after a bad line, or when nothing at all was
    found. Raises `UsageError` when there is no such file.
    """
    from tsembed_search.search.queries import read_queries

    path = Path() if source == "-" else existing(Path(source).expanduser())
    try:
        opened = nullcontext(sys.stdin.buffer) if source == "-" else path.open("rb")
    except OSError as error:
        raise UsageError(f"Cannot read {source}: {error.strerror}.", "Give --queries a JSONL file.") from error
    bad = found = 0
    with opened as stream:
        queries = read_queries(stream, "stdin" if source == "-" else source, path.parent)
        while block := list(islice(queries, _BATCH)):
            errors = [query for query in block if isinstance(query, TsembedError)]
            good = [query for query in block if not isinstance(query, TsembedError)]
            for query, answer in _answered(good, index, chosen):
                if isinstance(answer, TsembedError):
                    errors.append(answer)
                else:
                    found += bool(answer.hits)
                    more = {"respelled": answer.respelled} if answer.respelled else {}
                    render.print_json({"id": query.id, "hits": [hit.to_json() for hit in answer.hits], **more})
            for problem in errors:
                render.complain(problem.message, problem.hint)
            bad += len(errors)
    return 1 if bad or not found else 0


def _answered(
    queries: list[BatchQuery], index: Index, chosen: SearchOptions
) -> Iterator[tuple[BatchQuery, Answer | TsembedError]]:
    """The answer to each query. When a picture among them cannot be read, each is tried by itself."""
    try:
        found = index.answer_many([query.item for query in queries], chosen, snippets=True)
        yield from zip(queries, found, strict=True)
    except LoadError as error:
        if len(queries) == 1:
            yield queries[0], LoadError(f"{queries[0].where}: {error.message}", error.hint)
            return
        for query in queries:
            yield from _answered([query], index, chosen)
