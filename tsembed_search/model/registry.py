"""From a model's name to a model: `resolve` says what a name means without loading anything heavy, `load` loads it.

A name is a built-in model (`mini`, `mini-base`), a folder, the name of a folder in `$TSEMBED_HOME/models`, or a hub
name (`owner/name`, or `owner/name@revision`). A folder holds a transformers model, or a checkpoint: adapters for a
model. After any of them, `:3blocks` lets it stop after its first 3 blocks, and `:128` cuts its vectors to 128 numbers;
`:3blocks:128` does both.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tsembed_search import hub
from tsembed_search.errors import ModelError, UnsupportedModelError, UsageError
from tsembed_search.model import checkpoint
from tsembed_search.model import files as weights
from tsembed_search.model.backbone import BuiltIn, ModelRef
from tsembed_search.model.backbones import families, origin
from tsembed_search.paths import existing, home
from tsembed_search.registry import Registry
from tsembed_search.wording import shown

_HUB_NAME = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
_OWN_NAME = re.compile(r"\w[\w.-]*")
_PROCESSOR_FILES = ("tokenizer.json", "preprocessor_config.json", "processor_config.json")
# Keys of config.json that say how a file was written, not what the model computes.
_NO_IDENTITY = frozenset(
    {"_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache", "architectures"}
)


MODELS: Registry[BuiltIn] = Registry(
    "model",
    "tsembed.models",
    {
        "mini": "tsembed_search.model.backbones.mini_spec:MINI",
        "mini-base": "tsembed_search.model.backbones.mini_spec:BASE",
    },
)
"""The models that packages bring along, by name."""


@dataclass(frozen=True)
class KnownModel:
    """A model that can be named: built in, found on this machine, or a suggestion to download.

    `base`: the model that a checkpoint's adapters are for, else None. `prompt`: with which prompt it is used (see
    `origin`), or `refused` for one that is not supported and `unreadable` for one that is damaged.
    """

    name: str
    family: str
    where: Literal["built in", "on this machine", "on the hub", "unreadable"]
    base: str | None = None
    prompt: origin.Prompt | Literal["refused", "unreadable"] = field(default="own", compare=False)

    def to_json(self) -> dict[str, str | None]:
        """Return the fields as JSON values."""
        return {name: getattr(self, name) for name in ("name", "family", "where", "base", "prompt")}


def resolve(name_or_path: str | Path, *, known: bool = False) -> ModelRef:
    """Return what a name means: a built-in model, a folder, one of our own, one of the local hub cache or of the hub.

    A model's warning is logged, unless it is `known` already: an index or a checkpoint was made with it.

    Raises `ModelError` that says what to do: no such model (with near matches), not on this machine and no network,
    files missing, or pickled weights; and `UnsupportedModelError` for a kind of model that cannot be used.
    """
    name, depth, dim = _parted(str(name_or_path))
    ref = _find(name)
    if depth is not None:
        ref = stopped(ref, depth)
    if dim is not None:
        ref = cut(ref, dim)
    if ref.warning and not known:
        logging.getLogger(__name__).warning("%s", shown(ref.warning))
    return ref


def named(name: str, depth: int | None = None, dim: int | None = None) -> str:
    """Return a model's name with another `:3blocks` or `:128`, where these are given."""
    head, own_depth, own_dim = _parted(name)
    depth, dim = own_depth if depth is None else depth, own_dim if dim is None else dim
    return head + ("" if depth is None else f":{depth}blocks") + ("" if dim is None else f":{dim}")


def _parted(name: str) -> tuple[str, int | None, int | None]:
    """A model's name without its `:3blocks` and `:128`, and those numbers; None for what it does not have."""
    head, dim = _split(name, "")
    head, depth = _split(head, "blocks")
    return head, depth, dim


def _split(name: str, unit: str) -> tuple[str, int | None]:
    head, _, last = name.rpartition(":")
    digits = last.removesuffix(unit)
    if not (head and digits + unit == last and digits.isascii() and digits.isdecimal()):
        return name, None
    return (name, None) if existing(Path(name)).exists() else (head, int(digits))


def stopped(ref: ModelRef, depth: int) -> ModelRef:
    """Return a model that stops after its first `depth` blocks, which is another model. Raises `UsageError`."""
    if not depth:
        raise UsageError("A model cannot stop after 0 blocks.", "Use a depth from 1 on, such as 3.")
    identity = weights.fingerprint("stopped", depth, ref.fingerprint)
    return replace(ref, name=f"{ref.name}:{depth}blocks", fingerprint=identity, whole=ref, depth=depth)


def cut(ref: ModelRef, dim: int) -> ModelRef:
    """Return a model with its vectors cut to their first `dim` numbers, which is another model. Raises `UsageError`."""
    if not dim:
        raise UsageError("Vectors cannot be cut to 0 numbers.", "Give {dim} a number from 1 on, such as 128.")
    identity = weights.fingerprint("cut", dim, ref.fingerprint)
    return replace(ref, name=f"{ref.name}:{dim}", fingerprint=identity, whole=ref, dim=dim, depth=None)


def _find(name: str) -> ModelRef:
    if name in MODELS:
        entry = MODELS.get(name)
        return _read_folder(name, entry.folder) if entry.folder else ModelRef(name, entry.family, entry.fingerprint)
    try:
        path = existing(Path(name).expanduser())
    except RuntimeError as error:  # an unknown ~user
        raise ModelError(f"There is no folder {name}: {error}", "Write the whole path of the folder.") from error
    with readable(name):
        if name and path.is_dir():
            return _read_folder(name, path.absolute())
        if path.is_file():
            raise ModelError(f"{name} is a file.", "Give the folder that holds the model's config.json.")
    if _OWN_NAME.fullmatch(name) and (own := home() / "models" / name).is_dir():
        return _read_folder(name, own)
    found = _HUB_NAME.fullmatch(name)
    if found is None or name.startswith("."):
        raise ModelError(f"There is no model called {name!r} and no such folder.", _suggest(name))
    return _read_hub(name, found["name"], found["revision"])


def known_models() -> list[KnownModel]:
    """Models to choose from: built-in ones, those in `$TSEMBED_HOME/models` and in the local hub cache, and well-known
    ones of each family.
    """
    here = []
    for name in MODELS.names():
        entry = MODELS.get(name)
        base = checkpoint.read(entry.folder).base.name if entry.folder else None
        here.append(KnownModel(name, entry.family, "built in", base))
    folders: list[tuple[str, Path]] = []
    with suppress(OSError):  # a folder that is not there, or may not be read, holds nothing to choose from
        folders = sorted((own.name, own) for own in (home() / "models").iterdir() if _OWN_NAME.fullmatch(own.name))
    found = (known_model(name, folder) for name, folder in [*folders, *hub.cached_models()])
    here += [model for model in found if model is not None]
    names = {model.name for model in here}
    return here + [
        KnownModel(name, family.name, "on the hub", prompt="own" if name in origin.VERIFIED else "untuned")
        for family in families.FAMILIES.all()
        for name in family.examples
        if name not in names
    ]


def known_model(name: str, folder: Path) -> KnownModel | None:
    """The model in a folder, by its JSON files; None when the folder holds none, or one of another kind.

    One that is refused by its name, or damaged, is said to be.
    """
    kind = "checkpoint" if (folder / checkpoint.MARKER).is_file() else "unknown"
    try:
        if kind == "checkpoint":
            base = checkpoint.read(folder).base
            return KnownModel(name, base.family, "on this machine", base.name)
        if not (folder / "config.json").is_file():
            return None
        family = families.by_config(weights.read_json(folder / "config.json"))
    except (ModelError, OSError):
        return KnownModel(name, kind, "unreadable", prompt="unreadable")
    if family is None:
        return None
    prompt: origin.Prompt | Literal["refused"] = "refused"
    with suppress(UnsupportedModelError):
        prompt, _ = origin.prompt_of(name, folder, family.model_class)
    return KnownModel(name, family.name, "on this machine", prompt=prompt)


def _read_hub(name: str, repository: str, revision: str | None) -> ModelRef:
    """From the local hub cache; by a download when it is not there or not whole."""
    origin.refuse_name(repository)
    try:
        if (folder := hub.cached(repository, revision)) is not None:
            return _read_folder(name, folder)
    except UnsupportedModelError:
        raise
    except ModelError:
        pass  # a download that was interrupted: go on with it
    try:
        folder = hub.download(repository, revision, hub.MODEL_SETTINGS)
    except ModelError as error:
        raise ModelError(error.message, f"{error.hint} {_suggest(repository, nothing='')}".strip()) from error
    if is_checkpoint(name, folder):
        checkpoint.read(folder)
    else:
        _checked(name, folder)
    folder = hub.download(repository, revision, hub.MODEL_FILES)
    try:
        return _read_folder(name, folder)
    except ModelError as error:  # without a network, an interrupted download comes back as it is
        again = f"If the download of {name} was interrupted, connect to a network and try again."
        raise ModelError(error.message, f"{error.hint} {again}") from error


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Say in words that the disk, or a right, keeps a model's files from being read."""
    try:
        yield
    except OSError as error:
        raise ModelError(f"{name} cannot be read: {error}.", "Check the disk, and that you may read it.") from error


def is_checkpoint(name: str, folder: Path) -> bool:
    """Tell a checkpoint from a transformers model. Raises `ModelError` for a folder that holds neither."""
    if (folder / checkpoint.MARKER).is_file():
        return True
    if (folder / "config.json").is_file():
        return False
    if (folder / "adapter_config.json").is_file():
        origin.prompt_of(name, folder, "")  # refuses one of a model that is refused
        raise ModelError(f"{name} holds an adapter without tsembed.json.", "Merge it into its base model first.")
    raise ModelError(f"{name} holds no model.", "A model folder has a config.json and .safetensors files.")


def _read_folder(name: str, folder: Path) -> ModelRef:
    with readable(name):
        return checkpoint.reference(name, folder) if is_checkpoint(name, folder) else _transformers_ref(name, folder)


def _checked(name: str, folder: Path) -> tuple[families.Family, str]:
    """The family of a transformers model, and a warning where the prompt that it was tuned with is not known.

    Looks at JSON files only. Raises `UnsupportedModelError`.
    """
    config = weights.read_json(folder / "config.json")
    family = families.by_config(config)
    prompt, why = origin.prompt_of(name, folder, family.model_class if family else "")
    if family is None:
        supported = ", ".join(sorted(kind for entry in families.FAMILIES.all() for kind in entry.model_types))
        raise UnsupportedModelError(
            f"{name} is of type {config.get('model_type', 'unknown')!r}, which is not supported.",
            f"Use a model of one of these types: {supported}.",
        )
    warning = (
        f"Warning: {name} seems to be tuned ({why}), and the prompt that it was tuned with is not known. It gets that "
        "of its untuned family, and may search much worse than it could. Measure it, train it further, or take one "
        "whose prompt is known."
    )
    return family, warning if prompt == "unknown" else ""


def _transformers_ref(name: str, folder: Path) -> ModelRef:
    family, warning = _checked(name, folder)
    if not (folder / "tokenizer.json").is_file():
        raise ModelError(f"{name} lacks tokenizer.json.", "Download the model again, all of its .json files.")
    identity = weights.fingerprint(
        family.recipe(),
        _without_noise(weights.read_json(folder / "config.json")),
        [weights.file_hash(folder / file) for file in _PROCESSOR_FILES if (folder / file).is_file()],
        weights.content_identity(weights.weight_files(folder)),
    )
    return ModelRef(name, family.name, identity, folder, warning)


def _without_noise(config: Any) -> Any:
    if isinstance(config, dict):
        return {key: _without_noise(value) for key, value in config.items() if key not in _NO_IDENTITY}
    return config


def _suggest(name: str, nothing: str = "Give a folder, `mini`, or a hub name such as") -> str:
    """Near matches among known names, or `nothing` followed by an example."""
    import difflib

    known = [model.name for model in known_models()]
    if name in known:
        return ""
    by_lower = {one.lower(): one for one in known} | {one.lower().rpartition("/")[2]: one for one in known}
    near = dict.fromkeys(by_lower[match] for match in difflib.get_close_matches(name.lower(), by_lower, 5, 0.6))
    if near:
        return f"Did you mean {' or '.join(list(near)[:3])}?"
    return f"{nothing} {families.FAMILIES.all()[0].examples[0]}." if nothing else ""
