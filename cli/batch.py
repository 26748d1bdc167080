"""`tsembed search --queries`: many queries, one model load, one JSON line each."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from tsembed_search.cli.render import text as render
from tsembed_search.errors import LoadError, TsembedError, UsageError
from tsembed_search.items import Item
from tsembed_search.paths import NoCurrentFolderError, current_folder_is_gone, existing
from tsembed_search.wording import encoding_by_mark

if TYPE_CHECKING:
    from tsembed_search.index import Index
    from tsembed_search.search.results import Hit

_BATCH = 64
_LONGEST = 16 << 20  # bytes of a line; what has longer ones is something else, or never ends


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
    if source == "-":
        return _run(index, read_queries(_lines(sys.stdin.buffer), "stdin", Path()), wanted)
    path = existing(Path(source).expanduser())
    try:
        stream = path.open("rb")
    except OSError as error:
        raise UsageError(f"Cannot read {source}: {error.strerror}.", "Give --queries a JSONL file.") from error
    with stream:
        return _run(index, read_queries(_lines(stream), source, path.parent), wanted)


def _lines(stream: BinaryIO) -> Iterator[str]:
    """The lines of a text in UTF-8, or in what its byte-order mark says. Bytes that are none become lone surrogates.

    Raises `UsageError` where a line has no end: that is no file of queries.
    """
    line = stream.readline(_LONGEST)
    encoding = encoding_by_mark(line)
    if encoding != "utf-8-sig":
        yield from (line + stream.read(_LONGEST)).decode(encoding, "replace").split("\n")
        return
    while line:
        if len(line) == _LONGEST:
            raise UsageError(f"A line of the queries has more than {_LONGEST:,} bytes.", _SHAPE)
        yield line.decode(encoding, "surrogateescape")
        encoding = "utf-8"
        line = stream.readline(_LONGEST)


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
        line.encode()
        data = json.loads(line, parse_constant=_no_number, parse_float=_finite, object_pairs_hook=_each_once)
        # What is given back in the answer must be JSON, too: half of a surrogate pair is not.
        json.dumps(data.get("id") if isinstance(data, dict) else None, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        what = "the id is no valid text" if error.object != line else "it is not in UTF-8"
        raise UsageError(f"{where}: {what} (character {error.start + 1}).", _SHAPE) from None
    except RecursionError:
        raise UsageError(f"{where}: too many brackets inside each other.", _SHAPE) from None
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
    picture = existing(folder / image) if image else None
    if picture is not None and not picture.is_file():
        if not picture.is_absolute() and current_folder_is_gone():
            raise UsageError(f"{where}: there is no file {picture}. {NoCurrentFolderError()}")
        raise UsageError(f"{where}: there is no file {picture}.", "Paths are relative to the file with the queries.")
    try:
        item = Item(text or None, picture)
    except UsageError as error:
        raise UsageError(f"{where}: {error.message}", _SHAPE) from None
    return BatchQuery(data.get("id", number), item, where)


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _finite(digits: str) -> float:
    number = float(digits)
    return number if math.isfinite(number) else _no_number(digits)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is there twice")
    return data


_SHAPE = 'A line looks like {"id": 1, "text": "a red bicycle", "image": "photo.jpg"}; text or image may be missing.'
