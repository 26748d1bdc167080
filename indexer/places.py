"""Where a content was found, as the payload of its points says it."""

from __future__ import annotations

from pathlib import Path

from tsembed_search.paths import indexed_form, name_form
from tsembed_search.store.schema import Place


def place_of(path: str, root: str, mtime_ns: int) -> Place:
    """The place of one file; the paths as the system spells them."""
    full, base = Path(path), Path(root)
    return {
        "path": indexed_form(full),
        "root": indexed_form(base),
        "rel": indexed_form(full.relative_to(base)),
        "ext": name_form(indexed_form(Path(full.suffix[1:].lower()))) if full.suffix else "",
        "mtime": mtime_ns / 1e9,
    }
