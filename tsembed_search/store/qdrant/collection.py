"""The collection that an index is on a Qdrant server: its name, its settings, and what its metadata says.

Metadata are merged key by key when they are written, so all of ours is under one key, `tsembed`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

from tsembed_search.errors import StoreError
from tsembed_search.store.base import HNSW_EF_CONSTRUCT, HNSW_M, StoreSettings
from tsembed_search.store.qdrant.connection import Connection
from tsembed_search.store.schema import CONCEPTS_NAME, PAYLOAD_INDEXES, SCHEMA_VERSION, VECTOR_NAME, WORDS_NAME

OLDEST: Final = (1, 16)
"""The first version of the server that keeps metadata with a collection."""

NEWEST_KNOWN: Final = (1, 20)
_KEY: Final = "tsembed"


def name_of(index: str) -> str:
    """Return the name of an index's collection."""
    return f"tsembed-{index}"


def version(connection: Connection) -> tuple[int, int]:
    """Ask for the server's version. Raises `StoreError` when it is too old, or no Qdrant server."""
    if connection.in_memory:
        return NEWEST_KNOWN
    text = connection.ask("ask for the version", lambda: str(connection.client.info().version))
    found = re.match(r"(\d+)\.(\d+)", text)
    number = (int(found[1]), int(found[2])) if found else (0, 0)
    if number < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise StoreError(
            f"The Qdrant server at {connection.place} has version {text}; {oldest} or newer is needed.",
            "Update the server.",
        )
    return number


def exists(connection: Connection, index: str) -> bool:
    """Tell whether the server has a collection of this index's name."""
    look = partial(connection.client.collection_exists, name_of(index))
    return connection.ask(f"look for the index {index!r}", look)


def create(connection: Connection, index: str, settings: StoreSettings) -> None:
    """Make the collection and its payload indexes. Raises `StoreError` when it exists or the server refuses."""
    from qdrant_client import models
    from qdrant_client.http.exceptions import UnexpectedResponse

    tries = 0
    sparse = {WORDS_NAME: models.SparseVectorParams(modifier=models.Modifier.IDF)}
    if settings.concepts:
        sparse[CONCEPTS_NAME] = models.SparseVectorParams()

    def make() -> None:
        nonlocal tries
        tries += 1
        try:
            connection.client.create_collection(
                name_of(index),
                vectors_config={VECTOR_NAME: models.VectorParams(size=settings.dim, distance=models.Distance.COSINE)},
                sparse_vectors_config=sparse,
                hnsw_config=models.HnswConfigDiff(m=HNSW_M, ef_construct=HNSW_EF_CONSTRUCT),
                quantization_config=_quantization(settings),
                shard_number=settings.shards,
                replication_factor=settings.replicas,
                metadata=content_of(settings, {}),
            )
        except UnexpectedResponse as error:
            # Made by an earlier try whose answer was lost.
            if error.status_code != 409 or tries == 1:
                raise

    connection.ask(f"create the index {index!r}", make, connection.writing)
    _add_payload_indexes(connection, index, list(PAYLOAD_INDEXES))


def read(connection: Connection, index: str) -> tuple[StoreSettings, dict[str, Any]]:
    """Read settings and metadata; payload indexes that a creation cut short has left out are added.

    Raises `StoreError` when there is no such collection, or when it is not one of ours.
    """
    if not exists(connection, index):
        raise StoreError(
            f"There is no index called {index!r} on {connection.place}.",
            "Index some files first, or choose another index: {index}.",
        )
    facts = connection.ask(f"open the index {index!r}", partial(connection.client.get_collection, name_of(index)))
    parameters = facts.config.params
    vectors = parameters.vectors.get(VECTOR_NAME) if isinstance(parameters.vectors, dict) else None
    content = (facts.config.metadata or {}).get(_KEY)
    if (
        vectors is None
        or vectors.distance.value != "Cosine"
        or not isinstance(content, dict)
        or content.get("quantize", "none") not in ("none", "scalar", "binary")
        or not isinstance(content.get("metadata") or {}, dict)
    ):
        raise StoreError(
            f"The collection {name_of(index)} on {connection.place} was not made by tsembed.",
            "Choose another name: {index}.",
        )
    if content.get("schema") != SCHEMA_VERSION:
        raise StoreError(
            f"The index {index!r} was made by another version of tsembed "
            f"(layout {content.get('schema')}, this one has {SCHEMA_VERSION}).",
            f"Make it again: delete the collection {name_of(index)} and index the files anew, or choose another name: "
            "{index}.",
        )
    _add_payload_indexes(connection, index, [key for key in PAYLOAD_INDEXES if key not in (facts.payload_schema or ())])
    settings = StoreSettings(
        dim=int(vectors.size),
        quantize=content.get("quantize", "none"),
        shards=parameters.shard_number or 1,
        replicas=parameters.replication_factor or 1,
        concepts=CONCEPTS_NAME in (parameters.sparse_vectors or {}),
    )
    return settings, dict(content.get("metadata") or {})


def content_of(settings: StoreSettings, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return a collection's metadata: what the index says of itself, and the settings that a server does not keep."""
    return {_KEY: {"schema": SCHEMA_VERSION, "quantize": settings.quantize, "metadata": dict(metadata)}}


def _add_payload_indexes(connection: Connection, index: str, keys: Sequence[str]) -> None:
    if connection.in_memory:
        return  # It has none, and needs none.
    from qdrant_client import models

    for key in keys:
        kind = models.PayloadSchemaType(PAYLOAD_INDEXES[key])
        add = partial(connection.client.create_payload_index, name_of(index), key, kind, wait=True)
        connection.ask(f"index the field {key}", add, connection.writing)


def _quantization(settings: StoreSettings) -> Any:
    from qdrant_client import models

    if settings.quantize == "scalar":
        scalar = models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.99, always_ram=True)
        return models.ScalarQuantization(scalar=scalar)
    if settings.quantize == "binary":
        query = models.BinaryQuantizationQueryEncoding.SCALAR8BITS
        return models.BinaryQuantization(binary=models.BinaryQuantizationConfig(always_ram=True, query_encoding=query))
    return None
