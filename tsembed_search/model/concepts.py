"""The concepts that pictures are searched by: the classes of ImageNet and their ancestors in WordNet, and what each
means to a model that reads texts. `examples/mini/concepts.py` makes both files.
"""

from __future__ import annotations

import json
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from tsembed_search.ranking.concepts import Hierarchy

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
    from safetensors.numpy import load

    content = (resources.files("tsembed_search.model") / "data/concept_vectors.safetensors").read_bytes()
    vectors: NDArray[np.float32] = load(content)["vectors"][:, :dim].astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def _read(name: str) -> Any:
    return json.loads((resources.files("tsembed_search.model") / "data" / name).read_text("utf-8"))
