"""What another table of soft captions would find: `python benchmarks/captions.py TABLE --mmeb FOLDER`.

TABLE is a file of `python examples/mini/soft_caption.py`, for instance with `--gloss 4`. It takes the place of the
shipped one in `mini-base` and, without training anew, in `mini`; both search the sets of `concepts.py` by their
pictures' names, by cosine and with concepts. Printed are, in percent, hit@1 and recall@10 with the shipped table, and
what the other one adds, with 95% intervals bootstrapped over the same queries.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import torch
import typer
from concepts import Matrix, Measured, NamedPictures, evidence_of, gathered, interval
from numpy.typing import NDArray
from safetensors.torch import load_file

from tsembed_search.items import Item
from tsembed_search.model import loading, registry
from tsembed_search.model.backbones import mini_spec
from tsembed_search.ranking.scores import COSINE_OF_EVIDENCE

_BATCH = 32
Floats = NDArray[np.float32]


class Eyes:
    """Probabilities of classes and features of pictures, each seen once: neither depends on the table."""

    def __init__(self) -> None:
        self._mini: Any = loading.load(registry.resolve("mini"), "cpu")
        self._seen: dict[Path, tuple[Floats, Floats]] = {}

    @torch.inference_mode()
    def look(self, files: Sequence[Path]) -> list[tuple[Floats, Floats]]:
        """Return `[1000]` probabilities and `[4, 1280]` features of each picture."""
        fresh = [file for file in dict.fromkeys(files) if file not in self._seen]
        for start in range(0, len(fresh), _BATCH):
            some = fresh[start : start + _BATCH]
            pixels = torch.stack([self._mini.prepare(Item(image=file)).data.pixels for file in some])
            seen, classes = self._mini._see(pixels)
            for file, one, own in zip(some, seen, classes, strict=True):
                self._seen[file] = own.numpy(), one[:, mini_spec.DIM :].numpy()
            typer.echo(f"{start + len(some)} of {len(fresh)} pictures", err=True)
        return [self._seen[file] for file in files]


class Model:
    """A model whose table can be changed."""

    def __init__(self, name: str) -> None:
        self._backbone: Any = loading.load(registry.resolve(name), "cpu")

    @torch.inference_mode()
    def pictures(self, seen: Sequence[tuple[Floats, Floats]], table: torch.Tensor) -> Floats:
        """Return vectors `[P, D]` by a table."""
        self._backbone.__dict__["table"] = table
        captions = self._backbone._soft_captions(torch.from_numpy(np.stack([own for own, _ in seen])))
        if self._backbone.projector is not None:
            features = torch.from_numpy(np.stack([one for _, one in seen]))
            captions = torch.cat([captions.half(), features], -1)
        item = Item(image=Path("seen"))
        return self._vectors([self._backbone.prepare(item, seen=one) for one in captions])

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Floats:
        """Return vectors `[T, D]`."""
        return self._vectors([self._backbone.prepare(Item(text), "query") for text in texts])

    def _vectors(self, prepared: Sequence[Any]) -> Floats:
        parts = (self._backbone.forward(prepared[start : start + 64]) for start in range(0, len(prepared), 64))
        return cast(Floats, np.concatenate([np.asarray(part.vectors) for part in parts]))


def ranks(
    pictures: NamedPictures, eyes: Eyes, model: Model, tables: Sequence[torch.Tensor]
) -> dict[str, list[NDArray[np.int64]]]:
    """Return for each way to search the rank of each query's right picture, by each table."""
    names = [name.lower() for name in pictures.names]
    asked = sorted(set(names) - {""})
    right = np.array([[name == one for name in names] for one in asked])
    seen, queries = eyes.look(pictures.files), model.texts(asked)
    evidence = evidence_of(queries, np.stack([own for own, _ in seen]))
    found: dict[str, list[NDArray[np.int64]]] = {"cosine": [], "concepts": []}
    for table in tables:
        cosine: Matrix = (queries @ model.pictures(seen, table).T).astype(np.float64)
        one = Measured(pictures.title, cosine, evidence, None, right)
        found["cosine"].append(one.ranks(cosine))
        found["concepts"].append(one.ranks(cosine + COSINE_OF_EVIDENCE * evidence))
    return found


def main(
    table: Annotated[Path, typer.Argument(help="A table of `python examples/mini/soft_caption.py`.")],
    mmeb: Annotated[Path | None, typer.Option(help="A set that examples/mini/data.py made.")] = None,
) -> None:
    """Measure, and print a table."""
    tables = [load_file(file)["table"].float() for file in (mini_spec.verified("caption"), table)]
    eyes, models = Eyes(), {name: Model(name) for name in ("mini", "mini-base")}
    print("| pictures | queries | model | by | hit@1 | difference | recall@10 | difference |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as work:
        for pictures in gathered(Path(work), mmeb):
            for name, model in models.items():
                for way, (before, after) in ranks(pictures, eyes, model, tables).items():
                    cells = [pictures.title, str(len(before)), name, way]
                    for k in (1, 10):
                        gap = interval((after < k) * 1.0 - (before < k))
                        mean, low, high = (f"{100 * gap[one]:+.1f}" for one in ("mean", "low", "high"))
                        cells += [f"{100 * (before < k).mean():.1f}", f"{mean} ({low} to {high})"]
                    print("|", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    typer.run(main)
