"""`tsembed search --queries`: many queries, one model load, one JSON line each."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsembed_search.cli.render import text as render
from tsembed_search.errors import LoadError, TsembedError, UsageError
from tsembed_search.paths import existing
from tsembed_search.search.queries import BatchQuery, read_queries

if TYPE_CHECKING:
    from tsembed_search.index import Index
    from tsembed_search.search.results import Hit

_BATCH = 64


def search_batch(index: Index, source: str, wanted: Mapping[str, Any]) -> int:
    """Runs the queries of the JSONL file `source` (`-`: stdin) and prints `{"id","hits"}` for each, in their order.

    A bad line is reported on stderr and left out. Gives the exit code: 1 after a bad line, or when nothing at all was
    found. Raises `UsageError` when there is no such file.
    """
    if source == "-":
        return _run(index, read_queries(sys.stdin.buffer, "stdin", Path()), wanted)
    path = existing(Path(source).expanduser())
    try:
        stream = path.open("rb")
    except OSError as error:
        raise UsageError(f"Cannot read {source}: {error.strerror}.", "Give --queries a JSONL file.") from error
    with stream:
        return _run(index, read_queries(stream, source, path.parent), wanted)


def _run(index: Index, queries: Iterator[BatchQuery | TsembedError], wanted: Mapping[str, Any]) -> int:
    bad = found = 0
    while block := list(islice(queries, _BATCH)):
        good: list[BatchQuery] = []
        for query in block:
            if isinstance(query, BatchQuery):
                good.append(query)
            else:
                bad += _report(query)
        for query, hits in _search(index, good, wanted):
            if isinstance(hits, TsembedError):
                bad += _report(hits)
                continue
            found += bool(hits)
            render.print_json({"id": query.id, "hits": [hit.to_json() for hit in hits]})
    return 1 if bad or not found else 0


def _search(
    index: Index, queries: list[BatchQuery], wanted: Mapping[str, Any]
) -> Iterator[tuple[BatchQuery, list[Hit] | TsembedError]]:
    """The hits of each query. When a picture among them cannot be read, each is tried by itself."""
    try:
        yield from zip(queries, index.search_many([query.item for query in queries], **wanted), strict=True)
    except LoadError as error:
        if len(queries) == 1:
            yield queries[0], LoadError(f"{queries[0].where}: {error.message}", error.hint)
            return
        for query in queries:
            yield from _search(index, [query], wanted)


def _report(error: TsembedError) -> int:
    render.complain(error.message, error.hint)
    return 1
