"""Checkpoints: a folder with MoE-LoRA adapters for a base model, which it names and does not contain.

    adapter_config.json         PEFT's: the adapters as one plain LoRA, which is their uniform mixture
    adapter_model.safetensors   A and B of every projection, under PEFT's names
    router.safetensors          one matrix [E, d] per adapted block
    projector.safetensors       what pictures pass through, where that was trained as well
    paths.safetensors           the learned tokens or prefixes of parallel paths, where there are some
    tsembed.json                what PEFT has no place for: see `Checkpoint`
    README.md                   a model card, filled from `tsembed.json`: all that is data is escaped in it

Reading what a checkpoint says about itself imports no torch. A checkpoint becomes a model through `registry`.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsembed_search import wording
from tsembed_search.errors import ModelError
from tsembed_search.hub import snapshot_of
from tsembed_search.model import files as weights
from tsembed_search.model import path_settings
from tsembed_search.model.backbone import ModelRef, Trainable
from tsembed_search.ranking.scores import Calibration

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from tsembed_search.model.expert_settings import AdapterSettings
    from tsembed_search.model.moe_lora import Adapters
    from tsembed_search.model.path_settings import PathSettings


MARKER = "tsembed.json"
CONFIG = "adapter_config.json"
EXPERTS = "adapter_model.safetensors"
ROUTERS = "router.safetensors"
PROJECTOR = "projector.safetensors"
PATHS = "paths.safetensors"
CARD = "README.md"
_FORMAT = 1
_PREFIX = "base_model.model."  # what PEFT puts before every module's path
_TRAINING_ONLY = ("dropout", "noise")
_AGAIN = "Copy the checkpoint again, all of its files, or make it again."
_MARKUP = re.compile(r"([\\`*_{}\[\]()#!|~@])")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


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
        """Return it as JSON values."""
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
        base, weight = Base(**said["base"]), said["lambda"]
        found = Checkpoint(
            base,
            dict(said["method"]),
            tuple(map(float, said["routing_mean"])),
            None if weight is None else float(weight),
            Calibration.from_json(said["calibration"]) if said.get("calibration") else None,
            *(dict(said.get(part) or {}) for part in ("data", "recipe", "metrics")),
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
    paths = path_settings.of_method(said.method, folder / MARKER)
    own = {PROJECTOR: bool(said.method.get("projector")), PATHS: paths is not None and paths.kind != "expert"}
    tensors = (EXPERTS, ROUTERS, *(file for file, there in own.items() if there))
    missing = [file for file in (CONFIG, *tensors) if not (folder / file).is_file()]
    if missing:
        weights.refuse_pickles(folder)
        raise ModelError(f"{name} is a checkpoint without {missing[0]}.", _AGAIN)
    for file in tensors:
        weights.read_header(folder / file)
    method = {key: value for key, value in said.method.items() if key not in _TRAINING_ONLY}
    method["router"] = {key: value for key, value in method["router"].items() if key not in _TRAINING_ONLY}
    hashes = [weights.file_hash(folder / file) for file in tensors]
    identity = weights.fingerprint("moe-lora", _FORMAT, said.base.fingerprint, method, said.mean, *hashes)
    return ModelRef(name, said.base.family, identity, folder)


def fill(adapters: Adapters, folder: Path) -> None:
    """Puts the tensors of a checkpoint's folder into adapters of the same settings. Raises `ModelError`: see `load`."""
    import torch

    state = {f"experts.{name.removeprefix(_PREFIX)}": tensor for name, tensor in _tensors(folder / EXPERTS).items()}
    state |= {f"routers.{name}": tensor for name, tensor in _tensors(folder / ROUTERS).items()}
    state["routers.mean"] = torch.tensor(read(folder).mean)
    if adapters.projector is not None:
        state |= {f"projector.{name}": tensor for name, tensor in _tensors(folder / PROJECTOR).items()}
    if adapters.path_state():
        state |= {f"paths.{name}": tensor for name, tensor in _tensors(folder / PATHS).items()}
    adapters.load_state_dict(state)


def arrays(folder: Path) -> tuple[dict[str, NDArray[np.float32]], dict[str, NDArray[np.float32]]]:
    """Return the experts' tensors of a checkpoint, and the routers', without torch. Raises `ModelError`."""
    experts = weights.arrays(folder / EXPERTS)
    return {name.removeprefix(_PREFIX): one for name, one in experts.items()}, weights.arrays(folder / ROUTERS)


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
    parts = (adapters.expert_state(), adapters.router_state(), adapters.projector_state(), adapters.path_state())
    experts, routers, projector, paths = (
        {name: tensor.cpu().contiguous() for name, tensor in state.items()} for state in parts
    )
    for name, tensor in (experts | routers | projector | paths).items():
        if not bool(tensor.isfinite().all()):
            raise ModelError(
                f"The adapters are not saved: {name} holds numbers that are not finite.", "Train with a lower rate."
            )
    mean = tuple(routers.pop("mean").tolist())
    of = Base.of(base)
    method = json.loads(json.dumps(adapters.settings.to_json()))
    if adapters.paths is not None:
        method["paths"] = adapters.paths.settings.to_json()
    said = Checkpoint(of, method, mean, route_weight, calibration, data or {}, recipe or {}, metrics or {})
    _check_numbers("The checkpoint", said)
    peft = adapters.peft_config() | {"base_model_name_or_path": of.name, "revision": of.revision}
    prefixed = {_PREFIX + name: tensor for name, tensor in experts.items()}
    with weights.appearing(folder, replaces=MARKER) as (new, whole):
        (new / CONFIG).write_text(json.dumps(peft, indent=2) + "\n", encoding="utf-8")
        for state, file in ((prefixed, EXPERTS), (routers, ROUTERS), (projector, PROJECTOR), (paths, PATHS)):
            if state:
                save_file(state, new / file, metadata={"format": "pt"})
        (new / MARKER).write_text(json.dumps(said.to_json(), indent=2) + "\n", encoding="utf-8")
        (new / CARD).write_text(card(whole.name, said), encoding="utf-8")
    return whole


def calibrate(folder: Path, calibration: Calibration) -> None:
    """Give a checkpoint the calibration of its scores, which is no part of its fingerprint. Raises `ModelError`."""
    said = replace(read(folder), calibration=calibration)
    _replace(folder / MARKER, json.dumps(said.to_json(), indent=2) + "\n")


def describe(folder: Path, before: Mapping[str, Any] | None = None) -> Path:
    """Write a checkpoint's model card, with what validation measured `before` training, by task. Gives its path.

    Raises `ModelError` for a folder that is no checkpoint, and `OSError`.
    """
    return _replace(folder / CARD, card(folder.name, read(folder), before=before))


def _replace(path: Path, text: str) -> Path:
    new = path.with_name(f".{path.name}.new")
    new.write_text(text, encoding="utf-8")
    weights.flush(new)
    return new.replace(path)


def put_on(
    adapt: Callable[[AdapterSettings], Adapters],
    said: Checkpoint,
    folder: Path,
    add_paths: Callable[[PathSettings], None] | None = None,
) -> Adapters:
    """Put a checkpoint's adapters on a model: `adapt` makes fresh ones, and `add_paths` its paths; they are filled.

    Raises `ModelError` for settings that make no sense, and for tensors that do not fit or are not finite.
    """
    from tsembed_search.model.expert_settings import AdapterSettings

    try:
        adapters = adapt(AdapterSettings.from_json(said.method))
        if add_paths is not None and (paths := path_settings.of_method(said.method, folder / MARKER)) is not None:
            add_paths(paths)
    except (TypeError, ValueError, LookupError, AttributeError, RuntimeError) as error:  # values of the wrong kind
        raise ModelError(
            f"The settings in {folder / MARKER} are not those of adapters: {wording.brief(error)}.", _AGAIN
        ) from error
    fill(adapters, folder)
    return adapters


def _check_numbers(where: str, said: Checkpoint) -> None:
    if not all(map(math.isfinite, said.mean)):
        raise ModelError(f"{where} is damaged: the routing mean holds numbers that are not finite.", _AGAIN)
    if said.route_weight is not None and not 0 <= said.route_weight <= 1:
        raise ModelError(f"{where} has a lambda of {said.route_weight}.", "It has to lie between 0 and 1.")


def card(name: str, said: Checkpoint, *, before: Mapping[str, Any] | None = None, exported: str = "") -> str:
    """Return the model card of the checkpoint in a folder called `name`, in Markdown.

    `before`: what validation measured before training, by task. `exported`: what was made of the checkpoint, for the
    card of an export.
    """
    base, recipe, router = said.base, said.recipe, said.method["router"]
    if name == "model" and recipe.get("name"):  # the folder of a run
        name = f"{recipe['name']} on {Path(base.name).name}"
    text: str = _card_template().render(
        name=name,
        base=base,
        published=json.dumps(base.name) if _HUB_NAME.fullmatch(base.name) else "",
        method=said.method,
        router=router,
        blocks=len(said.mean) // max(1, router["experts"]),
        weight=said.route_weight,
        recipe=recipe,
        data=_data(said.data),
        results=_results(said.metrics, before or {}),
        metrics=said.metrics,
        exported=exported,
    )
    return text


@cache
def _card_template() -> Any:
    import jinja2

    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, autoescape=False)
    environment.filters |= {"md": escaped, "json": lambda value: json.dumps(value, indent=2), "place": _place}
    return environment.from_string((Path(__file__).parent / "data" / "card.md").read_text("utf-8"))


def escaped(value: object) -> str:
    """Return data as plain text in Markdown, also inside a table."""
    return _MARKUP.sub(r"\\\1", html.escape(wording.shown(str(value)), quote=False))


def _place(name: str) -> str:
    """A folder or file of this machine by its own name: where it lies is nobody's business. Hub names stay whole."""
    return Path(name).name if Path(name).is_absolute() else name


def _data(data: Mapping[str, Any]) -> dict[str, Any] | None:
    tasks = [task for task in data.get("tasks") or () if isinstance(task, Mapping)]
    sources = [str(source) for source in data.get("sources") or ()]
    if not tasks and not sources:
        return None
    licences = _licences(sources)
    total = wording.count_words(sum(task.get("rows") or 0 for task in tasks), "row")
    return {
        "amount": f"{total} of {wording.count_words(len(tasks), 'task')}",
        "sources": sources,
        "tasks": [
            (task.get("name", ""), task.get("meta") or "", f"{task.get('rows', 0):,}", licences.get(task.get("name")))
            for task in tasks
        ],
        "unknown": any(task.get("name") not in licences for task in tasks),
    }


def _licences(sources: Iterable[str]) -> dict[Any, str]:
    """Licences by task, where a source that is still there names them in its `tasks.json`."""
    found: dict[Any, str] = {}
    for source in sources:
        try:
            tasks = json.loads((Path(source) / "tasks.json").read_text("utf-8"))["tasks"]
            told = {name: task.get("licences") for name, task in tasks.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # the card says that it does not know
        found |= {name: ", ".join(map(str, names)) for name, names in told.items() if isinstance(names, list) and names}
    return found


def _results(metrics: Mapping[str, Any], before: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The rows of the table of validation: per task, then the mean over tasks."""
    tasks, hit = metrics.get("tasks"), metrics.get("hit@1")
    if not isinstance(tasks, Mapping):
        return []
    rows: list[tuple[str, ...]] = []
    spread = 0.0
    for name, task in tasks.items():
        share, count = task.get("hit@1"), task.get("n") or 0
        bounds: tuple[float, float] | None = None
        if share is not None and count:
            bounds = share_interval(share, count)
            spread += share * (1 - share) / count
        was = (before.get(name) or {}).get("hit@1")
        rows.append((name, str(count), *_figures(share, bounds, was, task.get("mrr"))))
    if hit is not None and len(tasks) > 1:
        half = 1.96 * math.sqrt(spread) / len(tasks)
        known = [task["hit@1"] for task in before.values() if task.get("hit@1") is not None]
        was = sum(known) / len(known) if known else None
        figures = _figures(hit, (max(0.0, hit - half), min(1.0, hit + half)), was, metrics.get("mrr"))
        rows.append(("mean over tasks", "", *figures))
    return rows


def _figures(
    share: float | None, bounds: tuple[float, float] | None, was: float | None, mrr: float | None
) -> tuple[str, ...]:
    interval = "{:.3f} to {:.3f}".format(*bounds) if bounds else ""
    one, two, three = ("" if value is None or math.isnan(value) else f"{value:.3f}" for value in (share, was, mrr))
    return one, interval, two, three


def share_interval(share: float, count: int) -> tuple[float, float]:
    """Return the 95% interval of a share among `count` (Wilson, *Probable inference*, JASA 1927)."""
    z = 1.96
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)
