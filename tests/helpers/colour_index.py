"""Fills an index of the colours model with items that a test describes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tsembed_search.items import Item
from tsembed_search.model.embedder import Embedder
from tsembed_search.store.base import Point, Store
from tsembed_search.store.schema import point_id, route_fields


class Maker:
    """Fills a store with items that a test describes."""

    def __init__(self, store: Store, embedder: Embedder, folder: Path) -> None:
        self.store, self.embedder, self.folder = store, embedder, folder

    def add(
        self,
        item: Item,
        path: str,
        *,
        page: int | None = None,
        chunk: int | None = None,
        kind: str | None = None,
        also_at: tuple[str, ...] = (),
        sha: str | None = None,
    ) -> str:
        """Stores one point and returns its id. Points of the same path are one content, unless their hash is given."""
        embedded = self.embedder.embed([item])
        places = [self._place(each) for each in (path, *also_at)]
        sha = sha or f"sha of {path}"
        id = point_id(sha, page, chunk, self.embedder.info.fingerprint)
        payload: dict[str, Any] = {
            **places[0], "kind": kind or ("text" if item.image is None else "image"), "places": places, "page": page,
            "chunk": chunk, "text": item.text, "width": None, "height": None, "bytes": 1, "sha": sha,
            "model": self.embedder.info.fingerprint, "indexed_at": 0.0,
        }  # fmt: skip
        if embedded.routes.shape[1]:
            payload |= {**route_fields(embedded.routes[0]), "top_experts": ["b0e1"]}
        self.store.upsert([Point(id, embedded.vectors[0], payload)])
        return id

    def _place(self, path: str) -> dict[str, Any]:
        full = (self.folder / path).as_posix()
        return {"path": full, "root": str(self.folder), "rel": path, "ext": path.rpartition(".")[2], "mtime": 1e9}


def solid(*rgb: int, size: int = 8) -> np.ndarray:
    """A picture of one colour, uint8 RGB."""
    return np.full((size, size, 3), rgb, dtype=np.uint8)
