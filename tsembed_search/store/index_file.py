"""`index.json`: settings of an embedded store and metadata of its index, which the engine itself cannot keep."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tsembed_search import private
from tsembed_search.errors import StoreError
from tsembed_search.store.base import StoreSettings
from tsembed_search.store.schema import PATH_KEYS, PATH_KEYS_VERSION, SCHEMA_VERSION

NAME = "index.json"


def read(folder: Path) -> tuple[StoreSettings, dict[str, Any]]:
    """The settings and the metadata. Raises `StoreError` when there is no index or its file cannot be read."""
    path = folder / NAME
    damaged = "Restore it from a backup, or delete the folder and index again."
    try:
        data = json.loads(path.read_text("utf-8"))
        if data["schema"] != SCHEMA_VERSION:
            raise StoreError(
                f"The index in {folder} has layout {data['schema']}; this program knows {SCHEMA_VERSION}.",
                "Update tsembed, or index again under another name.",
            )
        settings = StoreSettings(**data["store"], path_keys=data.get(PATH_KEYS) == PATH_KEYS_VERSION)
        return settings, dict(data["metadata"])
    except FileNotFoundError:
        raise StoreError(f"There is no index in {folder}.", "Make one with `tsembed index PATH`.") from None
    except OSError as error:
        raise StoreError(f"Cannot read {path}: {error.strerror}.", "Check the permissions of the folder.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} is damaged: {error}.", damaged) from error


def write(folder: Path, settings: StoreSettings, metadata: Mapping[str, Any]) -> None:
    """Replaces the file as a whole: whoever reads it, even after a power cut, sees the old or the new one."""
    store = asdict(settings)
    # Beside the others, so that a version that knows nothing of it drops it when it writes: its points have none.
    path_keys = PATH_KEYS_VERSION if store.pop(PATH_KEYS) else False
    data = {"schema": SCHEMA_VERSION, "store": store, PATH_KEYS: path_keys, "metadata": dict(metadata)}
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
