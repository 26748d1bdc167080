"""The one way to fetch from a hub, models and data sets: from the local cache first, then by a download."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

from tsembed_search.errors import ModelError, UsageError
from tsembed_search.wording import brief

Kind = Literal["model", "dataset"]

MODEL_SETTINGS: Final = ("*.json",)
MODEL_FILES: Final = (*MODEL_SETTINGS, "*.safetensors")


class Snapshot(NamedTuple):
    """One commit of a repository on the hub, in the cache of this machine: its name, commit and folder."""

    name: str
    commit: str
    folder: Path


def snapshot_of(folder: Path) -> Snapshot | None:
    """Return the snapshot that a folder is in the hub's cache; None for any other folder."""
    kind, _, name = folder.parent.parent.name.partition("--")
    if folder.parent.name != "snapshots" or kind not in ("models", "datasets"):
        return None
    return Snapshot(name.replace("--", "/"), folder.name, folder)


def cached(name: str, revision: str | None = None) -> Path | None:
    """Return the folder of a model that was downloaded before, or None."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=True, allow_patterns=list(MODEL_FILES)))
    except (OSError, ValueError):  # not there, not readable, or no name that the hub could have
        return None


def cached_models() -> Iterator[tuple[str, Path]]:
    """Go over (hub name, snapshot folder) of every model in the hub's cache."""
    from huggingface_hub import constants

    root = Path(constants.HF_HUB_CACHE)
    for folder in sorted(root.glob("models--*--*")):
        name = folder.name.removeprefix("models--").replace("--", "/")
        if (snapshot := cached(name)) is not None:
            yield name, snapshot


def download(name: str, revision: str | None, files: Sequence[str], kind: Kind = "model") -> Path:
    """Fetch the files of a repository that match a pattern into the hub's cache, and return their folder.

    What is there already is not fetched again. Raises `ModelError`, for a data set `UsageError`, that says what to do:
    offline, no such repository, one that needs an agreement, or a full disk.
    """
    import httpx
    from huggingface_hub import errors, snapshot_download

    what, wanted = "data set" if kind == "dataset" else kind, name if revision is None else f"{name}@{revision}"
    said = ModelError if kind == "model" else UsageError
    try:
        return Path(snapshot_download(name, repo_type=kind, revision=revision, allow_patterns=list(files)))
    except errors.GatedRepoError as error:
        raise said(
            f"{wanted} is only for people who accepted its terms.",
            f"Accept them on the {what}'s page, then log in with `hf auth login`.",
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        message = f"There is no {what} {wanted} on the hub that you may read."
        raise said(message, "Check the spelling, or log in.") from error
    except errors.HFValidationError as error:
        raise said(f"{wanted} is no name that a {what} on the hub can have.", "Check the spelling.") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, httpx.HTTPError, ConnectionError) as error:
        by_hand = f" (`hf download {name}`)" if kind == "model" else ""
        instead = "; or use `mini`, which needs no download" if kind == "model" else ""
        raise said(
            f"{wanted} is not on this machine and the hub cannot be reached.",
            f"Download it where there is a network{by_hand}, copy the folder here and give its path as the {what}"
            f"{instead}.",
        ) from error
    except (OSError, RuntimeError, ValueError) as error:  # a disk that is full or read-only, a broken transfer
        raise said(
            f"The download of {wanted} failed: {brief(error)}.",
            "Mend that and try again: it goes on. Downloads go into the folder that HF_HOME names.",
        ) from error
