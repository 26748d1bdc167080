"""A Qdrant Edge shard on the disk: making and opening it, its disk space, its errors in words; and `index.json`."""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from tsembed_search import private
from tsembed_search.errors import DamagedIndexError, IndexBusyError, StoreError
from tsembed_search.store.base import HNSW_EF_CONSTRUCT, HNSW_M, StoreSettings
from tsembed_search.store.schema import CONCEPTS_NAME, PAYLOAD_INDEXES, SCHEMA_VERSION, VECTOR_NAME, WORDS_NAME

NAME: Final = "index.json"
"""The file with the settings of the store and the metadata of its index, which the engine itself cannot keep."""

INDEXING_THRESHOLD_KB: Final = 20_000
"""Vectors of this many kilobytes are searched in 2 to 3 ms without HNSW, so a smaller index does without."""

SCAN_KB: Final = 45_000
"""Where a filter lets vectors of fewer kilobytes pass, the engine compares all of them: a walk would take longer."""

GRAPHS: Final = 3
"""Segments that the engine aims at: one graph, one of what came later, and what has none yet. With fewer, every build
would write all of the shard again."""

POINTS: Final = ("points", "points.2")
"""The folders that a shard may be in: a new graph is built in the other one, and `index.json` then names that."""

FLUSH_BYTES: Final = 64 << 20
"""Points since the last flush are in the write-ahead log only; a flush keeps the log, and re-opening, short."""

OPEN_RESERVE: Final = 32 << 20
WRITE_RESERVE: Final = 128 << 20
"""Free bytes needed to open and to write. The engine maps files into memory: on a full disk it would die by SIGBUS."""

# What may pass, as the engine spells it: a lock, a full disk, rights; and the system's own trouble (input and output,
# memory, open files, read-only).
_NOT_DAMAGE: Final = (
    *("WouldBlock", "No space left", "Permission denied"),
    *(f"os error {number})" for number in (5, 12, 23, 24, 30)),
)

_UNWRITABLE: Final = ("Permission denied", *(f"os error {number})" for number in (1, 13, 30)))
_REPAIR: Final = (
    "Repair the index ({repair()}): that keeps what can be read, and the next indexing embeds the rest again."
)


def create(folder: Path, settings: StoreSettings) -> Any:
    """Make a shard with its payload indexes. Raises `StoreError` when there are points in the folder already."""
    import qdrant_edge as engine

    need_space(folder.parent, WRITE_RESERVE)
    remove_unfinished(folder)
    shard = engine.EdgeShard.create(os.fspath(folder), config(settings))
    for key, kind in PAYLOAD_INDEXES.items():
        shard.update(engine.UpdateOperation.create_field_index(key, _index_parameters(key, kind)))
    shard.flush()
    return shard


def load(folder: Path, settings: StoreSettings) -> Any:
    """The shard in a folder, with this program's engine settings."""
    import qdrant_edge as engine

    if not folder.is_dir():
        raise DamagedIndexError(f"The items of this index are missing: {folder} does not exist.", _REPAIR)
    need_space(folder, OPEN_RESERVE)
    return engine.EdgeShard.load(os.fspath(folder), config(settings))


def need_space(folder: Path, size: int) -> None:
    """Raise `StoreError` unless `size` bytes are free. The engine cannot be asked to: see `WRITE_RESERVE`."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise StoreError(
            f"The disk of {folder} is full: {free >> 20} MiB are free, {-(-size >> 20)} MiB are needed.",
            "Free some space and try again; nothing that was indexed is lost.",
        )


def disk_bytes(folder: Path) -> int:
    """Return the bytes that the files occupy; the engine's are sparse, so their sizes say little."""
    total = 0
    for path in folder.rglob("*"):
        try:
            facts = path.stat()
        except FileNotFoundError:
            continue
        total += getattr(facts, "st_blocks", -(-facts.st_size // 512)) * 512
    return total


@contextmanager
def explained(doing: str, folder: Path) -> Iterator[None]:
    """Turn whatever fails inside into a `StoreError` that says what was being done to which index."""
    try:
        yield
    except BaseException as error:
        if not _native(error) and not isinstance(error, OSError | ValueError | TypeError | OverflowError):
            raise
        raise _in_words(error, doing, folder) from error


def is_damage(error: BaseException) -> bool:
    """Tell whether the engine could not make sense of its files, rather than not get at them."""
    return _native(error) and not any(reason in str(error) for reason in _NOT_DAMAGE)


def is_unwritable(error: BaseException) -> bool:
    """Tell whether what failed was to open files for writing: on a read-only disk, or without the right to."""
    if isinstance(error, OSError):
        return error.errno in (errno.EROFS, errno.EACCES, errno.EPERM)
    return _native(error) and any(reason in str(error) for reason in _UNWRITABLE)


def _native(error: BaseException) -> bool:
    """The engine raises bare `Exception`s, and a panic in its native code arrives as a `BaseException`."""
    return type(error) is Exception or type(error).__name__ == "PanicException"


def config(settings: StoreSettings, graph_from_kb: int | None = None) -> Any:
    """Return the engine's settings. A graph is built of vectors of `graph_from_kb`, usually `INDEXING_THRESHOLD_KB`."""
    import qdrant_edge as engine

    quantization = {
        "none": None,
        "scalar": engine.ScalarQuantizationConfig(engine.ScalarType.Int8, quantile=0.99, memory=engine.Memory.Pinned),
        "binary": engine.BinaryQuantizationConfig(
            query_encoding=engine.BinaryQuantizationQueryEncoding.Scalar8Bits, memory=engine.Memory.Pinned
        ),
    }[settings.quantize]
    sparse = {WORDS_NAME: engine.EdgeSparseVectorParams(modifier=engine.Modifier.Idf, on_disk=True)}
    if settings.concepts:
        sparse[CONCEPTS_NAME] = engine.EdgeSparseVectorParams(on_disk=True)
    # Beside compressed vectors, few of the others are read: they need not be in memory when the shard is opened.
    memory = None if settings.quantize == "none" else engine.Memory.Cold
    dense = engine.EdgeVectorParams(size=settings.dim, distance=engine.Distance.Cosine, memory=memory)
    return engine.EdgeConfig(
        vectors={VECTOR_NAME: dense},
        sparse_vectors=sparse,
        # Links among the points that share a value would take five times as long to build as the graph itself.
        hnsw_config=engine.HnswIndexConfig(HNSW_M, HNSW_EF_CONSTRUCT, full_scan_threshold=SCAN_KB, payload_m=0),
        quantization_config=quantization,
        optimizers=engine.EdgeOptimizersConfig(
            indexing_threshold=graph_from_kb or INDEXING_THRESHOLD_KB, default_segment_number=GRAPHS
        ),
    )


def _index_parameters(key: str, kind: str) -> Any:
    """The small payload indexes, which most filters ask, stay in memory: searches then take two thirds of the time. The
    others stay in files that the system caches: a tenth of the memory, for searches as fast.
    """
    import qdrant_edge as engine

    memory = engine.Memory.Pinned if key in ("kind", "page", "places[].mtime") else engine.Memory.Cold
    return {
        "keyword": engine.KeywordIndexParams(memory=memory),
        "integer": engine.IntegerIndexParams(lookup=True, range=True, memory=memory),
        "float": engine.FloatIndexParams(memory=memory),
    }[kind]


def remove_unfinished(shard_folder: Path) -> None:
    """Clear what a creation that was cut short has left. Raises `StoreError` when there are points in it."""
    import qdrant_edge as engine

    if not shard_folder.exists():
        return
    # The engine writes a segment's version last, and cannot open a shard of nothing but half made segments.
    if any((shard_folder / "segments").glob("*/version.info")):
        shard = engine.EdgeShard.load(os.fspath(shard_folder))
        points = shard.info().points_count
        shard.close()
        if points:
            raise StoreError(
                f"{shard_folder} holds {points} items, but the index.json beside it is missing.",
                "Restore that file from a backup, or delete the folder and index again.",
            )
    shutil.rmtree(shard_folder)


def _in_words(error: BaseException, doing: str, folder: Path) -> StoreError:
    text = str(error).strip()
    if "WouldBlock" in text:
        return IndexBusyError(
            f"Another process is using the index in {folder}.",
            "Wait until it has finished, or choose another index: {index}.",
        )
    cannot = f"Cannot {doing} {folder}"
    if "No space left" in text:
        return StoreError(f"{cannot}: the disk is full.", "Free some space and try again.")
    if isinstance(error, PermissionError) or "Permission denied" in text:
        return StoreError(f"{cannot}: permission denied.", "Check who owns the folder and its files.")
    if isinstance(error, OSError):
        return StoreError(f"{cannot}: {error.strerror or text}.")
    if isinstance(error, ValueError | TypeError | OverflowError):
        return StoreError(f"{cannot}: {text.splitlines()[0] if text else type(error).__name__}.")
    said = f"{cannot}: {text or type(error).__name__}."
    return DamagedIndexError(said, _REPAIR) if is_damage(error) else StoreError(said, "Try again.")


def read(folder: Path) -> tuple[StoreSettings, dict[str, Any]]:
    """Read settings and metadata. Raises `StoreError` when there is no index or its file cannot be read."""
    path = folder / NAME
    try:
        data = json.loads(path.read_text("utf-8"))
        if data["schema"] != SCHEMA_VERSION:
            raise StoreError(
                f"The index in {folder} was made by another version of tsembed "
                f"(layout {data['schema']}, this one has {SCHEMA_VERSION}).",
                "Make it again: delete that folder and index the files anew, or choose another name: {index}.",
            )
        return StoreSettings(**data["store"]), dict(data["metadata"])
    except FileNotFoundError:
        raise StoreError(f"There is no index in {folder}.", "Index some files first.") from None
    except OSError as error:
        raise StoreError(f"Cannot read {path}: {error.strerror}.", "Check the permissions of the folder.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{path} is damaged: {error}.", "Restore it from a backup, or delete the folder and index again."
        ) from error


def points_of(folder: Path) -> tuple[Path, int]:
    """Return the folder of an index's shard, and how many points were written since its graph was built.

    The index's file must be readable.
    """
    data = json.loads((folder / NAME).read_text("utf-8"))
    name, written = data.get("points"), data.get("written_since")
    return folder / (name if name in POINTS else POINTS[0]), written if isinstance(written, int) else 0


def other(points: Path) -> Path:
    """Return the folder in which what replaces a shard is made."""
    return points.with_name(POINTS[points.name == POINTS[0]])


def write(
    folder: Path, settings: StoreSettings, metadata: Mapping[str, Any], points: Path, written_since: int = 0
) -> None:
    """Replace the file as a whole: whoever reads it, even after a power cut, sees the old or the new one.

    `points` is the shard's folder: with it, another shard takes the place of the one before. See `points_of`.
    """
    data = {
        "schema": SCHEMA_VERSION,
        "store": asdict(settings),
        "points": points.name,
        "written_since": written_since,
        "metadata": dict(metadata),
    }
    text = json.dumps(data, indent=2, allow_nan=False)
    temporary = folder / f"index.json.{uuid.uuid4().hex}"
    try:
        with private.open_file(temporary, "w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / NAME)
    finally:
        temporary.unlink(missing_ok=True)
