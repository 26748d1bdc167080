"""What is written to terminals that draw pictures, read as such a terminal reads it; and what they say."""

from __future__ import annotations

import base64
import io
import re
import unicodedata

import numpy as np
import pytest
from PIL import Image

from tsembed_search.cli.render import protocols, terminal

REPLIES = "\x1b_Gi=31;OK\x1b\\\x1b[6;18;9t\x1b[?62;c"


def seen(sixel: str) -> np.ndarray:
    """The pixels that a terminal draws, RGB in percent `[H, W, 3]`."""
    head = re.match(r'\x1bP0;1;0q"1;1;(\d+);(\d+)', sixel)
    assert head is not None and sixel.endswith("\x1b\\")
    width, height = int(head[1]), int(head[2])
    drawn = np.full((height + 6, width, 3), -1)
    colours, colour, x, y = {}, 0, 0, 0
    for part in re.finditer(r"#(\d+);2;(\d+);(\d+);(\d+)|#(\d+)|!(\d+)(.)|([$-])|([?-~])", sixel[head.end() : -2]):
        if part[1]:
            colours[int(part[1])] = (int(part[2]), int(part[3]), int(part[4]))
        elif part[5]:
            colour = int(part[5])
        elif part[8]:
            x, y = 0, y + (6 if part[8] == "-" else 0)
        else:
            times, bits = int(part[6] or 1), ord(part[7] or part[9]) - 63
            assert times, "some terminals take none for one"
            for row in range(6):
                if bits >> row & 1:
                    drawn[y + row, x : x + times] = colours[colour]
            x += times
    return drawn[:height]


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (300, 13), (20, 6)])
def test_sixel_draws_every_pixel_in_its_colour(size: tuple[int, int]) -> None:
    width, height = size
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[::2, ::3] = (255, 0, 0)
    pixels[1::2, width // 2 :] = (0, 0, 255)
    drawn = seen(protocols.sixel(Image.fromarray(pixels)))
    assert np.abs(drawn - np.round(pixels / 2.55)).max() <= 1


def test_a_photograph_in_sixel_is_nearly_that() -> None:
    across = np.linspace(0, 255, 120)
    pixels = np.stack([np.tile(across, (90, 1)), np.tile(across[:90, None], (1, 120)), np.full((90, 120), 90)], 2)
    drawn = seen(protocols.sixel(Image.fromarray(pixels.astype(np.uint8))))
    assert drawn.min() >= 0 and np.abs(drawn * 2.55 - pixels).mean() < 12


def test_a_picture_for_kitty_is_sent_whole_in_pieces() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    sent = protocols.kitty_picture(70_000, Image.fromarray(noise), 8, 3)
    pieces = re.findall(r"\x1b_G([^;\x1b]*);([^\x1b]*)\x1b\\", sent)
    assert len(pieces) > 3 and "".join(f"\x1b_G{keys};{data}\x1b\\" for keys, data in pieces) == sent
    assert pieces[0][0] == "a=T,U=1,i=70000,f=100,c=8,r=3,q=2,m=1"
    assert {keys for keys, _ in pieces[1:-1]} == {"q=2,m=1"} and pieces[-1][0] == "q=2,m=0"
    assert all(len(data) <= 4096 for _, data in pieces)
    picture = Image.open(io.BytesIO(base64.b64decode("".join(data for _, data in pieces))))
    assert np.array_equal(np.asarray(picture), noise)


def test_marks_number_rows_and_columns_as_kitty_does() -> None:
    assert [ord(protocols.MARKS[at]) for at in (0, 1, 2, 3, 4, 5, 100, 296)] == [
        0x305, 0x30D, 0x30E, 0x310, 0x312, 0x33D, 0x7EB, 0x1D244,
    ]  # fmt: skip
    assert len(set(protocols.MARKS)) == 297
    assert {unicodedata.combining(mark) for mark in protocols.MARKS} == {230}


def test_commands_pass_through_tmux_one_by_one() -> None:
    wrapped = protocols.through_tmux(protocols.kitty_forget(5) + protocols.kitty_forget(6))
    inner = re.findall(r"\x1bPtmux;((?:\x1b\x1b|[^\x1b])*)\x1b\\", wrapped)
    assert [one.replace("\x1b\x1b", "\x1b") for one in inner] == [protocols.kitty_forget(n) for n in (5, 6)]


@pytest.mark.parametrize("at", range(len(REPLIES) + 1))
def test_replies_are_heard_wherever_they_are_cut_and_keys_stay_keys(at: int) -> None:
    replies = terminal.Replies()
    text = f"a\x1b[A{REPLIES}b\x1b[Bc"
    at += 4
    typed = replies.take(text[:at]) + replies.take(text[at:]) + replies.give_back()
    assert typed == "a\x1b[Ab\x1b[Bc"
    assert replies.all_there and replies.found == terminal.Abilities(kitty=True, cell=(9, 18))


def test_keys_between_and_within_slow_replies_stay_in_their_order() -> None:
    replies = terminal.Replies()
    assert replies.take("x\x1b") == "x" and replies.give_back() == "\x1b", "that was the Esc key"
    assert replies.take("\x1b[6;18") == "" and replies.take(";9ty") == "y"
    assert not replies.all_there
    assert replies.take("\x1b[?63;1;4;22cz") == "z" and replies.all_there and replies.found.best == "sixel"
    assert replies.take("\x1b") == "\x1b", "no reply is to come: nothing is held up"


def test_only_what_a_terminal_says_counts() -> None:
    for said, best in {
        "\x1b[?62;c": "blocks", "\x1b[?4;6c": "blocks", "\x1b[?62;4c": "sixel", "\x1b_Gi=31;OK\x1b\\\x1b[?62c": "kitty",
        "\x1b_Gi=31;EINVAL\x1b\\\x1b[?62c": "blocks", "\x1b_Gi=7;OK\x1b\\\x1b[?62c": "blocks",
        "\x1b_Gi=31;OK\x1b\\\x1b[?62;4c": "sixel",
    }.items():  # fmt: skip
        replies = terminal.Replies()
        assert replies.take(said) == "" and replies.found.best == best, said


def test_multiplexers_are_not_asked_for_what_they_take_for_a_title() -> None:
    assert "\x1b_G" in terminal.questions({"TERM": "xterm-kitty"})
    for environment in ({"TMUX": "/tmp/tmux-0/default,1,0"}, {"TERM": "screen-256color"}, {"TERM": "tmux-256color"}):
        assert terminal.questions(environment) == "\x1b[16t\x1b[c"
