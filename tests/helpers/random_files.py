"""Makes random files of every format, and changes each in a random way that people's files are changed in.

Each file speaks of a word of its own, or shows a colour, so that a search can tell whether it was read.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from PIL import Image, ImageDraw, features

from helpers.colours import COLOURS
from helpers.tiny_pdf import Page, pdf

LINES: Final = 30
"""How often a text says its word, each time in a line of its own."""
_SYLLABLES: Final = ("ba", "de", "ki", "lo", "mu", "na", "pe", "ri", "so", "tu", "va", "ze")
_SENTENCES: Final = {
    "cp1252": "Der Bär läuft über die Straße zur Größe",
    "cp1251": "Это обычный русский текст о погоде и природе",
    "koi8-r": "Сегодня хорошая погода и мы идём гулять",
    "shift_jis": "これは日本語のテキストです。今日は天気がいいので散歩に行きましょう",
    "gb18030": "这是一个中文文本文件。今天天气很好，我们去公园散步吧",
}
"""What people write in these encodings: which one it is can be told from real words alone."""
_PLAIN: Final = "sails across the quiet bay at dawn"


@dataclass(frozen=True)
class Made:
    """A file of `format` (an extension) before it is changed.

    `says`: each of its lines, which no other file has, or the name of the colour that it shows. `whole`: which bytes
    carry the text alone; elsewhere a changed byte can change how the rest is read.
    """

    format: str
    says: str
    data: bytes
    is_picture: bool = False
    whole: tuple[int, int] | None = None


def line_of(chance: random.Random, encoding: str = "") -> str:
    """A sentence with a word that no other file has."""
    return "".join(chance.choice(_SYLLABLES) for _ in range(5)) + " " + _SENTENCES.get(encoding, _PLAIN)


def _text(extension: str, encoding: str, mark: bytes = b"") -> Callable[[random.Random], Made]:
    def make(chance: random.Random) -> Made:
        line = line_of(chance, encoding)
        end = chance.choice(["\n", "\r\n"])
        data = mark + (f"{line}.{end}" * LINES).encode(encoding)
        return Made(extension, line, data, whole=(len(mark), len(data)))

    return make


def _table(separator: str, extension: str) -> Callable[[random.Random], Made]:
    def make(chance: random.Random) -> Made:
        line = line_of(chance)
        data = "".join(f"{n % 3}{separator}{line}{separator}{line}\n" for n in range(LINES)).encode()
        return Made(extension, line, data, whole=(0, len(data)))

    return make


def _markdown(chance: random.Random) -> Made:
    line = line_of(chance)
    lines = [f"# {line}", "", *(f"- *{line}* and **{line}**" for _ in range(LINES)), "", f"[Anna]: {line}", ""]
    return Made("md", line, "\n".join(lines).encode())


def _page(extension: str, encoding: str, head: str) -> Callable[[random.Random], Made]:
    def make(chance: random.Random) -> Made:
        line = line_of(chance, encoding)
        before = f"{head}<title>{line}</title></head><body><p>".encode(encoding)
        inside = "\n".join(f"{line}." for _ in range(LINES)).encode(encoding)
        after = "</p></body></html>".encode(encoding)
        return Made(extension, line, before + inside + after, whole=(len(before), len(before) + len(inside)))

    return make


def _document(chance: random.Random) -> Made:
    line = line_of(chance)
    return Made("pdf", line, pdf([Page([f"{line}."] * LINES) for _ in range(chance.randint(1, 3))]))


def drawn(chance: random.Random, colour: str, size: tuple[int, int]) -> Image.Image:
    """A picture of mostly one colour that no other picture equals to the pixel."""
    image = Image.new("RGB", size, COLOURS[colour])
    pen = ImageDraw.Draw(image)
    for _ in range(6):
        x, y = chance.randrange(size[0]), chance.randrange(size[1])
        pen.line((x, y, x + 8, y + 3), fill=tuple(chance.randrange(256) for _ in range(3)))
    return image


def _picture(extension: str, format: str, **options: Any) -> Callable[[random.Random], Made]:
    def make(chance: random.Random) -> Made:
        colour = chance.choice(sorted(COLOURS))
        size = (chance.randint(40, 120), chance.randint(40, 120))
        chosen = dict(options)
        if chosen.pop("pages", False):
            chosen |= {"save_all": True, "append_images": [drawn(chance, colour, size) for _ in range(2)]}
        file = io.BytesIO()
        drawn(chance, colour, size).save(file, format, **chosen)
        return Made(extension, colour, file.getvalue(), is_picture=True)

    return make


FORMATS: Final[dict[str, Callable[[random.Random], Made]]] = {
    "plain": _text("txt", "utf-8"),
    "marked": _text("txt", "utf-8", b"\xef\xbb\xbf"),
    "wide": _text("txt", "utf-16-le", b"\xff\xfe"),
    "wide without a mark": _text("txt", "utf-16-be"),
    "western": _text("txt", "cp1252"),
    "cyrillic": _text("log", "cp1251"),
    "koi8": _text("txt", "koi8-r"),
    "japanese": _text("txt", "shift_jis"),
    "chinese": _text("txt", "gb18030"),
    "log": _text("log", "ascii"),
    "rst": _text("rst", "utf-8"),
    "csv": _table(",", "csv"),
    "tsv": _table("\t", "tsv"),
    "markdown": _markdown,
    "html": _page("html", "utf-8", "<!doctype html><html><head><meta charset=utf-8>"),
    "html of windows": _page("htm", "cp1251", "<html><head><meta charset=windows-1251>"),
    "html of japan": _page("html", "shift_jis", "<html><head><meta charset=x-sjis>"),
    "xhtml": _page("xhtml", "utf-8", "<?xml version='1.0' encoding='utf-8'?><html><head>"),
    "pdf": _document,
    "png": _picture("png", "PNG"),
    "jpeg": _picture("jpg", "JPEG", quality=92),
    "progressive": _picture("jpeg", "JPEG", progressive=True),
    "gif": _picture("gif", "GIF"),
    "animation": _picture("gif", "GIF", pages=True),
    "webp": _picture("webp", "WEBP"),
    "webp lossless": _picture("webp", "WEBP", lossless=True),
    "bmp": _picture("bmp", "BMP"),
    "tiff": _picture("tif", "TIFF"),
    "tiff packed": _picture("tiff", "TIFF", compression="tiff_lzw"),
    "tiff pages": _picture("tif", "TIFF", pages=True),
    "jpeg2000": _picture("jp2", "JPEG2000"),
    "ppm": _picture("ppm", "PPM"),
    "ico": _picture("ico", "ICO"),
    "pcx": _picture("pcx", "PCX"),
} | ({"avif": _picture("avif", "AVIF")} if features.check("avif") else {})


@dataclass(frozen=True)
class Changed:
    """A file as it lies there. `harmless`: it must be found."""

    path: Path
    made: Made
    change: str
    data: bytes
    harmless: bool


_NAMES: Final = (
    "[red]bold[bold] {}", "-rf {}", "it's \"{}\"", "line\nbreak {}", "esc\x1b[31m {}", "  {} ", "ünïcödé {}",
    "u\u0308 {}", "日本 {}", "🍎 {}", "{}" + "x" * 180, "a.b.c.{}", "{} (1)", "%s%d {}", "$HOME {}", "{}\udce9",
)  # fmt: skip
_DATES: Final = (-(1 << 40), -1.5, 0, 1e-9, 5e8, 4_102_444_800, 9_300_000_000, 15_032_385_535)
_ENDINGS: Final = sorted({"txt", "md", "html", "csv", "pdf", "jpg", "png", "gif", "tif", "webp", "log"})


def change_file(folder: Path, number: int, made: Made, change: str, chance: random.Random) -> Iterator[Changed]:
    """Writes `made` as file `number` of the folder, changed in that way. Yields what is there then: mostly one file."""
    name, ending, data, harmless = f"f{number}", made.format, made.data, True
    if change == "flipped":
        bad = bytearray(data)
        for _ in range(chance.randint(1, 6)):
            bad[chance.randrange(len(bad))] ^= 1 << chance.randrange(8)
        data, harmless = bytes(bad), False
    elif change == "cut":
        data, harmless = data[: chance.randrange(len(data))], False
    elif change == "padded":
        data += chance.choice([bytes(chance.randint(1, 4000)), b"\x1a", b"\r\n" * chance.randint(1, 999), b" " * 99])
    elif change == "relabelled":
        ending = chance.choice(_ENDINGS)
        harmless = made.is_picture or made.format == "pdf" or ending not in ("pdf", "jpg", "png", "gif", "tif", "webp")
    elif change == "renamed":
        name = chance.choice(_NAMES).format(name)
        ending = chance.choice([ending, ending.upper(), ending.title()])
    path = folder / f"{name}.{ending}"
    if change == "linked":
        yield from _linked(folder, path, number, made, chance)
        return
    path.write_bytes(data)
    if change == "dated":
        moment = chance.choice(_DATES)
        # Not every disk can hold every date.
        with contextlib.suppress(OSError, OverflowError):
            os.utime(path, (moment, moment))
    yield Changed(path, made, change, data, harmless)


def _linked(folder: Path, path: Path, number: int, made: Made, chance: random.Random) -> Iterator[Changed]:
    """A link to a file elsewhere, a second name of a file here, a link to nothing, or one to itself."""
    kind = chance.choice(["symbolic", "hard", "nothing", "itself"])
    if kind == "hard":
        path.write_bytes(made.data)
        second = folder / f"second{number}.{made.format}"
        second.hardlink_to(path)
        yield Changed(second, made, "linked", made.data, True)
        yield Changed(path, made, "linked", made.data, True)
        return
    if kind == "symbolic":
        target = folder.parent / f"elsewhere{number}.{made.format}"
        target.write_bytes(made.data)
        path.symlink_to(target)
    else:
        path.symlink_to(path if kind == "itself" else folder / "nothing")
    yield Changed(path, made, "linked", made.data, kind == "symbolic")


CHANGES: Final = ("nothing", "flipped", "cut", "padded", "relabelled", "renamed", "dated", "linked")
