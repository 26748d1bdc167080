"""Bringing manifest and store to agree: after a kill, after one of them was restored or lost, and at the end of a run.

Cheap checks come first: both keep the generation of the last run that changed them, and the number of points. Files
are taken out of an index here, too, as if they had vanished from the disk.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tsembed_search.documents.document import FORMATS
from tsembed_search.errors import StoreError
from tsembed_search.indexer.database import UNSURE, WORDS_FIRST, Content, FileRow, packed
from tsembed_search.indexer.manifest import NAME, Manifest, Told
from tsembed_search.indexer.report import Amount
from tsembed_search.paths import file_path
from tsembed_search.store import opening
from tsembed_search.store.filters import Condition
from tsembed_search.store.schema import VECTORLESS, place_of

if TYPE_CHECKING:
    from tsembed_search.errors import DamagedIndexError
    from tsembed_search.paths import IndexAddress
    from tsembed_search.store.base import Record, Store

_SALVAGED: Final = "salvaged"  # see `store/edge/salvage.py`
_GENERATION: Final = "generation"
_NEXT_GENERATION: Final = "next_generation"
_GROUP: Final = 200
_POINTS: Final = 500
_PORTION: Final = 5000  # points that are taken over at once: each time, SQLite waits for the disk


def agree(manifest: Manifest, store: Store, note: Callable[[str], None]) -> None:
    """Mend what a kill has left, then rebuild the manifest if it and the store still tell of different things."""
    known = manifest.get(_GENERATION)
    told = store.metadata.get(_GENERATION)
    sound = (store.metadata.get(_SALVAGED) or "") == (manifest.get(_SALVAGED) or "")
    if sound and told in (known, manifest.get(_NEXT_GENERATION)):
        unsettled = manifest.unsettled()
        for at in range(0, len(unsettled), _GROUP):
            manifest.correct(_looked_up(store, unsettled[at : at + _GROUP]))
        if store.count() == manifest.counts()[1]:
            return
    elif sound and known is None and told is None and store.count() == 0:
        return
    note("The index and its manifest do not agree; the manifest is being rebuilt from the index.")
    rebuild_manifest(manifest, store)


def salvage(address: IndexAddress, error: DamagedIndexError, note: Callable[[str], None]) -> None:
    """Rescue what can be read of a store that gave `error`. The caller owns the index."""
    note(f"{error.message} What can be read is being kept; the rest will be embedded again.")
    kept = opening.salvage(address)
    note(f"{kept:,} items were kept.")


def begin_changes(manifest: Manifest, store: Store) -> None:
    """Give this run's generation to both, before the first change. A kill in between is noticed by neither."""
    generation = uuid.uuid4().hex
    manifest.put(_NEXT_GENERATION, generation)
    store.write_metadata(store.metadata | {_GENERATION: generation})
    manifest.put(_GENERATION, generation)


def _looked_up(store: Store, contents: Sequence[Content]) -> list[Content]:
    """The contents with those points that the store has."""
    ids: dict[str, list[str]] = {content.sha.hex(): [] for content in contents}
    bare: set[str] = set()
    for record in store.scroll(Condition("sha", "in", tuple(ids)), fields=["sha", VECTORLESS]) if ids else ():
        ids[record.payload["sha"]].append(record.id)
        if record.payload.get(VECTORLESS):
            bare.add(record.payload["sha"])
    return [
        replace(
            content,
            points=packed(sorted(ids[content.sha.hex()])),
            recipe=_bare(content.recipe) if content.sha.hex() in bare else content.recipe,
        )
        for content in contents
    ]


def _bare(recipe: str) -> str:
    """The recipe of a content of which a point has no vector: so none of its points is taken for finished."""
    return recipe if recipe.startswith(WORDS_FIRST) else f"{WORDS_FIRST}{recipe}"


def rebuild_manifest(manifest: Manifest, store: Store) -> int:
    """Make the manifest say what the store has; returns the number of points.

    Files that were not known are taken over as to be looked into again: the next run hashes them, reads documents for
    pieces that may be missing, and embeds nothing that is there.
    """
    records = store.scroll(fields=["sha", "places", "page", "chunk", "bytes", VECTORLESS])
    bare: set[bytes] = set()
    portions = (_told(some, bare) for some in iter(lambda: list(islice(records, _PORTION)), []))
    total = manifest.rebuild(portions, FORMATS.get("image").recipe(pages=False))
    manifest.need_vectors(bare)
    begin_changes(manifest, store)
    manifest.put(_SALVAGED, store.metadata.get(_SALVAGED) or "")
    return total


def _told(records: Sequence[Record], bare: set[bytes]) -> tuple[list[Told], Iterable[FileRow]]:
    files: dict[str, FileRow] = {}
    points: list[Told] = []
    for record in records:
        payload = record.payload
        sha = bytes.fromhex(payload["sha"])
        if payload.get(VECTORLESS):
            bare.add(sha)
        points.append((sha, uuid.UUID(record.id).bytes, payload.get("page") is None and payload.get("chunk") is None))
        for place in payload["places"]:
            path, root = str(file_path(place["path"])), str(file_path(place["root"]))
            files[path] = FileRow(path, root, UNSURE, round(place["mtime"] * 1e9), 0, sha, "", None)
    return points, files.values()


def update_places(manifest: Manifest, store: Store, tick: Callable[[], None]) -> None:
    """Write into the store where contents are now, for those that have moved, been copied or lost a copy."""
    while contents := manifest.moved(_GROUP):
        payloads: dict[str, dict[str, Any]] = {}
        for content in contents:
            places = [place_of(file.path, file.root, file.mtime_ns) for file in manifest.files(content.sha)]
            if places:
                payload = {**places[0], "places": places}
                payloads.update((id, payload) for id in content.ids)
            if len(payloads) >= _POINTS:
                store.set_payloads(payloads)
                payloads = {}
            tick()
        store.set_payloads(payloads)
        manifest.settle_places(content.sha for content in contents)


def sweep(manifest: Manifest, store: Store, tick: Callable[[], None]) -> int:
    """Remove the points of contents that no file has any more; returns how many."""
    removed, last = 0, b""
    while contents := manifest.homeless(_GROUP, after=last):
        last = contents[-1].sha
        manifest.begin([(content.sha, content.recipe) for content in contents])
        sure = [content for content in contents if not content.pending]
        unsure = _looked_up(store, [content for content in contents if content.pending])
        points = [id for content in (*sure, *unsure) for id in content.ids]
        store.delete(points)
        removed += len(points)
        tick()
        manifest.drop(content.sha for content in contents)
    return removed


def remove_files(folder: Path, store: Store, paths: Iterable[str]) -> Amount:
    """Take files (absolute paths, as the system spells them) out of the index in `folder`; the disk is not touched.

    The next run over them adds them again. The caller owns the index. Raises `StoreError`.
    """
    with closing(Manifest(folder / NAME)) as manifest:
        agree(manifest, store, unheard)
        known = [path for path in paths if manifest.file(path) is not None]
        if not known:
            return Amount(0, 0)
        begin_changes(manifest, store)
        manifest.forget(known)
        items = sweep(manifest, store, unheard)
        update_places(manifest, store, unheard)
        return Amount(len(known), items)


def remove_index(address: IndexAddress) -> None:
    """Delete the store, and then what is remembered of it. The caller owns the index. Raises `StoreError`."""
    opening.delete(address)
    forget_manifest(address.folder)


def repair(folder: Path, store: Store) -> Amount:
    """Make the manifest of the index in `folder` again from what the store has; returns how much that is.

    A manifest that is damaged is replaced. The caller owns the index.
    """
    forget_manifest(folder)
    with closing(Manifest(folder / NAME)) as manifest:
        points = rebuild_manifest(manifest, store)
        return Amount(manifest.counts()[0], points)


def forget_manifest(folder: Path) -> None:
    """Remove the manifest's files. Raises `StoreError`."""
    for path in folder.glob(f"{NAME}*"):
        try:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        except OSError as error:
            raise StoreError(
                f"Cannot remove {path}: {error.strerror or error}.", "Check who owns the index's folder and its files."
            ) from error


def unheard(message: str = "") -> None:
    """Tell nobody."""
