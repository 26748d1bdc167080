"""The concepts that pictures are searched by: the classes of ImageNet and their ancestors in WordNet, and what each
means to a model that reads texts. `examples/mini/concepts.py` makes both files.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tsembed_search.model.files import read_header
from tsembed_search.ranking.concepts import Hierarchy

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DATA: Final = Path(__file__).parent / "data"


@lru_cache(maxsize=1)
def hierarchy() -> Hierarchy:
    """Return all concepts; the classes, in ImageNet's order, come first."""
    classes = [names for _, names, _ in _read("imagenet_classes.json")["classes"]]
    above = _read("concepts.json")
    names = tuple(tuple(each.split(", ")) for each in (*classes, *above["ancestors"]))
    return Hierarchy(names, above["parents"], len(classes))


@lru_cache(maxsize=2)
def meanings(dim: int) -> NDArray[np.float32]:
    """Return what each concept means to `mini-base` and to what was trained on it: unit vectors `[N, D]`, cut to their
    first `dim` numbers.
    """
    file = _DATA / "concept_vectors.safetensors"
    start, header = read_header(file)  # the package that reads such files takes longer to import
    halves = np.fromfile(file, "<f2", offset=start).reshape(header["vectors"]["shape"])
    vectors: NDArray[np.float32] = halves[:, :dim].astype(np.float32)
    vectors /= np.sqrt(np.einsum("nd,nd->n", vectors, vectors))[:, None]
    return vectors


def _read(name: str) -> Any:
    return json.loads((_DATA / name).read_text("utf-8"))
