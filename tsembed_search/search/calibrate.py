"""A calibration for models that bring none, measured on the index itself.

For each kind of item the cosine of a typical good hit is found: the mean fifth-best over a few probe queries. A hit at
that level scores 0.5, whatever its kind, so that a kind whose cosines are small by nature is not drowned by another.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from tsembed_search.items import KINDS, Item, Kind, Modality
from tsembed_search.ranking.scores import Calibration, Logistic
from tsembed_search.store.filters import Condition

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tsembed_search.model.embedder import Embedder
    from tsembed_search.store.base import Store

SLOPE = 15.0
"""The slope of scores at the typical hit, per unit of cosine: mini's, found by `examples/mini/calibrate.py`."""
FEWEST = 20
"""A kind with fewer items than this has no typical hit."""
_RANK = 5
_PICTURES = 32

# Half name what a picture might show, half ask as one asks of a text.
_PROBES = (
    "a dog", "a person smiling", "a red car on a street", "mountains and a lake", "a plate of food", "a city at night",
    "a flower in a garden", "children playing", "a wooden house", "a bird in flight", "a chart with figures", "a map",
    "a handwritten note", "a diagram of a machine", "the sea and a boat", "a room with furniture",
    "how to repair it", "the history of the place", "terms of payment", "list of ingredients and steps",
    "a summary of the results", "who founded the company", "rules for members", "when does it open",
    "an introduction to the subject", "the causes of the war", "how much does it cost", "notes of a meeting",
    "a letter to a friend", "safety instructions", "biography of a scientist", "what the law says about it",
)  # fmt: skip


def measured_calibration(store: Store, embedder: Embedder) -> Calibration | None:
    """Measure the kinds that the store holds. None when no kind has enough items to tell."""
    kinds = [kind for kind in KINDS if store.count(Condition("kind", "=", kind)) >= FEWEST]
    if not kinds:
        return None
    probes = embedder.embed([Item(text=probe) for probe in _PROBES], "query").vectors
    typical: dict[tuple[Modality, Kind], float] = {}
    for kind in kinds:
        typical["text", kind] = _typical(store, probes, kind, _RANK)
    pictures = _some_pictures(store, kinds)
    if pictures is not None:
        for kind in kinds:
            # One rank lower: the picture itself is in the index.
            typical["image", kind] = _typical(store, pictures, kind, _RANK + 1)
            typical["joint", kind] = (typical["text", kind] + typical["image", kind]) / 2
    lines = {pair: Logistic.at(cosine, SLOPE) for pair, cosine in typical.items()}
    return Calibration(lines, "measured on the index")


def _typical(store: Store, queries: NDArray[np.float32], kind: Kind, rank: int) -> float:
    """The mean cosine of the hit at `rank` (from 1) among items of one kind."""
    rows = store.search(queries, rank, Condition("kind", "=", kind))
    return sum(row[-1].score for row in rows) / len(rows)


def _some_pictures(store: Store, kinds: list[Kind]) -> NDArray[np.float32] | None:
    """Vectors `[<= 32, D]` of stored pictures or pages."""
    import numpy as np

    for kind in ("image", "page"):
        if kind in kinds:
            records = store.scroll(Condition("kind", "=", kind), fields=["kind"], with_vectors=True)
            return np.stack([one.vector for one in islice(records, _PICTURES) if one.vector is not None])
    return None
