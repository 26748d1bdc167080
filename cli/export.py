"""`tsembed export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from tsembed_search import wording
from tsembed_search.cli import options
from tsembed_search.cli.render import text as render
from tsembed_search.errors import spelled


@options.described(
    ("a plain model without experts", "tsembed export my-checkpoint --out plain-model"),
    ("only the adapter, for PEFT", "tsembed export my-checkpoint --out adapter --peft"),
    no_args_is_help=True,
)
def export(
    checkpoint: Annotated[
        str,
        Argument(metavar="CHECKPOINT", help="Folder or name of a trained model.", autocompletion=options.model_names),
    ],
    out: Annotated[Path, Option("--out", "-o", metavar="DIR", help="A new or empty folder to write to.")],
    merged: Annotated[bool, Option("--merged", help="Write a plain model. This is the default.")] = False,
    peft: Annotated[bool, Option("--peft", help="Write only the adapter, in PEFT's format.")] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Save a trained model in a form that other programs can load.

    Other programs know no routers, so each expert gets the same share (the uniform mixture). The result gives other
    vectors than the checkpoint.
    """
    from tsembed_search.model import export as exporting
    from tsembed_search.model import registry

    options.only_one(merged=merged, peft=peft)
    ref = registry.resolve(checkpoint)
    with render.working("Exporting", quiet=quiet):
        done = exporting.peft(ref, out) if peft else exporting.merged(ref, out)
    if json:
        render.print_json(done.to_json())
    elif not quiet:
        print(wording.shown(str(done.folder)))
        render.remark("The uniform mixture of the experts, without routers: its vectors are not the checkpoint's.")
        render.remark(spelled(done.use, render.in_shell))
