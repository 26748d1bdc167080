"""A part of an indexed file with what stands around it: read from the file, or, where that is away, from the index."""

from __future__ import annotations

import hashlib
import re
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from tsembed_search.errors import LoadError, UsageError
from tsembed_search.items import Kind
from tsembed_search.paths import absolute, file_path, indexed_form, is_offline
from tsembed_search.search.by_concepts import Sighting, sightings
from tsembed_search.search.snippet import Span, marked
from tsembed_search.store.filters import Condition, all_of
from tsembed_search.store.schema import PACKED_CLASSES
from tsembed_search.wording import place_words

if TYPE_CHECKING:
    from tsembed_search.store.base import Record, Store

Lines = tuple[int, int | None]
"""The first and the last line, from 1. None: up to the end."""

State = Literal["same", "changed", "gone", "offline"]

AROUND: Final = 3
"""The lines that are shown before and after a passage."""

_FACTS: Final = (
    *("kind", "path", "root", "places", "page", "page_label", "chunk", "start", "end", "headings", "lines"),
    *("width", "height", "bytes", "mtime", "taken", "title", "sha", PACKED_CLASSES),
)
_PLACE: Final = re.compile(r"(.+?):(\d+)(?:-(\d+))?", re.DOTALL)
_MOST_LOOKED_THROUGH: Final = 64 << 20  # bytes of a file that has changed
_LONGEST: Final = 100_000  # characters around a passage in a file of endless lines


class UnknownItemError(UsageError):
    """Nothing in the index has that id or path."""

    def __init__(self, hit: str) -> None:
        super().__init__(
            f"{hit!r} is neither the id of an item nor an indexed path.",
            "{files()} lists what is indexed; hits say their ids.",
        )


@dataclass(frozen=True)
class Excerpt:
    """A passage, a page, some lines, or all of a file.

    `before`, `text` and `after` are whole lines, one after the other as in the file; `lines` counts the first and the
    last of `text` from 1, in the file or, for a PDF, in the page. `marks` are the (start, end) of the query's words in
    `text`. `source` says where the text comes from, `state` what has become of the file since it was indexed. Pictures
    have no text; `concepts` is what they most likely show. `taken` is when a picture was taken, `modified` when the
    file was changed, in seconds since 1970. `title` is what the file says about itself.
    """

    path: str
    id: str | None
    kind: Kind
    page: int | None
    page_label: str | None
    headings: list[str]
    lines: list[int] | None
    total_lines: int | None
    text: str
    before: str
    after: str
    source: Literal["file", "index"]
    state: State
    marks: list[Span] = field(default_factory=list)
    also_at: list[str] = field(default_factory=list)
    width: int | None = None
    height: int | None = None
    bytes: int | None = None
    modified: float | None = None
    taken: Any = None
    concepts: list[Sighting] = field(default_factory=list)
    title: str | None = None

    @property
    def place(self) -> list[str]:
        """The parts of its place in the file, for people, safe to show."""
        return place_words(self.page, self.page_label, self.lines, self.headings, self.total_lines)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(frozen=True)
class _Part:
    """The text that was asked for, as in `Excerpt`."""

    before: str
    text: str
    after: str
    lines: list[int] | None
    total: int | None
    source: Literal["file", "index"] = "file"


def passage_of(
    store: Store,
    hit: str,
    lost: Sequence[str] | None = None,
    *,
    lines: Lines | None = None,
    page: int | None = None,
    context: int | None = None,
    query: str = "",
) -> Excerpt:
    """Return an item's passage by its id, or a file by its path, such as `notes.md` or `notes.md:40-60`.

    `lines` or `page` choose another part of the same file. `context`: the lines before and after it, by default
    `AROUND` for a passage, else none. `query`: its words are marked. `lost` are the folders that are known to be
    offline.

    Raises `UnknownItemError`, `UsageError` for a part that there is not, `LoadError` for a file that cannot be read.
    """
    record, chosen, by_path, lines = _found(store, hit, page, lines)
    payload = record.payload
    place, state = _place(payload, chosen, lost)
    whole = lines is None and (by_path or page is not None)
    page = payload.get("page") if page is None else page
    if state == "same" and _has_changed(place, payload):
        state = "changed"
    around = context if context is not None else 0 if whole or lines is not None else AROUND
    part = _Part("", "", "", None, None)
    if payload["kind"] != "image" or payload.get("chunk") is not None:
        try:
            part = _part(store, record, file_path(place["path"]), state, page, (1, None) if whole else lines, around)
        except LoadError as error:
            raise LoadError(f"{file_path(place['path'])}: {error.message}", error.hint) from error
    elif lines is not None:
        raise UsageError(f"{file_path(place['path'])} is a picture: it has no lines.")
    own = not whole and lines is None
    return Excerpt(
        path=place["path"],
        id=record.id if own or not part.text else None,
        kind=payload["kind"],
        page=page,
        page_label=payload.get("page_label") if page == payload.get("page") else None,
        headings=list(payload.get("headings") or ()) if own else [],
        lines=part.lines,
        total_lines=part.total,
        text=part.text,
        before=part.before,
        after=part.after,
        source=part.source,
        state=state,
        marks=marked(query, part.text) if query else [],
        also_at=[one["path"] for one in payload["places"] if one["path"] != place["path"]],
        width=payload.get("width"),
        height=payload.get("height"),
        bytes=payload.get("bytes"),
        modified=place.get("mtime"),
        taken=payload.get("taken"),
        concepts=sightings(payload),
        title=payload.get("title"),
    )


def _found(
    store: Store, hit: str, page: int | None, lines: Lines | None
) -> tuple[Record, str | None, bool, Lines | None]:
    """The point that is meant, the path that was typed, if one was, and the lines that it asked for."""
    with suppress(ValueError):
        if found := store.retrieve([str(uuid.UUID(hit))], fields=_FACTS):
            if page is not None and found[0].payload.get("page") is None:
                raise UsageError("This item is of a file without pages.", "Ask for its lines: {lines}.")
            return found[0], None, False, lines
    path, records = hit, _of_path(store, hit)
    if not records and (parted := _PLACE.fullmatch(hit)):
        path, records = parted[1], _of_path(store, parted[1])
        lines = lines or (int(parted[2]), int(parted[3] or parted[2]))
    if not records:
        raise UnknownItemError(hit)
    pages = {one.payload.get("page") for one in records}
    if page is not None and None in pages:
        raise UsageError(f"{path} has no pages.", "Ask for its lines: {lines}.")
    if page is not None and page not in pages and all(one.payload["kind"] == "image" for one in records):
        raise UsageError(f"{path} has no page {page}.", f"Its pages are 1 to {max(one for one in pages if one)}.")
    ordered = sorted(records, key=lambda one: (one.payload.get("page") or 0, one.payload.get("chunk") or 0))
    record = next((one for one in ordered if one.payload.get("page") == page), ordered[0])
    return record, indexed_form(absolute(path)), True, lines


def _of_path(store: Store, path: str) -> list[Record]:
    here = indexed_form(absolute(path))
    found = list(store.scroll(Condition("path", "=", here), fields=_FACTS))
    # Two names may differ in their form only: then the one that was typed is meant.
    return [one for one in found if any(place["path"] == here for place in one.payload["places"])] or found


def _place(payload: dict[str, Any], chosen: str | None, lost: Sequence[str] | None) -> tuple[dict[str, Any], State]:
    """The place of a content that was chosen, else the first that is there; and what has become of it."""
    places: list[dict[str, Any]] = payload["places"]
    ordered = sorted(places, key=lambda place: place["path"] != chosen) if chosen else places
    for place in ordered[:1] if chosen else ordered:
        if file_path(place["path"]).exists():
            return place, "same"
    # Nothing is known of the files of an index that this machine never wrote to.
    return ordered[0], "offline" if lost is None or is_offline(ordered[0], lost) else "gone"


def _has_changed(place: dict[str, Any], payload: dict[str, Any]) -> bool:
    """Tell whether a file holds other bytes than when it was indexed. Of one that looks the same, none are read."""
    try:
        path = file_path(place["path"])
        facts = path.stat()
        if facts.st_size != payload["bytes"]:
            return True
        if abs(facts.st_mtime_ns / 1e9 - place["mtime"]) < 1e-3:
            return False
        with path.open("rb") as file:
            return bool(hashlib.file_digest(file, "sha256").hexdigest() != payload["sha"])
    except OSError:
        return False  # Whoever reads it says why it cannot be read.


def _part(
    store: Store, record: Record, path: Path, state: State, page: int | None, lines: Lines | None, context: int
) -> _Part:
    """The text that was asked for, by `lines`, else the record's own."""
    from tsembed_search.documents import decoders

    if state in ("gone", "offline") or not any(one.text for one in decoders.look(path)):
        return _stored(store, record, page, lines, context)
    payload = record.payload
    pieces: Iterable[str] = decoders.text(path, page)
    if lines is None and payload["kind"] != "text":
        lines = (1, None)  # what is seen on a page has no lines of its own
    if lines is None and state == "changed":
        own = _text(store, record)
        whole = "".join(pieces) if path.stat().st_size <= _MOST_LOOKED_THROUGH else ""
        at = whole.find(own) if own else -1
        if at < 0:
            return _stored(store, record, page, None, context)
        lines, pieces = _lines_at(whole, at, at + len(own)), [whole]
    elif lines is None and payload.get("lines"):
        lines = tuple(payload["lines"])
    elif lines is None:
        whole = "".join(pieces)
        lines, pieces = _lines_at(whole, payload.get("start") or 0, payload.get("end") or 0), [whole]
    part = _cut(pieces, lines, context)
    if len(part.before) + len(part.text) + len(part.after) > _LONGEST and payload.get("end") and lines != (1, None):
        own = _text(store, record)
        if own and own in part.text:
            return _Part("", own, "", part.lines, part.total)
    return part


def _lines_at(text: str, start: int, end: int) -> Lines:
    first = text.count("\n", 0, start) + 1
    return first, first + text.count("\n", start, end)


def _cut(pieces: Iterable[str], lines: Lines, context: int) -> _Part:
    """Take the lines of a text that comes in pieces, and `context` lines on either side. Raises `UsageError` for lines
    that it does not have.
    """
    first, last = lines
    before: deque[str] = deque(maxlen=context)
    text, after, number = list[str](), list[str](), 0
    for number, line in enumerate(_each_line(pieces), 1):
        if number < first:
            before.append(line)
        elif last is None or number <= last:
            text.append(line)
        elif number <= last + context:
            after.append(line)
    if not text and not (first == 1 and number == 0):
        count = f"{number:,} lines" if number != 1 else "1 line"
        raise UsageError(f"There is no line {first}: there are {count}.")
    shown = [first, first + len(text) - 1] if text else None
    return _Part("".join(before), "".join(text), "".join(after), shown, number)


def _each_line(pieces: Iterable[str]) -> Iterator[str]:
    """The lines of a text, each with its end."""
    rest: list[str] = []
    for piece in pieces:
        head, end, tail = piece.rpartition("\n")
        if not end:
            rest.append(piece)
            continue
        yield from (line + "\n" for line in ("".join(rest) + head).split("\n"))
        rest = [tail] if tail else []
    if last := "".join(rest):
        yield last


def _stored(store: Store, record: Record, page: int | None, lines: Lines | None, context: int) -> _Part:
    """The text as the index itself has it."""
    payload = record.payload
    here = all_of([Condition("sha", "=", payload["sha"]), Condition("kind", "=", "text")])
    parts = [one for one in store.scroll(here, fields=("text", *_FACTS)) if one.payload.get("page") == page]
    parts.sort(key=lambda one: one.payload.get("chunk") or 0)
    if lines not in (None, (1, None)):
        parts = [one for one in parts if _overlap(one.payload.get("lines"), lines)]
        if not parts:
            raise LoadError("It is not there now, and the index has no text of these lines.")
    text, begin, end, at = "", 0, 0, None
    for one in parts:
        start, own = one.payload.get("start"), one.payload.get("text") or ""
        # It may begin with the end of the one before.
        again = max(0, at - start) if at is not None and start is not None else 0
        text += "\n\n" if text and not again else ""
        begin, end = (len(text) - again, len(text) - again + len(own)) if one.id == record.id else (begin, end)
        text += own[again:]
        at = one.payload.get("end")
    if lines is None and end:
        before, after = list(_each_line([text[:begin]])), list(_each_line([text[end:].lstrip("\n")]))
        own = text[begin:end] + "\n" * bool(after)
        kept = before[len(before) - context :] if context < len(before) else before
        return _Part("".join(kept), own, "".join(after[:context]), payload.get("lines"), None, "index")
    known = [one.payload["lines"] for one in parts if one.payload.get("lines")]
    span = [known[0][0], known[-1][1]] if known and lines != (1, None) else None
    return _Part("", text, "", span, None, "index")


def _overlap(own: Sequence[int] | None, lines: Lines | None) -> bool:
    if not own or lines is None:
        return False
    return own[1] >= lines[0] and (lines[1] is None or own[0] <= lines[1])


def _text(store: Store, record: Record) -> str:
    found = store.retrieve([record.id], fields=("text",))
    return (found[0].payload.get("text") or "") if found else ""
