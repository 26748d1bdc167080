"""A decoding process with loaders that misbehave: what a crafted file can make native code do."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from tsembed_search.documents import document, worker
from tsembed_search.documents import document as loaders
from tsembed_search.documents.document import TEXT, Format, Loading, Unit


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


@dataclass(frozen=True)
class Ill(Format):
    """Reads text; falls ill where the file says so: `crash first`, `hang later`."""

    @property
    def load(self) -> Callable[[Loading], Iterator[Unit]]:  # type: ignore[override]
        def loader(loading: Loading) -> Iterator[Unit]:
            name, _, when = loading.file.read().decode().partition(" ")
            if when == "later":
                yield Unit("text", chunk=0, text="before", start=0, end=6)
            if name in ILLNESSES:
                ILLNESSES[name]()
            yield Unit("text", chunk=1, text=name, start=0, end=len(name), pixels=None)

        return loader


ILL = Ill("ill", 1, frozenset({"ill"}))


def register() -> None:
    """Adds the format, in this process."""
    loaders.FORMATS = (*loaders.FORMATS, ILL)  # type: ignore[misc]
    loaders.EXTENSIONS = loaders.EXTENSIONS | ILL.extensions  # type: ignore[misc]


if __name__ == "__main__":
    assert np is not None and TEXT is not None
    document.FORMATS = (*loaders.FORMATS, ILL)  # type: ignore[attr-defined]
    worker.main()
