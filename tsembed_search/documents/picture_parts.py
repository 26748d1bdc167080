"""The parts of a picture file that make its pixels, without what is beside them: texts, dates, profiles, thumbnails.

Decoders give up over metadata that is broken, though the pixels are whole. Each function here copies a file without it.
What turns the picture upright or makes it transparent is kept where it makes sense.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from typing import BinaryIO, Final

from tsembed_search.errors import LoadError

ORIENTATION: Final = 0x0112
"""The tag of EXIF data, and of a TIFF, that tells how a picture is turned."""


def pixel_parts(file: BinaryIO, most: int, frame: int = 0) -> bytes | None:
    """Return the file without metadata, or None: its format is not known here, or it has more than `most` bytes.

    Of a TIFF, `frame` is the first page of what is returned. Raises `LoadError` where a part that makes the pixels is
    known to be damaged.
    """
    file.seek(0)
    data = file.read(most + 1)
    if len(data) > most:
        return None
    try:
        if data.startswith(_TIFF):
            return _tiff(data, frame)
        # AVIF and HEIF begin with the length of their first part.
        for signature, strip in _FORMATS.items():
            if data.startswith(signature, 4 if signature == b"ftyp" else 0):
                return strip(data)
    # The file ends within a structure: there is nothing to copy.
    except (struct.error, IndexError, ValueError):
        pass
    return None


def _png(data: bytes) -> bytes:
    """The header, the palette, the transparent colour, the turn, and the pixels.

    As in browsers, a checksum that is wrong costs the part, or the picture if it cannot do without that part.
    """
    out, at, colour, ended = [data[:8]], 8, 0, False
    while at + 12 <= len(data) and not ended:
        length, kind = struct.unpack_from(">I4s", data, at)
        body, end = data[at + 8 : at + 8 + length], at + 12 + length
        if end > len(data) and kind != b"IDAT":
            break
        is_sound = end <= len(data) and zlib.crc32(kind + body) == struct.unpack_from(">I", data, end - 4)[0]
        colour = body[9] if kind == b"IHDR" and len(body) == 13 else colour
        # Where colours are written out, a palette is a suggestion.
        is_needed = kind in (b"IHDR", b"IDAT") or (kind == b"PLTE" and colour == 3)
        if is_needed and not is_sound and end <= len(data):
            raise LoadError(
                f"The picture is damaged: the checksum of its {kind.decode()} part is wrong.",
                "Restore it from a backup.",
            )
        if is_needed or (is_sound and (kind == b"tRNS" or (kind == b"eXIf" and _turn(body)))):
            out.append(data[at:end])
        ended = kind == b"IEND"
        at = end
    return b"".join([*out, b"\0\0\0\0IEND\xaeB`\x82"])


def _turn(exif: bytes) -> int:
    """The orientation that EXIF data holds, 2 to 8; 0 for none and for what makes no sense."""
    from PIL import Image

    found = Image.Exif()
    try:
        found.load(exif)
        turn = found.get(ORIENTATION)
    # Pillow meets junk with nearly any exception there is.
    except Exception:  # noqa: BLE001
        return 0
    return turn if isinstance(turn, int) and 2 <= turn <= 8 else 0


def _exif(turn: int) -> bytes:
    """EXIF data that holds an orientation and nothing else."""
    return b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, ORIENTATION, 3, 1, turn, 0, 0)


def _jpeg(data: bytes) -> bytes:
    """The tables, frames and scans; of the rest the turn, and how colours are coded."""
    tables, frame, at = [], b"", 2
    turn, adobe, had_adobe = 0, b"", False
    while data[at] == 0xFF and (kind := data[at + 1]) not in (0xDA, 0xD9):
        if kind == 0xFF or kind == 1 or 0xD0 <= kind <= 0xD8:
            at += 1 if kind == 0xFF else 2
            continue
        (length,) = struct.unpack_from(">H", data, at + 2)
        body, end = data[at + 4 : at + 2 + length], at + 2 + length
        if 0xE0 <= kind <= 0xEF or kind == 0xFE:
            # A length that leads nowhere: what comes next begins with the next marker.
            if length < 2 or data[end : end + 1] != b"\xff":
                end = at + 2
                while (end := data.index(b"\xff", end)) + 1 < len(data) and not 0xC0 <= data[end + 1] <= 0xFE:
                    end += 1
            if kind == 0xE1 and body.startswith(b"Exif\0\0"):
                turn = turn or _turn(body)
            elif kind == 0xEE and (had_adobe := had_adobe or body.startswith(b"Adobe")) and len(body) >= 12:
                adobe = adobe or data[at:end]
        else:
            if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
                frame = body
            tables.append(data[at:end])
        at = end
    if turn:
        exif = b"Exif\0\0" + _exif(turn)
        tables.insert(0, struct.pack(">BBH", 0xFF, 0xE1, len(exif) + 2) + exif)
    if not adobe and had_adobe and len(frame) >= 18 and frame[5] == 4:
        # Four inks may be coded as luma and chroma; then the chroma has its own tables or its own size.
        is_chroma = frame[7:9] != frame[10:12]
        adobe = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([2 if is_chroma else 0])
    return b"".join([data[:2], adobe, *tables, data[at:]])


def _gif(data: bytes) -> bytes:
    """The screen, and the first image with what makes it transparent."""
    at = 13 + (3 << ((data[10] & 7) + 1) if data[10] & 0x80 else 0)
    out = [data[:at]]
    while data[at] == 0x21:
        end = at + 2
        while size := data[end]:
            end += size + 1
        end += 1
        if data[at + 1] == 0xF9 and data[at + 2] == 4 and end == at + 8:
            out.append(data[at:end])
        at = end
    return b"".join([*out, data[at:]])


def _webp(data: bytes) -> bytes:
    """The pixels with their transparency and their turn; an animation's first frames as they are."""
    parts: dict[bytes, list[bytes]] = {}
    at = 12
    while at + 8 <= len(data):
        kind, size = struct.unpack_from("<4sI", data, at)
        parts.setdefault(kind, []).append(data[at + 8 : at + 8 + size])
        at += 8 + size + (size & 1)
    turn = _turn(parts.get(b"EXIF", [b""])[-1])
    out = [(kind, body) for kind in (b"ALPH", b"VP8 ", b"VP8L", b"ANIM", b"ANMF") for body in parts.get(kind, ())]
    if (head := parts.get(b"VP8X", [b""])[-1]) and len(head) == 10:
        out.insert(0, (b"VP8X", bytes([head[0] & 0x12 | (0x08 if turn else 0)]) + head[1:]))
        out += [(b"EXIF", _exif(turn))] if turn else []
    body = b"WEBP" + b"".join(
        kind + struct.pack("<I", len(part)) + part + b"\0" * (len(part) & 1) for kind, part in out
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


_TIFF: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_SUBFILE, _OLD_SUBFILE = 254, 255
_REDUCED, _MASK, _OLD_REDUCED = 1, 4, 2
_TIFF_PIXELS: Final = frozenset({
    254, 255, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325, 332,
    334, 338, 339, 347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 532,
})  # fmt: skip
_MOST_TAGS: Final = 4_096
_MOST_FOLDERS: Final = 10_000


class _Tags:
    """The folders of tags of a TIFF, one per picture, each a link to the next. Both sizes of TIFF, both byte orders."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        file.seek(0)
        head = file.read(4)
        self.order = "<" if head[:2] == b"II" else ">"
        self.count, self.offset, self.entry, self.start = ("Q", "Q", 20, 8) if b"+" in head else ("H", "I", 12, 4)

    def _number(self, kind: str) -> int:
        form = self.order + kind
        return int(struct.unpack(form, self._file.read(struct.calcsize(form)))[0])

    def folders(self) -> Iterator[tuple[int, list[bytes]]]:
        """Where each folder begins, and its entries: none where they cannot be read, which ends the chain."""
        seen = set[int]()
        self._file.seek(self.start)
        at = self._number(self.offset)
        while at and at not in seen and len(seen) < _MOST_FOLDERS:
            seen.add(at)
            entries, following = list[bytes](), 0
            with suppress(struct.error, OverflowError):
                self._file.seek(at)
                if (count := self._number(self.count)) <= _MOST_TAGS:
                    data = self._file.read(count * self.entry)
                    following = self._number(self.offset)
                    entries = [data[place : place + self.entry] for place in range(0, len(data), self.entry)]
            yield at, entries
            at = following

    def value(self, entry: bytes) -> tuple[int, int]:
        """The tag of an entry, and the whole number that it holds: 0 for anything else."""
        tag, kind = struct.unpack_from(self.order + "HH", entry)
        form = {3: "H", 4: "I"}.get(kind)
        return tag, struct.unpack_from(self.order + form, entry, 12 if self.entry == 20 else 8)[0] if form else 0


def tiff_pages(file: BinaryIO) -> Iterator[int]:
    """Yield the numbers, from 0, of a TIFF's pages: of its pictures but for smaller copies and masks. Else just 0."""
    file.seek(0)
    found = False
    head = file.read(16)
    # What ends within its head is told by whoever opens it.
    if head.startswith(_TIFF) and len(head) == 16:
        tags = _Tags(file)
        for number, (_, entries) in enumerate(tags.folders()):
            facts = dict(map(tags.value, entries))
            is_aside = facts.get(_SUBFILE, 0) & (_REDUCED | _MASK) or facts.get(_OLD_SUBFILE) == _OLD_REDUCED
            if not is_aside:
                found = True
                yield number
    if not found:
        yield 0


def _tiff(data: bytes, frame: int) -> bytes:
    """The same file with one folder of tags, and in it only those that make pixels."""
    tags, out = _Tags(io.BytesIO(data)), bytearray(data)
    at, entries = next(islice(tags.folders(), frame, None), (0, []))
    kept = []
    for entry in entries:
        tag, value = tags.value(entry)
        if tag in _TIFF_PIXELS and (tag != ORIENTATION or 1 <= value <= 8):
            kept.append(entry)
    folder = struct.pack(tags.order + tags.count, len(kept)) + b"".join(kept) + struct.pack(tags.order + tags.offset, 0)
    if at + len(folder) > len(data):
        raise ValueError("there is no such page")
    out[at : at + len(folder)] = folder
    struct.pack_into(tags.order + tags.offset, out, tags.start, at)
    return bytes(out)


def _psd(data: bytes) -> bytes:
    """The colours and the picture that all layers make, without the layers and resources."""
    at = 26 + 4 + struct.unpack_from(">I", data, 26)[0]
    out = [data[:at]]
    for _ in range(2):
        at += 4 + struct.unpack_from(">I", data, at)[0]
        out.append(b"\0\0\0\0")
    return b"".join([*out, data[at:]])


def _bmp(data: bytes) -> bytes:
    """The same file, whose palette has no more colours than its pixels can tell apart."""
    size, bits, colours = struct.unpack_from("<I", data, 14)[0], *struct.unpack_from("<H16xI", data, 28)
    if size < 40 or bits > 8 or colours <= 1 << bits:
        return data
    return data[:46] + bytes(4) + data[50:]


def _ico(data: bytes) -> bytes:
    """The largest of the sizes."""
    count = struct.unpack_from("<H", data, 4)[0]
    entries = [data[6 + 16 * number : 22 + 16 * number] for number in range(count)]
    best = max(entries, key=lambda entry: ((entry[0] or 256) * (entry[1] or 256), entry[6]))
    size, at = struct.unpack_from("<II", best, 8)
    picture = data[at : at + size]
    if picture.startswith(b"\x89PNG"):
        picture = _png(picture)
    return data[:4] + b"\1\0" + best[:8] + struct.pack("<II", len(picture), 22) + picture


def _jpeg2000(data: bytes) -> bytes:
    """The parts that say how the colours are coded, and the code."""
    out, at = [], 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if size < 8:
            # The last part may say nothing of its length; another one leads nowhere.
            at = at if kind == b"jp2c" else data.index(b"jp2c", at) - 4
            size = struct.unpack_from(">I", data, at)[0] or len(data) - at
            kind = b"jp2c"
        if kind in (b"jP  ", b"ftyp", b"jp2h", b"jp2c"):
            out.append(data[at : at + size])
        if kind == b"jp2c":
            break
        at += size
    return b"".join(out)


def _heif(data: bytes) -> bytes:
    """The same file, where EXIF and XMP are items of a kind that nobody reads. AVIF too; turns are kept elsewhere."""
    at = data.index(b"meta")
    end = at + struct.unpack_from(">I", data, at - 4)[0]
    items = re.sub(rb"(infe[\2\3].{3}(?:.{4}|.{6}))(?:Exif|mime)", rb"\1skip", data[at:end], flags=re.DOTALL)
    return data[:at] + items + data[end:]


_FORMATS: Final[dict[bytes, Callable[[bytes], bytes]]] = {
    b"\x89PNG\r\n\x1a\n": _png,
    b"\xff\xd8\xff": _jpeg,
    b"GIF8": _gif,
    b"RIFF": _webp,
    b"8BPS\0\x01": _psd,
    b"BM": _bmp,
    b"\0\0\1\0": _ico,
    b"\0\0\0\x0cjP  ": _jpeg2000,
    b"ftyp": _heif,
}
