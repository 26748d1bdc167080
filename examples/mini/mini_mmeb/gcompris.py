"""Pictures of GCompris, a set of games for children (GPL-3+ and free pictures): photographs and cartoons, by their
names. Only to measure by.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from mini_mmeb.packages import Packages

_COMPRESSED, _FOLDER, _OTHERWISE_COMPRESSED = 1, 2, 4
_PHOTOGRAPHS: Final = ("fishes", "monuments", "others", "renewable", "tools")
# Colours, numbers and relations say nothing about what their picture shows.
_NO_THINGS: Final = frozenset(
    "animal back black blue brother brown child color dad eight eleven face family five four friend grandmother gray "
    "green mauve mother nine one orange-color pink red seven sister six sixteen skin son ten three twelve two white "
    "yellow zero".split()
)


class Named(NamedTuple):
    """A picture file and what it is called; `landmark`: it is the name of one building or place."""

    file: Path
    name: str
    landmark: bool


def photographs(packages: Packages, out: Path) -> list[Named]:
    """Photographs of things, animals and landmarks; several have the same name. They are unpacked into `out`."""
    folder = _unpacked(
        packages, out, "categorization", "explore_monuments", "explore_farm_animals", "explore_world_animals"
    )
    found = []
    for file in sorted(folder.rglob("*.webp")):
        parts = file.relative_to(folder).parts
        landmark = parts[0] == "explore_monuments" or file.parent.name == "monuments"
        wanted = file.parent.name in (*_PHOTOGRAPHS, "animals") or (landmark and file.parent.name != "resource")
        if wanted:
            found.append(Named(file, _words(file.stem), landmark))
    return found


def cartoons(packages: Packages, out: Path) -> list[Named]:
    """Cartoons of things and animals; the name is empty where the picture shows a colour, a number or a relation."""
    folder = _unpacked(packages, out, "lang")
    files = sorted(folder.rglob("words_sample/*.webp"))
    return [Named(file, "" if file.stem in _NO_THINGS else _words(file.stem), False) for file in files]


def _words(stem: str) -> str:
    """The words of `measuringTape3`."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", re.sub(r"[\d_-]+", " ", stem))
    return " ".join(apart.lower().split())


def _unpacked(packages: Packages, out: Path, *activities: str) -> Path:
    """A folder with the pictures of some activities, which the package keeps in Qt's resource files."""
    source = packages.debian("gcompris-qt-data") / "usr/share/gcompris-qt/rcc"
    for activity in activities:
        for path, content in resources((source / f"{activity}.rcc").read_bytes()):
            if path.endswith(".webp"):
                file = out / activity / path.partition("/resource/")[2]
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
    return out


def resources(data: bytes) -> Iterator[tuple[str, bytes]]:
    """The files in a resource file of Qt: paths and contents. Entries that zlib does not unpack are left out."""
    if data[:4] != b"qres":
        raise ValueError("this is no resource file of Qt")
    version, tree, contents, names = struct.unpack(">IIII", data[4:20])
    size = 22 if version >= 2 else 14

    def walk(node: int, path: str) -> Iterator[tuple[str, bytes]]:
        start = tree + node * size
        name, flags = struct.unpack(">IH", data[start : start + 6])
        if node:
            length = struct.unpack(">H", data[names + name : names + name + 2])[0]
            path = f"{path}/{data[names + name + 6 : names + name + 6 + 2 * length].decode('utf-16-be')}"
        if flags & _FOLDER:
            count, first = struct.unpack(">II", data[start + 6 : start + 14])
            for child in range(first, first + count):
                yield from walk(child, path)
            return
        begin = contents + struct.unpack(">I", data[start + 10 : start + 14])[0]
        length = struct.unpack(">I", data[begin : begin + 4])[0]
        content = data[begin + 4 : begin + 4 + length]
        if not flags & _OTHERWISE_COMPRESSED:
            yield path, zlib.decompress(content[4:]) if flags & _COMPRESSED else content

    yield from walk(0, "")
