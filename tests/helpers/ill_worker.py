"""A decoding process with loaders that misbehave: what a crafted file can make native code do."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import BinaryIO, NoReturn

import numpy as np
from numpy.typing import NDArray

from tsembed_search.documents import worker
from tsembed_search.documents.document import FORMATS, Document, Format, Unit


def crash() -> None:
    ctypes.string_at(0)


def hang() -> NoReturn:
    while True:
        time.sleep(1)


def spin() -> NoReturn:
    while True:
        pass


def leak() -> NoReturn:
    kept = []
    while True:
        kept.append(bytearray(50 << 20))


def abort() -> None:
    os.abort()


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave() -> NoReturn:
    os._exit(3)


def garbage() -> None:
    os.write(3, b"\xff" * 64)


def recurse() -> None:
    recurse()


def print_much() -> None:
    print("noise " * 10_000)
    sys.stdout.flush()
    os.write(1, b"noise")
    os.write(2, b"noise" * 100_000)


ILLNESSES: dict[str, Callable[[], None]] = {
    each.__name__: each for each in (crash, hang, spin, leak, abort, killed, leave, recurse, print_much)
}


def units(document: Document) -> Iterator[Unit]:
    """Reads text; falls ill where the file says so: `crash first`, `hang later`."""
    name, _, when = document.file.read().decode().partition(" ")
    if when == "later":
        yield Unit("text", chunk=0, text="before", start=0, end=6)
    if name in ILLNESSES:
        ILLNESSES[name]()
    yield Unit("text", chunk=1, text=name, start=0, end=len(name), pixels=None)


def preview(file: BinaryIO, page: int) -> NDArray[np.uint8]:
    """Falls ill on the second page."""
    if page == 2:
        ILLNESSES[file.read().decode().partition(" ")[0]]()
    return np.full((2, 2, 3), page, np.uint8)


ILL = Format("ill", 1, frozenset({"ill"}), units, pages=True, preview=preview)


def main() -> None:
    """Decodes what is ill beside what a decoder decodes."""
    FORMATS.add("ill", ILL)
    worker.main()


if __name__ == "__main__":
    main()
