"""Makes the table of concepts that pictures are searched by: `python examples/mini/concepts.py`.

A concept is a class of the vision tower's classifier (an ImageNet synset), or one of its ancestors in WordNet 3.0, up
to `entity`: 1,860 in all. Two files go into the package: `concepts.json` has the ancestors' names and everyone's
parents; `concept_vectors.safetensors` has what each concept means to a model that reads texts as `mini-base` does,

    unit(unit(mean of its names' unit vectors) + unit of "first name: gloss up to the first semicolon").

WordNet comes from Debian's `wordnet-base`, fetched once into a cache. No picture is needed.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer
from mini_mmeb.packages import Packages
from numpy.typing import NDArray

from tsembed_search.items import Item
from tsembed_search.model.embedder import Embedder
from tsembed_search.paths import home

DATA = Path(__file__).parents[2] / "tsembed_search/model/data"
_POINTER = re.compile(r"@i? (\d{8}) n ")


class Synset(NamedTuple):
    """A noun of WordNet: its names, the usual one first, its gloss without examples, and what it is a kind of."""

    names: list[str]
    gloss: str
    parents: list[int]


def nouns(packages: Packages) -> dict[int, Synset]:
    """The nouns of WordNet 3.0, by their offset, which is the number in an ImageNet class's id."""
    found = {}
    file = packages.debian("wordnet-base") / "usr/share/wordnet/data.noun"
    for line in file.read_text("utf-8").splitlines():
        if line.startswith("  "):
            continue  # the licence
        facts, _, gloss = line.partition(" | ")
        fields = facts.split(" ")
        names = [fields[4 + 2 * place].replace("_", " ") for place in range(int(fields[3], 16))]
        parents = [int(offset) for offset in _POINTER.findall(facts)]
        found[int(fields[0])] = Synset(names, gloss.split(";")[0].strip(), parents)
    return found


def table(packages: Packages) -> tuple[list[Synset], list[list[int]]]:
    """All concepts, the classes first and in their order, and the places of each one's parents."""
    known = nouns(packages)
    classes = json.loads((DATA / "imagenet_classes.json").read_text("utf-8"))["classes"]
    order = [int(id[1:]) for id, _, _ in classes]
    waiting = list(order)
    while waiting:
        for parent in known[waiting.pop()].parents:
            if parent not in order:
                order.append(parent)
                waiting.append(parent)
    order = order[: len(classes)] + sorted(order[len(classes) :])
    places = {offset: place for place, offset in enumerate(order)}
    return [known[one] for one in order], [[places[parent] for parent in known[one].parents] for one in order]


def meanings(concepts: list[Synset], embedder: Embedder) -> NDArray[np.float32]:
    """What each concept means: unit vectors `[N, D]`."""
    owners = np.repeat(np.arange(len(concepts)), [len(one.names) for one in concepts])
    names = embedder.embed([Item(name) for one in concepts for name in one.names], "query").vectors
    sums = np.zeros((len(concepts), names.shape[1]), np.float32)
    np.add.at(sums, owners, names)
    glosses = embedder.embed([Item(f"{one.names[0]}: {one.gloss}") for one in concepts], "query").vectors
    return _unit(_unit(sums) + glosses)


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def main(
    model: Annotated[str, typer.Option(help="The model that reads the names and glosses.")] = "mini-base",
    cache: Annotated[Path | None, typer.Option(help="Where fetched packages are kept.", show_default=False)] = None,
) -> None:
    """Write both files."""
    from safetensors.numpy import save_file

    concepts, parents = table(Packages(cache or home() / "cache" / "packages"))
    first = sum(1 for _ in json.loads((DATA / "imagenet_classes.json").read_text("utf-8"))["classes"])
    content = {
        "source": "The ancestors of the ImageNet-1k classes in WordNet 3.0 (see WORDNET-LICENSE): their names; "
        "and the parents of all, by their place among the classes and these ancestors",
        "ancestors": [", ".join(one.names) for one in concepts[first:]],
        "parents": parents,
    }
    (DATA / "concepts.json").write_text(json.dumps(content, separators=(",", ":")) + "\n", "utf-8")
    vectors = meanings(concepts, Embedder.load(model)).astype(np.float16)
    save_file({"vectors": vectors}, DATA / "concept_vectors.safetensors")
    typer.echo(f"{len(concepts):,} concepts in {DATA}", err=True)


if __name__ == "__main__":
    typer.run(main)
