"""The `tsembed` command and its subcommands."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Annotated, Any

import typer
from typer import Option
from typer.core import TyperGroup

from tsembed_search.cli import options, surroundings
from tsembed_search.errors import UsageError
from tsembed_search.registry import Registry
from tsembed_search.version import __version__

COMMANDS: Registry[Callable[..., object] | typer.Typer] = Registry(
    "command",
    "tsembed.commands",
    {
        "index": "tsembed_search.cli.index:index",
        "watch": "tsembed_search.cli.watch:watch",
        "search": "tsembed_search.cli.search:search",
        "browse": "tsembed_search.cli.browse.command:browse",
        "show": "tsembed_search.cli.show:show",
        "explain": "tsembed_search.cli.explain:explain",
        "status": "tsembed_search.cli.status:status",
        "ls": "tsembed_search.cli.ls:ls",
        "rm": "tsembed_search.cli.rm:rm",
        "models": "tsembed_search.cli.models:models",
        "export": "tsembed_search.cli.export:export",
        "doctor": "tsembed_search.cli.doctor:doctor",
        "train": "tsembed_search.cli.train:train",
        "eval": "tsembed_search.cli.eval:evaluate",
        "data": "tsembed_search.cli.data:data",
    },
)
"""A command is a function with Typer's annotations, or a `typer.Typer` with commands of its own."""


class _Table(Mapping[str, Any]):
    """The commands by name. Each is made when it is looked at first, so that a command does not load the others."""

    def __getitem__(self, name: str) -> Any:
        if name not in COMMANDS:
            raise KeyError(name)
        return _made(name)

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS.names())

    def __len__(self) -> int:
        return len(COMMANDS.names())


def _broken(error: UsageError) -> Callable[..., object]:
    """Stand in for a command that cannot be loaded: who runs it is told why, and the help of the others still works."""

    def command() -> None:
        """Cannot be loaded."""
        raise error

    command.command = {"context_settings": {"allow_extra_args": True, "ignore_unknown_options": True}}  # type: ignore[attr-defined]
    return command


@cache
def _made(name: str) -> Any:
    """Make Typer's command of a function, or its group of commands of a `typer.Typer`."""
    try:
        entry = COMMANDS.get(name)
    except UsageError as error:
        entry = _broken(error)
    if not isinstance(entry, typer.Typer):
        function, entry = entry, typer.Typer(rich_markup_mode="rich", add_completion=False)
        entry.command(name, **getattr(function, "command", {}))(function)
    command = typer.main.get_command(entry)
    command.name = name
    for each in (command, *getattr(command, "commands", {}).values()):
        _tidy(each)
    return command


def _tidy(command: Any) -> None:
    """Leave out of a command's help the breaks of its docstring's lines, and types such as <bool> and <list[Path]>."""
    command.help = re.sub(r"(?<!\n)\n(?!\n)", " ", command.help or "")
    for parameter in command.params:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
        elif parameter.param_type_name == "argument":
            parameter.display_type_rich = lambda ctx: None


class _Commands(TyperGroup):
    """Turns whatever ends a command into a message on stderr and an exit code of the contract."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands: Any = _Table()
        _tidy(self)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise surroundings.UserInterrupt("Interrupted.", "Run the same command again to go on.") from None

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> Any:
        given = list(sys.argv[1:] if args is None else args)
        parent = super().main

        def command() -> Any:
            _refuse_empty(given)
            return parent(given, *rest, **{**extra, "standalone_mode": False})

        sys.exit(surroundings.exit_code_of(command))


def _refuse_empty(arguments: Sequence[str]) -> None:
    """Raise `UsageError` for an argument of nothing or of blanks, as an unset variable gives it, whatever it is for.

    An empty path would be taken for the current folder. What has a name of blanks can be named.
    """
    option = ""
    for argument in arguments:
        long = argument.startswith("--")
        name, equals, value = argument.partition("=") if long else (option, "", argument)
        if (equals or not long) and not value.strip() and not (value and os.path.lexists(value)):
            raise UsageError(
                f"The argument after {name} is empty." if name else "An argument is empty.",
                "Is a variable not set? The current folder is written as a dot.",
            )
        option = argument if argument.startswith("-") and not equals else ""


app = typer.Typer(
    name="tsembed",
    cls=_Commands,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=options.examples(
        ("first, and again when files have changed", "tsembed index ~/Pictures ~/Documents"),
        ("then", "tsembed search a red bicycle"),
    ),
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"tsembed {__version__}")
        raise typer.Exit


@app.callback(no_args_is_help=True)
def _root(
    version: Annotated[
        bool, Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Search your own pictures and documents by words, by a picture, or by both."""


def run() -> None:
    """The entry point of the console script."""
    # Threads that spin while they wait for work take the cores from decoders and from other programs: on two busy
    # cores, sleeping instead made a single query thirty times faster and indexing twice. Read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # NumPy's threads spin whatever one says. Read when it is imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    surroundings.prepare()
    app()
