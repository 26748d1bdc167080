"""Searching in terminals of several kinds, played by the test at the other end of a pseudo-terminal."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

pty = pytest.importorskip("pty", reason="pseudo-terminals are a thing of POSIX")
termios = pytest.importorskip("termios")

# What programs ask: which features (device attributes), the size of a cell, whether kitty's protocol is known.
QUESTIONS = re.compile(rb"\x1b\[c|\x1b\[16t|\x1b_G[^\x1b]*a=q[^\x1b]*\x1b\\")
Answers = Callable[[bytes], bytes]


def silent(question: bytes) -> bytes:
    return b""


def plain(question: bytes) -> bytes:
    return {b"c": b"\x1b[?62c", b"t": b"\x1b[6;20;10t"}.get(question[-1:], b"")


def sixel(question: bytes) -> bytes:
    return b"\x1b[?62;4c" if question.endswith(b"[c") else plain(question)


def kitty(question: bytes) -> bytes:
    number = re.search(rb"i=(\d+)", question)
    return b"\x1b_Gi=" + number[1] + b";OK\x1b\\" if number else plain(question)


def screen_of(
    palette: Path, answers: Answers, *, answering_input: bool = True, size: tuple[int, int] = (40, 100)
) -> bytes:
    """All that the command writes to the terminal. `--like` an indexed picture needs no model, so this is quick."""
    main, other = pty.openpty()
    environment = {**os.environ, "TSEMBED_HOME": str(palette.parent / "home"), "TERM": "xterm-256color"}
    environment |= {"COLORTERM": "truecolor"}
    for name in ("NO_COLOR", "COLUMNS", "LINES"):
        environment.pop(name, None)
    termios.tcsetwinsize(main, size)
    command = ["search", "--like", "red.png", "-k", "3", "-w", "kind=image"]
    process = subprocess.Popen(
        [sys.executable, "-c", "from tsembed_search.cli.main import run; run()", *command],
        stdin=other if answering_input else subprocess.DEVNULL,
        stdout=other,
        stderr=other,
        env=environment,
        cwd=palette,
        start_new_session=True,
        preexec_fn=lambda: pty_becomes_terminal(other),
    )
    os.close(other)
    output, answered = b"", 0
    while select.select([main], [], [], 60)[0]:
        try:
            part = os.read(main, 1 << 16)
        except OSError:
            break
        if not part:
            break
        output += part
        while found := QUESTIONS.search(output, answered):
            answered = found.end()
            os.write(main, answers(found[0]))
    os.close(main)
    assert process.wait(60) == 0, output
    return output


def pty_becomes_terminal(descriptor: int) -> None:
    """Makes the pseudo-terminal the one that controls the new process, as a window does."""
    import fcntl

    fcntl.ioctl(descriptor, termios.TIOCSCTTY, 0)


def test_sixel_pictures_leave_a_line_between_hits(palette: Path) -> None:
    output = screen_of(palette, sixel)
    assert output.count(b"\x1bP") == 3
    row, starts = 0, []
    listing = output[output.rindex(b"\x1b[?25h") :]
    for move in re.finditer(rb"\n|\x1b\[(\d+)A|\x1b\[(\d+)B|\x1b7|\x1b8|\x1bP", listing):
        token = move[0]
        if token == b"\n":
            row += 1
        elif token == b"\x1b7":
            saved = row
        elif token == b"\x1b8":
            row = saved
        elif token == b"\x1bP":
            starts.append(row)
        else:
            row += int(move[2] or 0) - int(move[1] or 0)
    assert [after - before for before, after in pairwise(starts)] == [7, 7]


def test_kitty_gets_its_protocol(palette: Path) -> None:
    output = screen_of(palette, kitty)
    assert len(re.findall(rb"\x1b_Ga=T,U=1,", output)) == 3
    assert "\U0010eeee".encode() in output and b"\x1bP" not in output


@pytest.mark.parametrize("answers", [plain, silent])
def test_other_terminals_get_half_blocks_and_need_not_answer(palette: Path, answers: Answers) -> None:
    output = screen_of(palette, answers)
    assert "▀".encode() in output and b"\x1bP" not in output
    assert b"\x1b]8;" in output and b"file://" in output
    assert b"3 hits" in output


def test_terminal_that_could_not_be_heard_is_not_asked(palette: Path) -> None:
    """Input comes from elsewhere, so an answer would end up on the prompt."""
    output = screen_of(palette, plain, answering_input=False)
    assert QUESTIONS.search(output) is None
    assert "▀".encode() in output


def test_terminal_without_a_size_does_no_harm(palette: Path) -> None:
    assert "▀".encode() in screen_of(palette, sixel, size=(0, 0))
