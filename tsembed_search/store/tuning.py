"""The search graph's settings, the same on every engine. `benchmarks/scale.py` measures what they give."""

from __future__ import annotations

from typing import Final

HNSW_M: Final = 16
HNSW_EF_CONSTRUCT: Final = 100
HNSW_EF: Final = 128
FILTERED_HNSW_EF: Final = 96
"""Candidates that a search keeps. Those of a filtered search cost more, for each is looked up in a payload index, and
most filters have links of their own in the graph: fewer suffice."""

OVERSAMPLING: Final = {"none": 1.0, "scalar": 2.0, "binary": 16.0}
"""How many times the wanted number of hits is scored again with the original vectors: enough for recall@10 of 0.99."""
