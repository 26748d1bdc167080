"""`tsembed doctor`."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Final, Literal, NamedTuple

import typer
from typer import Option

from tsembed_search import private, wording
from tsembed_search.cli import options
from tsembed_search.cli.render import text as render
from tsembed_search.errors import TsembedError, spelled
from tsembed_search.paths import DEFAULT_MODEL, IndexAddress, absence, home
from tsembed_search.version import __version__

if TYPE_CHECKING:
    import torch

State = Literal["ok", "slow", "problem"]

_MARKS: Final = {"ok": ("✓", "green"), "slow": ("!", "yellow"), "problem": ("✗", "bold red")}
_PACKAGES: Final = (
    "torch", "transformers", "tokenizers", "safetensors", "numpy", "qdrant-edge-py", "qdrant-client", "pillow",
    "pypdfium2", "selectolax", "markdown-it-py", "charset-normalizer", "typer", "rich", "textual",
)  # fmt: skip
_LITTLE_SPACE: Final = 1e9
_LARGE_FOR_CPU: Final = 1e9
_MANY_POINTS: Final = 20_000


class Check(NamedTuple):
    """Something that was checked. `advice` says what to do about what is slow or wrong."""

    name: str
    state: State
    detail: str
    advice: str = ""


@options.described(
    ("is all well?", "tsembed doctor"),
    ("with another model", "tsembed doctor --model Qwen/Qwen3-VL-Embedding-2B"),
    ("after a disk was full or a backup was restored", "tsembed doctor --repair"),
)
def doctor(
    index: options.IndexName = options.INDEX,
    url: options.Url = None,
    model: options.Model = None,
    device: options.Device = "auto",
    repair: Annotated[bool, Option("--repair", help="Repair the index: make its list of files again.")] = False,
    json: options.Json = False,
) -> None:
    """Check that everything works: packages, disk, GPU, model and index.

    Says what is wrong or slow, why, and what to do. Exits with 1 when something is wrong.
    """
    address = IndexAddress(index, options.store_of(url))
    if repair:
        with options.open_index(index, url) as opened, render.working("Repairing"):
            kept = opened.repair(render.remark)
        told = f"{wording.count_words(kept.files, 'file')}, {wording.count_words(kept.items, 'item')}"
        render.remark(f"The manifest of the index {index} was made again from the index: {told}.")
    with render.working("Looking", quiet=json):
        findings = list(_examined(address, model, device))
    sound = all(finding.state != "problem" for finding in findings)
    if json:
        render.print_json({"ok": sound, "findings": [finding._asdict() for finding in findings]})
    else:
        _print(findings)
    if not sound:
        raise typer.Exit(1)


def _examined(address: IndexAddress, model: str | None, device: str) -> Iterator[Check]:
    """Every check. One that cannot be made is itself a problem, and the others go on."""
    checks: dict[str, Callable[[], Iterator[Check]]] = {
        "software": _software,
        "storage": _storage,
        "privacy": lambda: _privacy(address),
        "terminal": _terminal,
        "device": lambda: _device(device),
        "index": lambda: _index(address),
        "folders": lambda: _folders(address),
        "model": lambda: _model(address, model, device),
    }
    for name, check in checks.items():
        try:
            yield from check()
        except TsembedError as error:
            yield Check(name, "problem", error.message, spelled(error.hint, render.in_shell))


def _software() -> Iterator[Check]:
    import importlib.metadata
    import platform

    versions = {}
    for package in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    yield Check("tsembed", "ok", f"{__version__}, Python {platform.python_version()}, {platform.system()}")
    yield Check("packages", "ok", ", ".join(f"{package} {version}" for package, version in versions.items()))
    for package in _PACKAGES:
        if package not in versions:
            yield Check("packages", "problem", f"{package} is not installed.", f"Run: pip install {package}")


def _storage() -> Iterator[Check]:
    import shutil

    folder = home()
    existing = next(each for each in (folder, *folder.parents) if os.path.exists(each))  # noqa: PTH110
    free = shutil.disk_usage(existing).free
    detail = f"{folder}, {wording.size_words(free)} free"
    if not os.path.isdir(existing):  # noqa: PTH112
        yield Check("storage", "problem", f"{existing} is no folder.", "Set TSEMBED_HOME to a folder.")
    elif not os.access(existing, os.W_OK):
        advice = "Searches work, on a copy. To index: make it writable, or set TSEMBED_HOME to another folder."
        yield Check("storage", "slow", f"{folder} cannot be written.", advice)
    elif free < _LITTLE_SPACE:
        yield Check("storage", "slow", detail, "Little space is left; indexing stops when the disk is full.")
    else:
        yield Check("storage", "ok", detail)


def _privacy(address: IndexAddress) -> Iterator[Check]:
    folder = address.folder
    if not os.path.isdir(folder):  # noqa: PTH112 - `Path.is_dir` raises where it may not look
        return
    if private.is_open_to_others(folder):
        by_hand = f"chmod -R go= {shlex.quote(str(folder))}"
        advice = f"The next `tsembed index` closes it, if its disk keeps permissions. At once: {by_hand}"
        yield Check("privacy", "problem", f"Other users of this machine may read the index: {folder}", advice)
    else:
        yield Check("privacy", "ok", f"only you can read {folder}")


def _terminal() -> Iterator[Check]:
    from tsembed_search.cli.render.hits import describe_terminal

    yield Check("thumbnails", "ok", describe_terminal())


def _device(name: str) -> Iterator[Check]:
    import torch

    from tsembed_search.model import backbone as devices

    chosen = devices.pick(name)
    if chosen.type != "cpu":
        yield _gpu(chosen)
        return
    if (reason := devices.unusable_gpu()) is not None:
        what, _, advice = reason.partition(": ")
        yield Check("device", "slow", f"CPU, though {what}", f"{advice}.")
        return
    threads, cores = torch.get_num_threads(), os.cpu_count() or 1
    detail = f"CPU, {wording.count_words(threads, 'thread')} of {wording.count_words(cores, 'core')}"
    if threads < cores // 2:
        yield Check("device", "slow", detail, "OMP_NUM_THREADS or a CPU limit keeps the model from using all cores.")
    else:
        yield Check("device", "ok", detail)


def _gpu(device: torch.device) -> Check:
    """Say what a GPU can do, and which recipes fit."""
    import torch

    from tsembed_search.model import backbone as devices
    from tsembed_search.model.backbones import hf

    free = devices.free_bytes(device) or 0
    native = devices.has_bfloat16(device)
    parts = [devices.describe(device), f"{free / 1e9:.1f} GB free"]
    if device.type == "cuda":
        parts.append("compute capability {}.{}".format(*torch.cuda.get_device_capability(device)))
    parts.append("bfloat16" if native else "no bfloat16: large models run in float32, slower and with twice the memory")
    kinds = {"flash_attention_2": "flash attention", "sdpa": "PyTorch's own attention"}
    parts.append(kinds[hf.attention(device)])
    if device.type == "mps":
        advice = "Training does not run on the GPU of a Mac yet: tsembed train --device cpu."
    else:
        advice = _fitting_recipes(free if native else free // 2)
    return Check("device", "ok", ", ".join(parts), advice)


def _fitting_recipes(free: int) -> str:
    """Say which of the recipes for models of two billion parameters fit into so many bytes, in bfloat16."""
    from tsembed_search.model.backbone import LEAST_TOKENS, TWO_BILLION, TWO_BILLION_BYTES

    left = free - TWO_BILLION_BYTES
    if left < 2 * LEAST_TOKENS * TWO_BILLION.checkpointed:
        return "The recipes for models of two billion parameters (mmeb-...) do not fit; those for mini do."
    plain, checkpointed = (TWO_BILLION.training_tokens(left, checkpointing) for checkpointing in (False, True))
    if left < 2 * LEAST_TOKENS * TWO_BILLION.training:
        return f"The recipes mmeb-... fit with --set run.gradient_checkpointing=true --set batch.tokens={checkpointed}."
    return (
        f"The recipes mmeb-... fit with batch.tokens of {plain} or less, or of {checkpointed} with "
        "--set run.gradient_checkpointing=true."
    )


def _index(address: IndexAddress) -> Iterator[Check]:
    from tsembed_search.index import Index
    from tsembed_search.store.opening import exists

    if not exists(address):
        yield Check("index", "ok", f"{address.name}: not made yet", "Make it with: tsembed index FOLDER")
        return
    with Index.open(address.name, store=address.store) as index:
        status = index.status()
    store = status.store
    if store is None:
        yield Check("index", "slow", status.busy, "Wait until it has finished.")
        return
    kinds = ", ".join(wording.count_words(count, kind) for kind, count in (status.items or {}).items()) or "empty"
    detail = f"{address.name}: {kinds}; {store.engine}; made by {status.metadata.model}"
    if store.points > _MANY_POINTS and store.indexed < store.points / 2:
        advice = "Most items are compared one by one. `tsembed index` builds the search graph when a run ends."
        yield Check("index", "slow", detail, advice)
    else:
        yield Check("index", "ok", detail)


def _folders(address: IndexAddress) -> Iterator[Check]:
    from tsembed_search.indexer.manifest import remembered

    for folder in remembered(address.folder).offline:
        why = absence(folder) or "Files of it were missing when the index was last updated."
        advice = "Its files stay in the index. Connect its disk; or remove them: tsembed index FOLDER --prune-empty"
        yield Check("folders", "slow", f"{folder} is offline. {why}", advice)


def _model(address: IndexAddress, name: str | None, device: str) -> Iterator[Check]:
    import torch

    from tsembed_search.index import Index
    from tsembed_search.model import loading, registry

    if name is None:  # the model that made the index, where there is an index that can be asked
        with suppress(TsembedError), Index.open(address.name, store=address.store) as index:
            name = index.metadata.model
    ref = registry.resolve(name or DEFAULT_MODEL)
    size = sum(path.stat().st_size for path in loading.checked_weights(ref))
    detail = f"{ref.name} ({ref.family}, {ref.fingerprint}), {wording.size_words(size)} of weights, checked"
    if size > _LARGE_FOR_CPU and not torch.cuda.is_available():
        advice = "This model is large and there is no GPU: expect seconds per item. The model `mini` is made for CPUs."
        yield Check("model", "slow", detail, advice)
    else:
        yield Check("model", "ok", detail)
    by = loading.computed_by(ref, device)
    if by == "PyTorch" and loading.suits_engine(ref, device):
        yield Check("engine", "slow", f"{ref.name} is computed by PyTorch.", "OpenVINO is faster: pip install openvino")
    else:
        yield Check("engine", "ok", f"{ref.name} is computed by {by}")


def _print(findings: list[Check]) -> None:
    if not render.is_terminal():
        for finding in findings:
            render.print_fields(finding.state, finding.name, finding.detail, *filter(None, [finding.advice]))
        return
    rows = []
    for finding in findings:
        mark, style = _MARKS[finding.state]
        words = render.styled(wording.shown(finding.detail))
        if finding.advice:
            words.append("\n→ " + wording.shown(finding.advice), style=style if finding.state != "ok" else "dim")
        rows.append(((mark, style), (finding.name, "bold"), words))
    render.print_table([""] * 3, rows)
