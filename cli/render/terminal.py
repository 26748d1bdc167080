"""Asking a terminal what it can draw, and how large its characters are; hearing the replies among what is typed."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT_CELL: Final = (10, 20)
"""Pixels of a character, across and down, where a terminal does not say."""
_SIXEL: Final = "4"  # among the attributes of a device
_OURS: Final = 31
# A picture of one pixel, not to be kept. `U=1` asks for placeholders: a terminal that knows none of them refuses it.
_KITTY: Final = f"\x1b_Ga=q,U=1,i={_OURS},s=1,v=1,f=24;AAAA\x1b\\"
_CELL: Final = "\x1b[16t"
_ATTRIBUTES: Final = "\x1b[c"
_ANSWERS: Final = re.compile(
    r"\x1b_G(?P<kitty>[^\x1b]*)\x1b\\|\x1b\[6;(?P<height>\d+);(?P<width>\d+)t|\x1b\[\?(?P<attributes>[\d;]*)c"
)
_BEGUN: Final = re.compile(r"\x1b(?:_[^\x1b]*\x1b?|\[[?\d;]*)?\Z")


@dataclass(frozen=True)
class Abilities:
    """The pictures that a terminal says it can draw. `cell`: pixels of a character, across and down, if it said so."""

    kitty: bool = False
    sixel: bool = False
    cell: tuple[int, int] | None = None

    @property
    def best(self) -> str:
        """The protocol to use: `kitty`, `sixel`, or `blocks` for neither.

        Sixel goes first: some that know both draw kitty's pictures, but not its placeholders.
        """
        return "sixel" if self.sixel else "kitty" if self.kitty else "blocks"


def in_multiplexer(environment: Mapping[str, str] = os.environ) -> bool:
    """Tell whether a multiplexer draws the screen: it takes kitty's question for the title of a window."""
    return "TMUX" in environment or environment.get("TERM", "").startswith(("tmux", "screen"))


def questions(environment: Mapping[str, str] = os.environ) -> str:
    """Return what to write. The question that every terminal answers is the last one."""
    return ("" if in_multiplexer(environment) else _KITTY) + _CELL + _ATTRIBUTES


class Replies:
    """Takes a terminal's replies out of its input. `all_there`: the last one has come."""

    def __init__(self) -> None:
        self.found = Abilities()
        self.all_there = False
        self._held = ""

    def take(self, text: str) -> str:
        """Hear the answers in a part of the input, and return the rest of it, which somebody typed.

        What may be the beginning of an answer is held until the next call, as long as one is to come.
        """
        if self.all_there:
            return text
        text = _ANSWERS.sub(self._hear, self._held + text)
        begun = _BEGUN.search(text)
        self._held = begun[0] if begun else ""
        return text[: begun.start()] if begun else text

    def give_back(self) -> str:
        """Return what was held, when nothing followed it: it was typed."""
        held, self._held = self._held, ""
        return held

    def _hear(self, answer: re.Match[str]) -> str:
        found = self.found
        if answer["kitty"] is not None:
            is_ours = answer["kitty"].startswith(f"i={_OURS};") and answer["kitty"].endswith(";OK")
            self.found = Abilities(found.kitty or is_ours, found.sixel, found.cell)
        elif answer["width"] is not None:
            width, height = int(answer["width"]), int(answer["height"])
            self.found = Abilities(found.kitty, found.sixel, (width, height) if width and height else None)
        else:
            self.found = Abilities(found.kitty, _SIXEL in answer["attributes"].split(";")[1:], found.cell)
            self.all_there = True
        return ""


def cell_size(descriptor: int) -> tuple[int, int] | None:
    """Return the pixels of a character, across and down, as the system knows them; None where it does not."""
    if sys.platform == "win32":
        return None
    import fcntl
    import struct
    import termios

    try:
        rows, columns, width, height = struct.unpack("HHHH", fcntl.ioctl(descriptor, termios.TIOCGWINSZ, bytes(8)))
    except OSError:
        return None
    return (width // columns, height // rows) if columns and rows and width >= columns and height >= rows else None


def ask(seconds: float = 1.0) -> Abilities:
    """Ask the terminal that stdin and stdout are, and wait for its answers, at most so long.

    Only for a process that nobody types to: what is typed meanwhile is lost.
    """
    if sys.platform == "win32":
        return Abilities()
    import select

    answers, end = Replies(), time.monotonic() + seconds
    with _every_key(0):
        os.write(1, questions().encode())
        while not answers.all_there and (left := end - time.monotonic()) > 0:
            if select.select([0], [], [], left)[0]:
                if not (part := os.read(0, 1 << 12)):
                    break
                answers.take(part.decode("utf-8", "replace"))
    return answers.found


@contextmanager
def _every_key(descriptor: int) -> Iterator[None]:
    """Let a terminal give each character at once, and show none, while the block runs."""
    import termios
    import tty

    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor, termios.TCSANOW)
        yield
    finally:
        with suppress(termios.error):
            termios.tcsetattr(descriptor, termios.TCSANOW, before)
