"""The search graph's settings, the same on every engine. `benchmarks/scale.py` measures what they give."""

from __future__ import annotations

from typing import Final

HNSW_M: Final = 32
"""So many links hold the graph together for a filter that two fifths of the points pass; building takes no longer."""

HNSW_EF_CONSTRUCT: Final = 100
HNSW_EF: Final = 128
FILTERED_HNSW_EF: Final = 192
DETOUR_EF: Final = 40
"""Candidates that a search keeps: without a filter, with one, and on a detour (`selectivity.py`). A detour looks at
hundreds of points for each."""

OVERSAMPLING: Final = {"none": 1.0, "scalar": 2.0, "binary": 16.0}
"""How many times the wanted number of hits is scored again with the original vectors: enough for recall@10 of 0.99."""
