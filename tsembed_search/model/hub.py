"""Finding a model by its hub name: in the local hub cache first, then on the hub."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from tsembed_search.errors import ModelError
from tsembed_search.model.files import brief

SETTINGS = ("*.json",)
EVERYTHING = (*SETTINGS, "*.safetensors")


def cached(name: str, revision: str | None = None) -> Path | None:
    """The folder of a model that was downloaded before, or None."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=True, allow_patterns=list(EVERYTHING)))
    except (OSError, ValueError):  # not there, not readable, or no name that the hub could have
        return None


def download(name: str, revision: str | None = None, files: Sequence[str] = EVERYTHING) -> Path:
    """Fetches a model's files that match a pattern into the hub cache and returns their folder.

    Raises `ModelError` that says what to do: offline, no such model, one that needs an agreement, or a full disk.
    """
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    wanted = name if revision is None else f"{name}@{revision}"
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(files)))
    except GatedRepoError as error:
        raise ModelError(
            f"{wanted} is only for people who accepted its terms.",
            "Accept them on the model's page, then log in with `hf auth login`.",
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ModelError(
            f"There is no model {wanted} on the hub that you may read.", "Check the spelling, or log in."
        ) from error
    except HFValidationError as error:
        raise ModelError(f"{wanted} is no name that a model on the hub can have.", "Check the spelling.") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, httpx.HTTPError, ConnectionError) as error:
        raise ModelError(
            f"{wanted} is not on this machine and the hub cannot be reached.",
            f"Download it where there is a network (`hf download {name}`), copy the folder here and give its path as "
            "the model; or use `mini`, which needs no download.",
        ) from error
    except (OSError, RuntimeError, ValueError) as error:  # a disk that is full or read-only, a broken transfer
        raise ModelError(
            f"The download of {wanted} failed: {brief(error)}.",
            "Mend that and try again: it goes on. Models go into the folder that HF_HOME names.",
        ) from error


def cached_models() -> Iterator[tuple[str, Path]]:
    """(hub name, snapshot folder) of every model in the local hub cache."""
    from huggingface_hub import constants

    root = Path(constants.HF_HUB_CACHE)
    for folder in sorted(root.glob("models--*--*")):
        name = folder.name.removeprefix("models--").replace("--", "/")
        if (snapshot := cached(name)) is not None:
            yield name, snapshot
