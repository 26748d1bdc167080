"""An argument of nothing, as an unset variable gives it, is wrong usage wherever it stands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import Result

from tsembed_search.cli.main import app
from tsembed_search.documents.crawl import Crawl, Selection
from tsembed_search.errors import UsageError
from tsembed_search.paths import absolute, home

Run = Callable[..., Result]


def commands(group: Any, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command below a group, with the words that call it."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*names, name))
        else:
            yield (*names, name), command


def takes_a_value(parameter: Any) -> bool:
    return not getattr(parameter, "is_flag", False) and not getattr(parameter, "count", False)


ALL = list(commands(typer.main.get_command(app)))
ARGUMENTS = [(*names, "") for names, _ in ALL]
OPTIONS = [
    (*names, spelling)
    for names, command in ALL
    for parameter in command.params
    if parameter.param_type_name == "option" and takes_a_value(parameter)
    for spelling in parameter.opts
]


def test_there_are_commands_and_options_to_try() -> None:
    assert len(ALL) >= 12 and len(OPTIONS) > 60
    assert {("search", "--image"), ("index", "--exclude"), ("train", "--out"), ("ls", "-w")} <= set(OPTIONS)


@pytest.mark.parametrize("line", ARGUMENTS, ids=" ".join)
def test_an_empty_argument_is_wrong_usage(run: Run, palette: Path, line: tuple[str, ...]) -> None:
    before = sorted((palette.parent / "home").rglob("*"))
    for blank in ("", " ", "\n"):
        done = run(*line[:-1], blank)
        assert done.exit_code == 2 and "empty" in done.stderr, done.stderr
        assert done.stdout == ""
    assert sorted((palette.parent / "home").rglob("*")) == before and not Path("runs").exists()


@pytest.mark.parametrize("line", OPTIONS, ids=" ".join)
def test_an_empty_value_is_wrong_usage(run: Run, line: tuple[str, ...]) -> None:
    *names, option = line
    forms = [(option, ""), (option, " ")] + ([(f"{option}=",)] if option.startswith("--") else [])
    for form in forms:
        done = run(*names, "notes", *form)
        assert done.exit_code == 2 and "empty" in done.stderr and option in done.stderr, done.stderr


def test_a_dot_and_a_name_of_blanks_go_on_working(run: Run, palette: Path, fresh: Path) -> None:
    (fresh / " ").mkdir()
    (fresh / " " / "red.txt").write_text("all about red")
    assert run("index", " ", "--model", "colours", "--workers", "1").exit_code == 0
    assert run("ls", ".", "--paths").stdout == run("ls", " ", "--paths").stdout == f"{fresh}/ /red.txt\n"
    assert run("ls", "--paths", "-w", "path~./").exit_code == 0


def test_the_library_refuses_empty_paths_too() -> None:
    for call in (lambda: absolute(""), lambda: Crawl([""], Selection())):  # type: ignore[list-item]
        with pytest.raises(UsageError, match="empty"):
            call()


@pytest.mark.parametrize("value", ["", " ", "\t"])
def test_an_empty_home_is_as_if_it_were_not_set(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.delenv("TSEMBED_HOME", raising=False)
    usual = home()
    monkeypatch.setenv("TSEMBED_HOME", value)
    assert home() == usual
