"""Bringing manifest and store to agree: after a kill, after one of them was restored or lost, and at the end of a run.

Cheap checks come first: both keep the generation of the last run that changed them, and the number of points.

Taking files out of an index, as if they had vanished from the disk.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tsembed_search.documents.document import FORMATS
from tsembed_search.errors import StoreError
from tsembed_search.indexer.manifest import NAME, Content, FileRow, Manifest, packed, unpacked
from tsembed_search.ownership import owned
from tsembed_search.paths import file_path
from tsembed_search.store import opening
from tsembed_search.store.filters import Condition
from tsembed_search.store.schema import place_of

if TYPE_CHECKING:
    from pathlib import Path

    from tsembed_search.errors import DamagedIndexError
    from tsembed_search.paths import IndexAddress
    from tsembed_search.store.base import Record, Store


_SALVAGED: Final = "salvaged"  # see `store/salvage.py`

_GENERATION: Final = "generation"

_NEXT_GENERATION: Final = "next_generation"

_GROUP: Final = 200


def agree(manifest: Manifest, store: Store, note: Callable[[str], None]) -> None:
    """Mends what a kill has left, then rebuilds the manifest if it and the store still tell of different things."""
    known = manifest.get(_GENERATION)
    told = store.metadata.get(_GENERATION)
    sound = (store.metadata.get(_SALVAGED) or "") == (manifest.get(_SALVAGED) or "")
    if sound and told in (known, manifest.get(_NEXT_GENERATION)):
        _look_up_unsettled(manifest, store)
        if store.count() == manifest.counts()[1]:
            return
    elif sound and known is None and told is None and store.count() == 0:
        return
    note("The index and its manifest do not agree; the manifest is being rebuilt from the index.")
    rebuild_manifest(manifest, store)


def salvaged(address: IndexAddress, error: DamagedIndexError, note: Callable[[str], None]) -> None:
    """Rescues what can be read of a store that gave `error`. The caller owns the index."""
    note(f"{error.message} What can be read is being kept; the rest will be embedded again.")
    kept = opening.salvage(address)
    note(f"{kept:,} items were kept.")


def begin_changes(manifest: Manifest, store: Store) -> None:
    """Gives this run's generation to both, before the first change. A kill in between is noticed by neither."""
    generation = uuid.uuid4().hex
    manifest.put(_NEXT_GENERATION, generation)
    store.write_metadata(store.metadata | {_GENERATION: generation})
    manifest.put(_GENERATION, generation)


def _look_up_unsettled(manifest: Manifest, store: Store) -> None:
    for content in manifest.unsettled():
        manifest.correct([Content(content.sha, content.recipe, True, _points_of(store, content.sha))])


def _points_of(store: Store, sha: bytes) -> bytes:
    found = store.scroll(Condition("sha", "=", sha.hex()), fields=["sha"])
    return packed(sorted(record.id for record in found))


def rebuild_manifest(manifest: Manifest, store: Store) -> int:
    """Makes the manifest say what the store has; returns the number of points.

    Files that were not known are taken over as to be looked into again: the next run hashes them, reads documents for
    pieces that may be missing, and embeds nothing that is there.
    """
    total = 0
    with manifest.transaction() as db:
        db.execute("DROP TABLE IF EXISTS temp.engine")
        db.execute("CREATE TEMP TABLE engine (sha BLOB, id BLOB, whole INTEGER, PRIMARY KEY (sha, id)) WITHOUT ROWID")
    page: list[Record] = []
    for record in store.scroll(fields=["sha", "places", "page", "chunk", "bytes"]):
        page.append(record)
        total += 1
        if len(page) == _GROUP:
            _take_over(manifest, page)
            page = []
    _take_over(manifest, page)
    _settle(manifest)
    begin_changes(manifest, store)
    manifest.put(_SALVAGED, store.metadata.get(_SALVAGED) or "")
    return total


def _take_over(manifest: Manifest, records: list[Record]) -> None:
    files: dict[str, FileRow] = {}
    rows: list[tuple[bytes, bytes, bool]] = []
    for record in records:
        payload = record.payload
        sha = bytes.fromhex(payload["sha"])
        rows.append((sha, uuid.UUID(record.id).bytes, payload.get("page") is None and payload.get("chunk") is None))
        for place in payload["places"]:
            path, root = str(file_path(place["path"])), str(file_path(place["root"]))
            files[path] = FileRow(path, root, -1, round(place["mtime"] * 1e9), 0, sha, "", None)
    with manifest.transaction() as db:
        db.executemany("INSERT OR IGNORE INTO engine VALUES (?, ?, ?)", rows)
    manifest.correct((), files.values())


def _settle(manifest: Manifest) -> None:
    """Contents become what the engine has. A picture file is one point, so it is complete; a document may not be."""
    with manifest.transaction() as db:
        known = {
            sha: (recipe, pending, points)
            for sha, recipe, pending, points in db.execute("SELECT sha, recipe, pending, points FROM contents")
        }
        corrected: list[Content] = []
        for sha, ids, whole in db.execute("SELECT sha, group_concat(hex(id), ''), max(whole) FROM engine GROUP BY sha"):
            points = bytes.fromhex(ids)
            recipe, pending, before = known.pop(sha, ("", 1, b""))
            if pending or _ids(before) != _ids(points):
                single = bool(whole) and len(points) == 16
                corrected.append(
                    Content(sha, FORMATS.get("image").recipe(pages=False) if single else recipe, not single, points)
                )
        corrected += [Content(sha, recipe, True, b"") for sha, (recipe, _, _) in known.items()]
    manifest.correct(corrected)


def _ids(points: bytes) -> frozenset[bytes]:
    return frozenset(points[at : at + 16] for at in range(0, len(points), 16))


def update_places(manifest: Manifest, store: Store, tick: Callable[[], None]) -> None:
    """Writes into the store where contents are now, for those that have moved, been copied or lost a copy."""
    while contents := manifest.moved(_GROUP):
        for content in contents:
            places = [place_of(file.path, file.root, file.mtime_ns) for file in manifest.files(content.sha)]
            if places:
                payload: dict[str, Any] = {**places[0], "places": places}
                for id in content.ids:
                    store.set_payload(id, payload)
            tick()
        manifest.settle_places(content.sha for content in contents)


def sweep(manifest: Manifest, store: Store, tick: Callable[[], None]) -> int:
    """Removes the points of contents that no file has any more; returns how many."""
    removed = 0
    while contents := manifest.homeless(_GROUP):
        manifest.begin_removal([content.sha for content in contents])
        for content in contents:
            points = unpacked(_points_of(store, content.sha)) if content.pending else content.ids
            store.delete(points)
            removed += len(points)
            tick()
        manifest.drop(content.sha for content in contents)
    return removed


@dataclass(frozen=True)
class Removed:
    """How many files left the index, and how many points left the store: a content with another place stays."""

    files: int
    items: int


def remove_files(folder: Path, store: Store, paths: Iterable[str], *, wait: float | None = 0.0) -> Removed:
    """Takes these files (absolute paths, as the system spells them) out of the index in `folder`; the disk is not
    touched. The next run over them adds them again.

    Raises `IndexBusyError` while another process owns the index, and `StoreError`.
    """
    with owned(folder, "removing", wait=wait), closing(Manifest(folder / NAME)) as manifest:
        agree(manifest, store, _unheard)
        known = [path for path in paths if manifest.file(path) is not None]
        if not known:
            return Removed(0, 0)
        begin_changes(manifest, store)
        manifest.forget(known)
        items = sweep(manifest, store, _untold)
        update_places(manifest, store, _untold)
        return Removed(len(known), items)


def remove_index(address: IndexAddress, *, wait: float | None = 0.0) -> None:
    """Deletes the store, and then what is remembered of it in the index's folder.

    Raises `IndexBusyError` while another process owns the index, and `StoreError`.
    """
    with owned(address.folder, "removing", wait=wait):
        opening.delete(address)
        _forget_manifest(address.folder)
    shutil.rmtree(address.folder, ignore_errors=True)


def rescue(
    address: IndexAddress, error: DamagedIndexError, note: Callable[[str], None], *, wait: float | None = 0.0
) -> None:
    """Keeps what can be read of a store that gave `error`.

    Raises `IndexBusyError` while another process owns the index, and `StoreError`.
    """
    with owned(address.folder, "repairing", wait=wait):
        salvaged(address, error, note)


def repair(folder: Path, store: Store, *, wait: float | None = 0.0) -> tuple[int, int]:
    """Makes the manifest of the index in `folder` again from what the store has; returns (files, points).

    A manifest that is damaged is replaced. Raises `IndexBusyError` while another process owns the index.
    """
    with owned(folder, "repairing", wait=wait):
        _forget_manifest(folder)
        with closing(Manifest(folder / NAME)) as manifest:
            points = rebuild_manifest(manifest, store)
            return manifest.counts()[0], points


def _forget_manifest(folder: Path) -> None:
    for path in folder.glob(f"{NAME}*"):
        try:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        except OSError as error:
            raise StoreError(
                f"Cannot remove {path}: {error.strerror or error}.", "Check who owns the index's folder and its files."
            ) from error


def _unheard(message: str) -> None:
    """Mending tells of itself only to who watches."""


def _untold() -> None:
    """No progress is shown."""
