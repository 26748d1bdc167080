"""The display of a run, in terminals and in logs."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from helpers.run_records import records
from tsembed_search.cli.render.progress import TrainingDisplay, heat


def console(*, terminal: bool, width: int = 80) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, force_terminal=terminal, width=width, markup=False, highlight=False, emoji=False), out


def display(steps: int) -> TrainingDisplay:
    """A display of a terminal's that nobody sees."""
    return TrainingDisplay(steps, console=console(terminal=True)[0])


def finished() -> TrainingDisplay:
    with display(4) as made:
        for record in records():
            made.update(record)
    return made


@pytest.mark.parametrize("width", [40, 80, 160])
def test_a_frame_fits_and_tells_everything(width: int) -> None:
    shown, out = console(terminal=False, width=width)
    shown.print(finished().draw("", width))
    lines = out.getvalue().splitlines()
    assert len(lines) == 8 and all(len(line) <= width for line in lines)
    if width >= 80:
        text = out.getvalue()
        for words in (
            "stage 2",
            "4 of 4 steps",
            "contrastive 0.725",
            "gradient 0.5",
            "router 2.0e-04",
            "entropy 0.80",
            "hardest 0.60",
            "masked 1.0%",
            "r -0.20",
            "hit@1 0.625",
            "mean over 2 tasks",
            "16.0 items/s",
            "memory 2.0 GB",
        ):
            assert words in text, words


def test_what_is_not_measured_is_left_out() -> None:
    shown, out = console(terminal=False)
    with display(10) as bare:
        shown.print(bare.draw("", 80))
        bare.update({"kind": "step", "step": 1, "loss": None, "parts": {"z": None}, "expert_load": [[None, 1.0]]})
        shown.print(bare.draw("", 80))
    assert "1 of 10 steps" in out.getvalue()
    assert "None" not in out.getvalue() and "experts" not in out.getvalue()


def test_plain_lines_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with TrainingDisplay(4) as display:
        for record in records():
            display.update(record)
        display.note("all \x1b[31m well")
    out, text = capsys.readouterr()
    assert out == ""
    assert "\x1b" not in text and "\\x1b[31m well" in text
    lines = text.splitlines()
    assert lines[0].startswith("training tiny, 200 trained parameters, 20 rows of 2 tasks, on cpu")
    # the first step and the last, not each of them
    assert [line.split(":")[0] for line in lines if line.startswith("step")] == ["step 1 of 4", "step 4 of 4"]
    assert "stage 2 from step 3: routing entropy has settled" in lines
    assert "re-ranking weight: 0.1" in lines
    assert "finished after 4 steps in 4.0 s" in lines


def test_a_terminal_is_drawn_over_and_left_clean() -> None:
    shown, out = console(terminal=True)
    with TrainingDisplay(4, console=shown) as display:
        for record in records():
            display.update(record)
    text = out.getvalue()
    assert "\x1b[?25l" in text and text.rstrip().endswith("\x1b[?25h")
    assert "4 of 4 steps" in text
    assert "\u202e" not in text and "\\u202e" in text  # data in notes is escaped


def test_the_heat_bar_tells_blocks_apart() -> None:
    drawn, blocks = heat([[0.9, 0.1], [0.5, 0.5]], 80)
    assert drawn.plain == "█▁ ▅▅" and blocks == [0, 1]
    drawn, blocks = heat([[0.5, 0.5]] * 30, 20)
    assert blocks[0] == 0 and blocks[-1] == 29 and len(drawn.plain) <= 20


def test_the_curve_is_of_means_over_the_whole_run() -> None:
    with display(400) as made:
        for step in range(1, 201):
            made.update({"kind": "step", "step": step, "loss": float(step)})
    assert len(made.curve()) == 20
    assert made.curve()[0] == 5.5
