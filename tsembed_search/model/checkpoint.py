"""Checkpoints: a folder with MoE-LoRA adapters for a base model, which it names and does not contain.

    adapter_config.json         PEFT's: the adapters as one plain LoRA, which is their uniform mixture
    adapter_model.safetensors   A and B of every projection, under PEFT's names
    router.safetensors          one matrix [E, d] per adapted block
    projector.safetensors       what pictures pass through, where that was trained as well
    tsembed.json                what PEFT has no place for: see `Checkpoint`
    README.md                   a model card

Reading what a checkpoint says about itself imports no torch. A checkpoint becomes a model through `registry`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsembed_search import wording
from tsembed_search.errors import ModelError
from tsembed_search.hub import snapshot_of
from tsembed_search.model import card
from tsembed_search.model import files as weights
from tsembed_search.model.backbone import ModelRef, Trainable
from tsembed_search.model.files import appearing, flush
from tsembed_search.ranking.scores import Calibration

if TYPE_CHECKING:
    from torch import Tensor

    from tsembed_search.model.expert_settings import AdapterSettings
    from tsembed_search.model.moe_lora import Adapters


MARKER = "tsembed.json"

CONFIG = "adapter_config.json"

EXPERTS = "adapter_model.safetensors"

ROUTERS = "router.safetensors"

PROJECTOR = "projector.safetensors"

CARD = card.NAME

_FORMAT = 1

_PREFIX = "base_model.model."  # what PEFT puts before every module's path

_TRAINING_ONLY = ("dropout", "noise")


@dataclass(frozen=True)
class Base:
    """The model that adapters belong to. `name` is what to load it by; `revision` is a hub commit, if it has one."""

    name: str
    family: str
    fingerprint: str
    revision: str | None = None

    @staticmethod
    def of(ref: ModelRef) -> Base:
        """The base behind a reference; one in the hub's cache keeps its hub name and commit."""
        if ref.folder is None:
            return Base(ref.name, ref.family, ref.fingerprint)
        if snapshot := snapshot_of(ref.folder):
            return Base(snapshot.name, ref.family, ref.fingerprint, snapshot.commit)
        return Base(str(ref.folder), ref.family, ref.fingerprint)


@dataclass(frozen=True)
class Checkpoint:
    """The content of `tsembed.json`. `method` are the `AdapterSettings` as JSON, `mean` is the mean raw routing vector
    `[L·E]` of the training data, `route_weight` the calibrated lambda of `--rerank expert` (None: not calibrated).
    """

    base: Base
    method: Mapping[str, Any]
    mean: tuple[float, ...]
    route_weight: float | None = None
    calibration: Calibration | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The content of `tsembed.json`."""
        return {
            "format": _FORMAT,
            "base": asdict(self.base),
            "method": dict(self.method),
            "routing_mean": list(self.mean),
            "lambda": self.route_weight,
            "calibration": self.calibration and self.calibration.to_json(),
            "data": dict(self.data),
            "recipe": dict(self.recipe),
            "metrics": dict(self.metrics),
        }


def read(folder: Path) -> Checkpoint:
    """Read a checkpoint's `tsembed.json`, and nothing else. Raises `ModelError` when it cannot be used."""
    path = folder / MARKER
    said = weights.read_json(path)
    if said.get("format") != _FORMAT:
        raise ModelError(f"{path} has format {said.get('format')!r}, not {_FORMAT}.", "Update tsembed-search.")
    try:
        base = Base(**said["base"])
        weight = said["lambda"]
        found = Checkpoint(
            base,
            dict(said["method"]),
            tuple(float(number) for number in said["routing_mean"]),
            None if weight is None else float(weight),
            Calibration.from_json(said["calibration"]) if said.get("calibration") else None,
            dict(said.get("data") or {}),
            dict(said.get("recipe") or {}),
            dict(said.get("metrics") or {}),
        )
        texts = (base.name, base.family, base.fingerprint, base.revision or "")
        if not all(isinstance(text, str) for text in texts) or not isinstance(found.method["router"], dict):
            raise TypeError("base or method.router")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ModelError(
            f"{path} lacks something, or it is not what it should be: {wording.brief(error)}.", _AGAIN
        ) from error
    _check_numbers(str(path), found)
    return found


def reference(name: str, folder: Path) -> ModelRef:
    """The model that a checkpoint's folder is. Raises `ModelError` for files that are missing, cut short or pickled."""

    said = read(folder)
    tensors = (EXPERTS, ROUTERS, *([PROJECTOR] if said.method.get("projector") else []))
    missing = [file for file in (CONFIG, *tensors) if not (folder / file).is_file()]
    if missing:
        weights.refuse_pickles(folder)
        raise ModelError(f"{name} is a checkpoint without {missing[0]}.", _AGAIN)
    for file in tensors:
        weights.read_header(folder / file)
    method = json.loads(json.dumps(said.method))
    for part in (method, method.get("router", {})):
        for key in _TRAINING_ONLY:
            part.pop(key, None)
    hashes = [_hash(folder / file) for file in tensors]
    identity = weights.fingerprint("moe-lora", _FORMAT, said.base.fingerprint, method, said.mean, *hashes)
    return ModelRef(name, said.base.family, identity, folder)


def fill(adapters: Adapters, folder: Path) -> None:
    """Puts the tensors of a checkpoint's folder into adapters of the same settings. Raises `ModelError`: see `load`."""
    import torch

    experts = {name.removeprefix(_PREFIX): tensor for name, tensor in _tensors(folder / EXPERTS).items()}
    routers = _tensors(folder / ROUTERS) | {"mean": torch.tensor(read(folder).mean)}
    adapters.load(experts, routers, None if adapters.projector is None else _tensors(folder / PROJECTOR))


def _tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} cannot be read: {wording.brief(error)}.", _AGAIN) from error


def save(
    folder: str | Path,
    backbone: Trainable,
    base: ModelRef,
    *,
    route_weight: float | None = None,
    calibration: Calibration | None = None,
    data: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> Path:
    """Saves the adapters of a backbone; `base` is what it was before it was adapted. Gives the folder's path.

    The folder appears whole or not at all; one that holds a checkpoint already is replaced. Raises `ModelError` when
    the backbone has no adapters, when numbers are not finite, and when the folder holds anything else.
    """
    from safetensors.torch import save_file

    adapters = backbone.adapters
    if adapters is None:
        raise ModelError(f"{backbone.info.name} has no adapters to save.", "Give it some with `adapt` first.")
    experts = {_PREFIX + name: tensor.cpu().contiguous() for name, tensor in adapters.expert_state().items()}
    routers = {name: tensor.cpu().contiguous() for name, tensor in adapters.router_state().items()}
    projector = {name: tensor.cpu().contiguous() for name, tensor in adapters.projector_state().items()}
    _check_finite({**experts, **routers, **projector})
    mean = tuple(routers.pop("mean").tolist())
    of = Base.of(base)
    method = json.loads(json.dumps(adapters.settings.to_json()))
    said = Checkpoint(of, method, mean, route_weight, calibration, data or {}, recipe or {}, metrics or {})
    _check_numbers("The checkpoint", said)
    peft = adapters.peft_config() | {"base_model_name_or_path": of.name, "revision": of.revision}
    with appearing(folder, replaces=MARKER) as (new, whole):
        (new / CONFIG).write_text(json.dumps(peft, indent=2) + "\n", encoding="utf-8")
        save_file(experts, new / EXPERTS, metadata={"format": "pt"})
        save_file(routers, new / ROUTERS, metadata={"format": "pt"})
        if projector:
            save_file(projector, new / PROJECTOR, metadata={"format": "pt"})
        (new / MARKER).write_text(json.dumps(said.to_json(), indent=2) + "\n", encoding="utf-8")
        (new / CARD).write_text(card.text(whole.name, said.to_json()), encoding="utf-8")
    return whole


def calibrate(folder: Path, calibration: Calibration) -> None:
    """Gives a checkpoint the calibration of its scores, which is no part of its fingerprint. Raises `ModelError`."""
    said = replace(read(folder), calibration=calibration)
    new = folder / f".{MARKER}.new"
    new.write_text(json.dumps(said.to_json(), indent=2) + "\n", encoding="utf-8")
    flush(new)
    new.replace(folder / MARKER)


_AGAIN = "Copy the checkpoint again, all of its files, or make it again."


def describe(folder: Path, before: Mapping[str, Any] | None = None) -> Path:
    """Writes a checkpoint's model card, with what validation measured `before` training, by task. Gives its path.

    Raises `ModelError` for a folder that is no checkpoint, and `OSError`.
    """
    text = card.text(folder.name, read(folder).to_json(), before=before)
    partial = folder / f".{CARD}.partial"
    partial.write_text(text, encoding="utf-8")
    return partial.replace(folder / CARD)


def settings_of(said: Checkpoint, folder: Path) -> AdapterSettings:
    """The settings that a checkpoint's adapters were made with. Raises `ModelError` for those that make no sense."""
    from tsembed_search.model.expert_settings import AdapterSettings

    try:
        return AdapterSettings.from_json(said.method)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise no_settings(folder, error) from error


def no_settings(folder: Path, error: Exception) -> ModelError:
    """Make the error for a checkpoint whose settings cannot be used."""
    return ModelError(f"The settings in {folder / MARKER} are not those of adapters: {wording.brief(error)}.", _AGAIN)


def _check_numbers(where: str, said: Checkpoint) -> None:
    if not all(map(math.isfinite, said.mean)):
        raise ModelError(f"{where} is damaged: the routing mean holds numbers that are not finite.", _AGAIN)
    if said.route_weight is not None and not 0 <= said.route_weight <= 1:
        raise ModelError(f"{where} has a lambda of {said.route_weight}.", "It has to lie between 0 and 1.")


def _check_finite(tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise ModelError(
                f"The adapters are not saved: {name} holds numbers that are not finite.", "Train with a lower rate."
            )


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
