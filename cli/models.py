"""`tsembed models`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument

from tsembed_search import wording
from tsembed_search.cli import options
from tsembed_search.cli.render import text as render
from tsembed_search.paths import DEFAULT_MODEL

if TYPE_CHECKING:
    from tsembed_search.model.registry import KnownModel


PROMPTS = {
    "own": "its own",
    "untuned": "not tuned to embed",
    "unknown": "not known: may search badly",
    "refused": "not known: refused",
    "unreadable": "damaged",
}
"""The words for each `KnownModel.prompt`."""


@options.described(
    ("all models", "tsembed models"),
    ("index with another model", "tsembed index ~/Pictures --index big --model Qwen/Qwen3-VL-Embedding-2B"),
    ("a model of your own", "tsembed index ~/Pictures --index mine --model ./my-checkpoint"),
)
def models(
    folders: Annotated[list[Path] | None, Argument(metavar="FOLDER", help="Only models in these folders.")] = None,
    json: options.Json = False,
) -> None:
    """List the models you can use: built in, on this machine, or to download.

    Other models of a supported family work, too: give --model a folder or a hub name. The column "prompt" says if the
    text that a model was trained to expect before a query is known. Without it, a model may search badly.
    """
    from tsembed_search.model.registry import known_models

    known = [_known(folder) for folder in folders] if folders else known_models()
    if json:
        render.print_json({"models": [model.to_json() for model in known], "default": DEFAULT_MODEL})
    elif render.is_terminal():
        render.print_table(["model", "family", "where", "prompt"], map(_row, known))
    else:
        for model in known:
            render.print_fields(model.name, _family(model), model.where, PROMPTS[model.prompt])


def _known(folder: Path) -> KnownModel:
    """The model in a folder. Raises `ModelError` that says what is wrong with it."""
    from tsembed_search.model import registry

    ref = registry.resolve(folder)
    found = ref.folder and registry.known_model(ref.name, ref.folder)
    return found or registry.KnownModel(ref.name, ref.family, "built in")


def _family(model: KnownModel) -> str:
    return model.family if model.base is None else f"experts on {model.base}"


def _row(model: KnownModel) -> tuple[render.Cell, ...]:
    name = render.styled(wording.shown(model.name), style="bold" if model.where != "on the hub" else "")
    if model.name == DEFAULT_MODEL:
        name.append(" (default)", style="dim")
    prompt = (PROMPTS[model.prompt], "" if model.prompt in ("own", "untuned") else "yellow")
    return name, wording.shown(_family(model)), (model.where, "dim"), prompt
