"""Rows of training and evaluation data, as files hold them: streamed with their line, turned into items, or refused.

What the trainer and the evaluation both need of MMEB's layouts and of the plain one:

- `stream(path)` reads JSON Lines, one `Record` (fields, line, byte offset) or `Problem` at a time (`parquet` makes
  these of Parquet);
- `Images(roots)` finds the file that a row's image path means, or raises `BadRow`;
- `mmeb_item(text, image, instruction, ...)` makes an item of MMEB's flat fields, `plain_item(value, ...)` one of a
  string or an object with `text`, `image` and `instruction`.

A row that cannot be used raises `BadRow`; `problem(record, error)` says where. Nothing here opens an image.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

from tsembed_search.errors import LoadError
from tsembed_search.items import Item
from tsembed_search.paths import existing

Instructions = Literal["text", "field", "none"]
"""Where an instruction goes: before the text (as MMEB has it), into `Item.instruction`, or nowhere."""

Fault = Literal["json", "fields", "image", "file"]
"""What is wrong with a row: its line is no JSON object, its fields make no row, or an image of it is missing. With
`file`, the whole file cannot be read.
"""

JSONL_ENDINGS: Final = (".jsonl", ".ndjson")
ENDINGS: Final = (*JSONL_ENDINGS, ".parquet")
"""Names of files with rows end like this."""

_IMAGE_TOKEN: Final = re.compile(r"[ \t]*<\|image_\d+\|>[ \t]*\n?")
MOST_LINE_BYTES: Final = 64 << 20
"""A longer line is no row."""
_NOTHING: Final = b" \t\r\n\xef\xbb\xbf"
_LONGEST_PATH: Final = 4096
_MOST_LISTED: Final = 2_000_000
_REACH: Final = 3


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

    @property
    def origin(self) -> str:
        """`file:line`."""
        return f"{self.path}:{self.line}" if self.line else str(self.path)

    def __str__(self) -> str:
        return f"{self.origin}: {self.reason}"


@dataclass(frozen=True)
class Record:
    """A row's fields and its place: `line` from 1; `offset`, in bytes, where its line begins (0 in a Parquet file)."""

    path: Path
    line: int
    offset: int
    fields: Mapping[str, Any]

    @property
    def origin(self) -> str:
        """`file:line`."""
        return f"{self.path}:{self.line}"


def problem(record: Record, error: BadRow) -> Problem:
    """What is wrong with a record, and where it is."""
    return Problem(record.path, record.line, error.message, error.fault)


def stream(path: Path) -> Iterator[Record | Problem]:
    """The rows of a JSON Lines file in order, with a `Problem` in place of each line that is none, and for a file that
    cannot be read at all.
    """
    try:
        with path.open("rb") as file:
            offset = 0
            for number, line in enumerate(iter(lambda: file.readline(MOST_LINE_BYTES), b""), 1):
                length = len(line)
                if len(line) == MOST_LINE_BYTES and not line.endswith(b"\n"):
                    length += _rest_of_line(file)
                if line.strip(_NOTHING):
                    try:
                        yield Record(path, number, offset, parse_line(line))
                    except BadRow as error:
                        yield Problem(path, number, error.message, error.fault)
                offset += length
    except OSError as error:
        yield Problem(path, 0, f"the file cannot be read: {error.strerror or error}", "file")


def _rest_of_line(file: BinaryIO) -> int:
    """Passes over the rest of a line that is too long. Gives its bytes."""
    passed = 0
    while part := file.readline(MOST_LINE_BYTES):
        passed += len(part)
        if part.endswith(b"\n"):
            break
    return passed


def parse_line(line: bytes) -> dict[str, Any]:
    """The JSON object on a line. Raises `BadRow` for anything else."""
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
        """The image's file. Raises `BadRow` when there is none."""
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
        if not self._listing:
            return frozenset()
        try:
            names = frozenset(os.listdir(place))  # noqa: PTH208 - names, not paths
        except (OSError, ValueError):
            names = frozenset()
        self._count += len(names)
        return names


def image_roots(file: Path, source: Path, given: Sequence[Path] = ()) -> list[Path]:
    """Where the images of a file's rows may lie: the folders given, then those from the file's up to its source's.

    `source` is the folder that the file was found in, or the file itself: then the nearest folders above it are tried.
    """
    folders = list(file.parents)
    reach = folders.index(source) + 1 if source in folders else _REACH
    return list(dict.fromkeys([*given, *folders[:reach]]))


def mmeb_item(
    text: object, image: object, images: Images, instruction: object = None, *, instructions: Instructions = "text"
) -> Item:
    """An item of MMEB's flat fields: a text with `<|image_1|>` where the image goes, and the path of the image.

    The token is dropped: where an image goes is the model's business. MMEB's first edition has the instruction inside
    the text, where it stays; later files have it in a field of its own, and ours have both: a text that begins with
    that instruction does not get it twice. `instructions` says where an instruction that is known goes.

    Raises `BadRow`.
    """
    words = without_image_token(_text(text))
    told = without_image_token(_text(instruction))
    if told and words.startswith(told):
        words = words[len(told) :].strip()
    return _item(words, _picture(image, images), told, instructions)


def plain_item(value: object, images: Images, *, instructions: Instructions = "field") -> Item:
    """An item of a string, of an object with any of `text`, `image` and `instruction`, or of a picture as hub data sets
    have it. Raises `BadRow`.
    """
    if isinstance(value, str):
        value = {"text": value}
    if not isinstance(value, Mapping) or value.keys() == {"binary"}:
        raise BadRow(f"a text or an object with text or image was expected, not {_kind(value)}")
    if _is_picture(value):
        value = {"image": value}
    unknown = sorted(str(key) for key in value if key not in ("text", "image", "instruction") and filled(value[key]))
    if unknown:
        raise BadRow(f"an item has text, image and instruction, not {unknown[0]}")
    found = _picture(value.get("image"), images)
    return _item(_text(value.get("text")), found, _text(value.get("instruction")), instructions)


def filled(value: object) -> bool:
    """Whether a field holds anything: not null, and no empty text, list or picture."""
    if isinstance(value, Mapping):
        return any(filled(one) for one in value.values())
    if isinstance(value, list | tuple):
        return any(filled(one) for one in value)
    return value is not None and not (isinstance(value, str) and not value.strip())


def _is_picture(value: object) -> bool:
    """Whether it is a picture as hub data sets have it: `{"bytes": ..., "path": ...}`."""
    return isinstance(value, Mapping) and bool(value) and value.keys() <= {"bytes", "path"}


def _picture(value: object, images: Images) -> Path | None:
    """The file of a picture, None without one. Raises `BadRow`."""
    if isinstance(value, Mapping) and _is_picture(value):
        if filled(value.get("bytes")):
            raise BadRow("a picture inside the row is not read: write it into a file and give its path")
        value = value.get("path")
    return images.find(value) if filled(value) else None


def without_image_token(text: str) -> str:
    """MMEB's text without `<|image_1|>` and blanks around it."""
    return _IMAGE_TOKEN.sub(" ", text).strip() if "<|image_" in text else text.strip()


def _item(words: str, image: Path | None, told: str, instructions: Instructions) -> Item:
    if not words and image is None:
        raise BadRow("an item has neither text nor image")
    if instructions == "text" and told:
        words = f"{told} {words}".strip()
    return Item(words or None, image, told or None if instructions == "field" else None)


def _text(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRow(f"a text was expected, not {_kind(value)}")
    # A lone surrogate, which JSON can spell, is no character: no tokenizer takes it.
    return value.strip() if value.isascii() else value.encode("utf-8", "replace").decode("utf-8").strip()


def _kind(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, dict) and value.keys() == {"binary"}:  # as `parquet` writes it
        return "binary data"
    names = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), f"a {type(value).__name__}")
