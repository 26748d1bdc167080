"""`tsembed export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tsembed_search import wording
from tsembed_search.cli import options
from tsembed_search.cli.options import described
from tsembed_search.cli.render import text as render
from tsembed_search.errors import UsageError, spelled


@described(
    ("a plain model without experts", "tsembed export my-checkpoint --out plain-model"),
    ("the adapter alone, for PEFT", "tsembed export my-checkpoint --out adapter --peft"),
    no_args_is_help=True,
)
def export(
    checkpoint: Annotated[
        str,
        typer.Argument(metavar="CHECKPOINT", help="A checkpoint's folder or name.", autocompletion=options.model_names),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="A new or empty folder to write to.")],
    merged: Annotated[bool, typer.Option("--merged", help="A plain model (this is what it does if not told).")] = False,
    peft: Annotated[bool, typer.Option("--peft", help="The adapter alone, in PEFT's format.")] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a checkpoint's experts as a plain model, or as an adapter for PEFT.

    Either is the uniform mixture of the experts: what knows no routers uses each of them alike.
    """
    if merged and peft:
        raise UsageError("--merged and --peft exclude each other.", "Choose one of them.")
    from tsembed_search.model import export as exporting
    from tsembed_search.model import registry

    ref = registry.resolve(checkpoint)
    with render.working("Exporting", quiet=quiet):
        done = exporting.peft(ref, out) if peft else exporting.merged(ref, out)
    if json:
        render.print_json(
            {
                "folder": str(done.folder),
                "form": done.form,
                "base": done.base,
                "mixture": "uniform",
                "loads_here": done.loads_here,
            }
        )
    elif not quiet:
        print(wording.shown(str(done.folder)))
        render.remark("The uniform mixture of the experts, without routers: its vectors are not the checkpoint's.")
        render.remark(spelled(done.use, render.in_shell))
