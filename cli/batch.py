"""`tsembed search --queries`: many queries, one model load, one JSON line each."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsembed_search.cli import render
from tsembed_search.errors import LoadError, TsembedError, UsageError
from tsembed_search.items import Item

if TYPE_CHECKING:
    from tsembed_search.index import Index
    from tsembed_search.search.query import Hit

_BATCH = 64


@dataclass(frozen=True)
class BatchQuery:
    """One line of the file. `where` is `FILE:LINE`, for messages."""

    id: Any
    item: Item
    where: str


def search_batch(index: Index, source: str, wanted: Mapping[str, Any]) -> int:
    """Runs the queries of the JSONL file `source` (`-`: stdin) and prints `{"id","hits"}` for each, in their order.

    A bad line is reported on stderr and left out. Gives the exit code: 1 after a bad line, or when nothing at all was
    found. Raises `UsageError` when there is no such file.
    """
    with ExitStack() as stack:
        if source == "-":
            lines: Iterable[str] = sys.stdin
            name, folder = "stdin", Path.cwd()
        else:
            path = Path(source)
            name, folder = source, path.parent
            try:
                lines = stack.enter_context(path.open(encoding="utf-8-sig", errors="replace"))
            except OSError as error:
                raise UsageError(f"Cannot read {source}: {error.strerror}.", "Give --queries a JSONL file.") from error
        return _run(index, read_queries(lines, name, folder), wanted)


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


def read_queries(lines: Iterable[str], name: str, folder: Path) -> Iterator[BatchQuery | TsembedError]:
    """The queries of a JSONL text, or what is wrong with a line. `id` defaults to the line's number.

    The path of an image is relative to `folder`, the file's own. Blank lines are skipped.
    """
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield _read_query(line, number, f"{name}:{number}", folder)
            except TsembedError as error:
                yield error


def _read_query(line: str, number: int, where: str, folder: Path) -> BatchQuery:
    try:
        data = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{where}: not JSON: {error}.", _SHAPE) from None
    if not isinstance(data, dict):
        raise UsageError(f"{where}: a JSON object is needed.", _SHAPE)
    if unknown := sorted(set(data) - {"id", "text", "image"}):
        raise UsageError(f"{where}: unknown key {unknown[0]!r}.", _SHAPE)
    text, image = data.get("text"), data.get("image")
    for key, value in (("text", text), ("image", image)):
        if value is not None and not isinstance(value, str):
            raise UsageError(f"{where}: {key!r} must be a string.", _SHAPE)
    if image and not (folder / image).is_file():
        raise UsageError(
            f"{where}: there is no file {folder / image}.", "Paths are relative to the file with the queries."
        )
    try:
        item = Item(text or None, folder / image if image else None)
    except UsageError as error:
        raise UsageError(f"{where}: {error.message}", _SHAPE) from None
    return BatchQuery(data.get("id", number), item, where)


_SHAPE = 'A line looks like {"id": 1, "text": "a red bicycle", "image": "photo.jpg"}; text or image may be missing.'
