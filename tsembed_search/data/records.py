"""Rows as files hold them: read with their place, and what their fields hold made into items, or refused.

A row that cannot be used raises `BadRow`. Nothing here opens an image.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from tsembed_search.data.parquet import TablePicture, table_copy, table_length, table_row
from tsembed_search.errors import LoadError
from tsembed_search.items import Item
from tsembed_search.paths import existing

Instructions = Literal["text", "field", "none"]
"""Where an instruction goes: before the text (as MMEB has it), into `Item.instruction`, or nowhere."""

Fault = Literal["json", "fields", "image", "file"]
"""The trouble with a row: its line is no JSON object, its fields make no row, or an image of it is missing. With
`file`, the whole file cannot be read.
"""

ENDINGS: Final = (".jsonl", ".ndjson", ".parquet")
"""Names of files with rows end like this."""
MOST_LINE_BYTES: Final = 64 << 20
"""A longer line is no row."""

_IMAGE_TOKEN: Final = re.compile(r"[ \t]*<\|image_\d+\|>[ \t]*\n?")
_NOTHING: Final = b" \t\r\n\xef\xbb\xbf"
_LONGEST_PATH: Final = 4096
_MOST_LISTED: Final = 2_000_000
_MOST_MADE: Final = 100_000
_REACH: Final = 3
_KINDS: Final = {
    type(None): "null", bool: "true or false", int: "a number", float: "a number", str: "a text", list: "a list",
    dict: "an object", bytes: "binary data", TablePicture: "a picture",
}  # fmt: skip


class BadRow(LoadError):
    """A row that cannot be used. `fault` says of what kind the trouble is."""

    def __init__(self, message: str, fault: Fault = "fields") -> None:
        super().__init__(message)
        self.fault: Fault = fault


@dataclass(frozen=True)
class Problem:
    """A row that was left out. `line` is the 1-based line of a JSON Lines file, or row of a Parquet file; 0 for a whole
    file.
    """

    path: Path
    line: int
    reason: str
    fault: Fault = "fields"

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.reason}" if self.line else f"{self.path}: {self.reason}"

    def to_json(self) -> dict[str, Any]:
        """Return the problem as JSON values."""
        return {"file": str(self.path), "line": self.line, "fault": self.fault, "reason": self.reason}


@dataclass(frozen=True)
class RowRecord:
    """A row's fields and its place: `line` as in `Problem`; `offset`: where it can be read again, the byte at which its
    line begins, or the number of a Parquet file's row from 0.
    """

    line: int
    offset: int
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class RowFile:
    """A file of rows. `copy`: of a Parquet file, the copy of its table. `roots`: where its images may lie."""

    path: Path
    roots: tuple[Path, ...] = ()
    copy: Path | None = None

    @classmethod
    def opened(cls, path: Path, roots: Sequence[Path] = ()) -> RowFile:
        """Return the file, ready to be read. Raises `LoadError` for a damaged one, `UsageError` without pyarrow."""
        return cls(path, tuple(roots), table_copy(path) if path.suffix.lower() == ".parquet" else None)

    def __iter__(self) -> Iterator[RowRecord | Problem]:
        """Yield the rows in order, with a `Problem` in place of one that is none, and of a file that is unreadable."""
        try:
            rows: Iterator[tuple[int, int, bytes | None]] = self._lines()
            if self.copy is not None:
                rows = ((number + 1, number, None) for number in range(table_length(self.copy)))
            for line, offset, data in rows:
                try:
                    yield RowRecord(line, offset, self.fields(offset) if data is None else parse_line(data))
                except BadRow as error:
                    yield Problem(self.path, line, error.message, error.fault)
        except OSError as error:
            yield Problem(self.path, 0, f"the file cannot be read: {error.strerror or error}", "file")

    def fields(self, offset: int) -> dict[str, Any]:
        """Return the fields of the row at an offset. Raises `BadRow` and `OSError`."""
        if self.copy is not None:
            try:
                return table_row(self.copy, offset)
            except LoadError as error:
                raise BadRow(error.message) from error
        with self.path.open("rb") as file:
            file.seek(offset)
            return parse_line(file.readline())

    def _lines(self) -> Iterator[tuple[int, int, bytes]]:
        """(line, offset, data) of every line that is not blank."""
        with self.path.open("rb") as file:
            offset = 0
            for number, line in enumerate(iter(lambda: file.readline(MOST_LINE_BYTES), b""), 1):
                if line.strip(_NOTHING):
                    yield number, offset, line
                offset += len(line)
                rest = line
                while len(rest) == MOST_LINE_BYTES and not rest.endswith(b"\n"):
                    rest = file.readline(MOST_LINE_BYTES)
                    offset += len(rest)


def parse_line(line: bytes) -> dict[str, Any]:
    """Return the JSON object on a line. Raises `BadRow` for anything else."""
    if len(line) >= MOST_LINE_BYTES:
        raise BadRow(f"the line is longer than {MOST_LINE_BYTES >> 20} MB", "json")
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise BadRow(f"the line is not UTF-8 (byte {error.start + 1})", "json") from error
    except RecursionError as error:
        raise BadRow("the JSON is nested too deeply", "json") from error
    except json.JSONDecodeError as error:
        raise BadRow(f"not valid JSON: {error.msg} at column {error.colno}", "json") from error
    except ValueError as error:  # a number with thousands of digits
        raise BadRow("not valid JSON: a number is too long", "json") from error
    if not isinstance(value, dict):
        raise BadRow(f"a JSON object was expected, not {_kind(value)}", "json")
    return value


class Images:
    """Finds the files that image paths mean: absolute ones as they are, others in the first root that has them.

    Folders are listed once, as asking for each file takes long on network disks. `listing=False` asks for each instead:
    for a few images among many, and when the lists of a million names should not stay in memory.
    """

    def __init__(self, roots: Sequence[Path], *, listing: bool = True) -> None:
        self._roots = [str(root) for root in dict.fromkeys(roots)] or [""]
        self._listing = listing
        self._folders: dict[str, list[tuple[str, frozenset[str]]]] = {}
        self._count = 0

    def find(self, path: object) -> Path:
        """Return the image's file. Raises `BadRow` when there is none."""
        if isinstance(path, TablePicture):
            return path.file()
        if not isinstance(path, str):
            raise BadRow(f"an image path was expected, not {_kind(path)}")
        if not path.strip() or "\0" in path:
            raise BadRow("an image path is blank or holds a NUL character")
        if path.startswith("data:") or len(path) > _LONGEST_PATH:
            raise BadRow("a picture inside the row is not read: write it into a file and give its path")
        folder, name = os.path.split(path)  # a million of them: pathlib would take most of the time
        for place, names in self._places(folder):
            if name in names or (not self._listing and name and os.path.exists(f"{place}/{name}")):  # noqa: PTH110
                return Path(place, name)
        for root in self._roots if not path.isascii() else ():
            if (found := existing(Path(root, path))).is_file():
                return found
        raise BadRow(f"there is no image {path}", "image")

    def _places(self, folder: str) -> list[tuple[str, frozenset[str]]]:
        """A folder below each root (or itself, if its path is absolute), and the names in it."""
        known = self._folders.get(folder)
        if known is None:
            if self._count > _MOST_LISTED:
                self._folders, self._count = {}, 0
            places = [os.path.normpath(os.path.join(root, folder)) for root in self._roots]  # noqa: PTH118
            known = self._folders[folder] = [(place, self._names(place)) for place in dict.fromkeys(places)]
        return known

    def _names(self, place: str) -> frozenset[str]:
        names: frozenset[str] = frozenset()
        with suppress(OSError, ValueError):
            names = frozenset(os.listdir(place) if self._listing else ())  # noqa: PTH208 - names, not paths
        self._count += len(names)
        return names


def image_roots(file: Path, source: Path, given: Sequence[Path] = ()) -> list[Path]:
    """Return where the images of a file's rows may lie: the folders given, then those from the file's to its source's.

    `source` is the folder that the file was found in, or the file itself: then the nearest folders above it are tried.
    """
    folders = list(file.parents)
    reach = folders.index(source) + 1 if source in folders else _REACH
    return list(dict.fromkeys([*given, *folders[:reach]]))


class ItemMaker:
    """Makes items of fields, for layouts. `images` finds their pictures.

    `instructions`: where an instruction goes; None: as the layout has it.
    """

    def __init__(self, images: Images, instructions: Instructions | None = None) -> None:
        self._images, self._instructions = images, instructions
        self._made: dict[tuple[str, ...], Item] = {}

    def of(self, value: object) -> Item:
        """Make an item of a text, of an object with any of `text`, `image` and `instruction`, or of a picture as hub
        data sets have it. The instruction has a place of its own. Raises `BadRow`.
        """
        if isinstance(value, str):
            value = {"text": value}
        elif _is_picture(value):
            value = {"image": value}
        if not isinstance(value, Mapping):
            raise BadRow(f"a text or an object with text or image was expected, not {_kind(value)}")
        unknown = sorted(str(key) for key in value.keys() - {"text", "image", "instruction"} if filled(value[key]))
        if unknown:
            raise BadRow(f"an item has text, image and instruction, not {unknown[0]}")
        image = self._picture(value.get("image"))
        return self._item(_text(value.get("text")), image, _text(value.get("instruction")), "field")

    def joined(self, text: object, image: object, instruction: object = None) -> Item:
        """Make an item of fields as MMEB has them: a text with `<|image_1|>` where the image goes, the image, and an
        instruction, which goes before the text.

        The token is dropped: where an image goes is the model's business. MMEB's first edition has the instruction
        inside the text, where it stays; later files have it in a field of its own, and ours have both: a text that
        begins with that instruction does not get it twice. Raises `BadRow`.
        """
        words, told = _without_image_token(_text(text)), _without_image_token(_text(instruction))
        if told and words.startswith(told):
            words = words[len(told) :].strip()
        return self._item(words, self._picture(image), told, "text")

    def candidate(self, text: object, image: object, instruction: object = None) -> Item:
        """Make an item as `joined` does, for one of a list: most occur in many rows, and are made once."""
        key = repr(text), repr(image), repr(instruction)
        item = self._made.get(key)
        if item is None:
            if len(self._made) >= _MOST_MADE:
                self._made.clear()
            item = self._made[key] = self.joined(text, image, instruction)
        return item

    def _picture(self, value: object) -> Path | None:
        if isinstance(value, Mapping) and _is_picture(value):
            if filled(value.get("bytes")):
                raise BadRow("a picture inside the row is not read: write it into a file and give its path")
            value = value.get("path")
        return self._images.find(value) if filled(value) else None

    def _item(self, words: str, image: Path | None, told: str, usual: Instructions) -> Item:
        if not words and image is None:
            raise BadRow("an item has neither text nor image")
        place = self._instructions or usual
        if place == "text" and told:
            words = f"{told} {words}".strip()
        return Item(words or None, image, told or None if place == "field" else None)


def filled(value: object) -> bool:
    """Tell whether a field holds anything: not null, and no empty text, list or picture."""
    if isinstance(value, Mapping):
        return any(map(filled, value.values()))
    if isinstance(value, list | tuple):
        return any(map(filled, value))
    return value is not None and not (isinstance(value, str) and not value.strip())


def listed(value: object) -> list[object]:
    """Return the things in a field that may hold one, several, or nothing."""
    if isinstance(value, list | tuple):
        return list(value)
    return [value] if filled(value) else []


def _is_picture(value: object) -> bool:
    """Tells a picture as hub data sets have it, `{"bytes": ..., "path": ...}`, and one inside a table."""
    as_hub = isinstance(value, Mapping) and bool(value) and value.keys() <= {"bytes", "path"}
    return as_hub or isinstance(value, TablePicture)


def _without_image_token(text: str) -> str:
    return _IMAGE_TOKEN.sub(" ", text).strip() if "<|image_" in text else text.strip()


def _text(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRow(f"a text was expected, not {_kind(value)}")
    # A lone surrogate, which JSON can spell, is no character: no tokenizer takes it.
    return value.strip() if value.isascii() else value.encode("utf-8", "replace").decode("utf-8").strip()


def _kind(value: object) -> str:
    return _KINDS.get(type(value), f"a {type(value).__name__}")
