"""Synthetic points with real payloads, and what an exhaustive search in numpy finds among them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tsembed_search.paths import IndexAddress
from tsembed_search.store.base import Payload, Point
from tsembed_search.store.filters import Filter, matches
from tsembed_search.store.schema import point_id, route_fields, with_path_keys

DIM = 16
KINDS = ("image", "text", "page")
EXTS = ("jpg", "png", "pdf", "txt")
FOLDERS = (
    *("/pics/holiday", "/pics/holiday/2019", "/pics/my-holiday", "/docs", "/docs/a b", "/docs/ünï(1)"),
    *("/docs/Zu\u0308rich", "/docs/Zürich", "/docs/Cafe\u0301/Müller"),
)


def address_of(folder: Path) -> IndexAddress:
    """The address of an embedded index in a folder of its own."""
    return IndexAddress(folder.name, f"edge:{folder.parent}")


def make_payload(number: int, rng: np.random.Generator) -> Payload:
    """A payload that obeys `schema.ItemPayload`."""
    places = []
    for copy in range(1 + (number % 7 == 0)):
        ext = EXTS[int(rng.integers(len(EXTS)))]
        folder = FOLDERS[int(rng.integers(len(FOLDERS)))]
        path = f"{folder}/item{number}{'-copy' * copy}.{ext}"
        root = "/pics" if path.startswith("/pics") else "/docs"
        mtime = 1.7e9 + float(rng.integers(1000)) + 0.25
        places.append({"path": path, "root": root, "rel": path[len(root) + 1 :], "ext": ext, "mtime": mtime})
    kind = KINDS[int(rng.integers(3))]
    route = rng.standard_normal(8)
    payload = {
        "kind": kind,
        **places[0],
        "places": places,
        "page": None if kind == "image" else int(rng.integers(1, 6)),
        "chunk": int(rng.integers(4)) if kind == "text" else None,
        "text": f"Some text, {number} é 日本" if kind == "text" else None,
        "width": 640,
        "height": 480,
        "bytes": 12345,
        "sha": f"{number:064x}",
        "model": "model-a",
        "indexed_at": 1.7e9,
        **route_fields((route / np.linalg.norm(route)).astype(np.float32)),
        "top_experts": [f"b{int(rng.integers(2))}e{int(rng.integers(4))}" for _ in range(2)],
    }
    return with_path_keys(payload)


def make_points(count: int, dim: int = DIM, seed: int = 0) -> list[Point]:
    """`count` points in clusters, each with its own id."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(4, count // 50), dim))
    vectors = centres[rng.integers(len(centres), size=count)] + 0.7 * rng.standard_normal((count, dim))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return [
        Point(point_id(f"{number:064x}", None, None, "model-a"), vectors[number], make_payload(number, rng))
        for number in range(count)
    ]


def make_queries(count: int, dim: int = DIM, seed: int = 1) -> NDArray[np.float32]:
    """Unit vectors `[count, dim]`."""
    queries = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return (queries / np.linalg.norm(queries, axis=1, keepdims=True)).astype(np.float32)


def nearest(points: Sequence[Point], query: NDArray[np.float32], where: Filter | None = None) -> dict[str, float]:
    """Id and cosine of every point that matches, best first: the answer that each engine has to give."""
    chosen = [point for point in points if matches(where, point.payload)]
    if not chosen:
        return {}
    scores = np.stack([point.vector for point in chosen]) @ query
    return {chosen[at].id: float(scores[at]) for at in np.argsort(-scores, kind="stable")}
