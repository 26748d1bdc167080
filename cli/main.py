"""The `tsembed` command: its subcommands, and how anything that goes wrong is told."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tsembed_search.cli import (
    data,
    doctor,
    explain,
    export,
    index,
    listing,
    models,
    options,
    remove,
    render,
    search,
    status,
    train,
)
from tsembed_search.cli import eval as evaluation
from tsembed_search.errors import TsembedError
from tsembed_search.version import __version__

# Typer raises the errors of wrong usage from a library that it has begun to carry inside; their common class is public
# only as an ancestor.
_ParserError: type[Exception] = typer.BadParameter.mro()[2]


class _Interrupted(TsembedError):
    """Ctrl-C. Raised before Typer sees the signal, which it would answer with an exit code and no word."""

    exit_code = 130


class _Commands(TyperGroup):
    """Turns whatever ends a command into a message on stderr and an exit code of the contract."""

    def get_command(self, ctx: Any, name: str) -> Any:
        command = super().get_command(ctx, name)
        for parameter in command.params if command is not None else ():
            if getattr(parameter, "is_flag", False):
                parameter.metavar = ""  # the help would call each of them <bool>
        return command

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise _Interrupted("Interrupted.", "Run the same command again to go on.") from None

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        parent = super().main
        sys.exit(_run(lambda: parent(args, prog_name, complete_var, False, windows_expand_args, **extra)))


def _run(command: Any) -> int:
    """Runs `command` and gives its exit code."""
    try:
        result = command()
    except TsembedError as error:
        render.complain(error.message, error.hint, label="" if error.exit_code == 130 else "error: ")
        return error.exit_code
    except _ParserError as error:
        return _wrong_usage(error)
    except typer.Abort:
        render.complain("Nothing was done.")
        return 1
    except OSError as error:
        if error.errno != errno.EPIPE:
            return _unexpected(error)
        # Whoever read our output has left; nothing may try to write the rest at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # noqa: BLE001 - the last resort: a short message instead of a page of code
        return _unexpected(error)
    return result if isinstance(result, int) else 0


def _wrong_usage(error: Any) -> int:
    context = error.ctx
    if not error.format_message():  # no command at all: the help was the answer
        return 2
    hint = f"See: {context.command_path} --help" if context is not None else "See: tsembed --help"
    render.complain(error.format_message(), hint)
    return 2


def _unexpected(error: BaseException) -> int:
    if os.environ.get("TSEMBED_DEBUG"):
        raise error
    words = str(error).strip() or "no message"
    render.complain(
        f"Unexpected {type(error).__name__}: {words}",
        "This is a fault in tsembed. Set TSEMBED_DEBUG=1 to see where it comes from.",
    )
    return 1


app = typer.Typer(
    name="tsembed",
    cls=_Commands,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=options.examples(
        ("first, and again whenever files have changed", "tsembed index ~/Pictures ~/Documents"),
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
        bool, typer.Option("--version", help="The version, and nothing else.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Search your own images and documents by words, by pictures, or by both."""


app.command(epilog=index.EXAMPLES, no_args_is_help=True)(index.index)
app.command(epilog=search.EXAMPLES)(search.search)
app.command(epilog=explain.EXAMPLES, no_args_is_help=True)(explain.explain)
app.command(epilog=status.EXAMPLES)(status.status)
app.command(epilog=listing.EXAMPLES)(listing.ls)
app.command(epilog=remove.EXAMPLES)(remove.rm)
app.command(epilog=models.EXAMPLES)(models.models)
app.command(epilog=export.EXAMPLES, no_args_is_help=True)(export.export)
app.command(epilog=doctor.EXAMPLES)(doctor.doctor)
app.command(epilog=train.EXAMPLES)(train.train)
app.command("eval", epilog=evaluation.EXAMPLES, no_args_is_help=True)(evaluation.evaluate)
app.add_typer(data.data)


def run() -> None:
    """The entry point of the console script."""
    # Threads that spin while they wait for work take the cores from decoders and from other programs: on two busy
    # cores, sleeping instead made a single query thirty times faster and indexing twice. Read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    app()
