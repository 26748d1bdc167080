"""`tsembed doctor`.

What `tsembed doctor` says of a GPU: what it can do, and what that means for models and recipes.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tsembed_search import private, wording
from tsembed_search.cli import options
from tsembed_search.cli.options import INDEX, described
from tsembed_search.cli.render import text as render
from tsembed_search.errors import TsembedError
from tsembed_search.model import loading
from tsembed_search.paths import DEFAULT_MODEL, IndexAddress, home
from tsembed_search.version import __version__
from tsembed_search.whereabouts import absence

if TYPE_CHECKING:
    import torch

    from tsembed_search.model.backbone import ModelRef


State = Literal["ok", "slow", "problem"]

_MARKS = {"ok": ("✓", "green"), "slow": ("!", "yellow"), "problem": ("✗", "bold red")}

_PACKAGES = (
    "torch", "transformers", "tokenizers", "safetensors", "numpy", "qdrant-edge-py", "qdrant-client", "pillow",
    "pypdfium2", "selectolax", "markdown-it-py", "charset-normalizer", "typer", "rich", "textual-image",
)  # fmt: skip

_LITTLE_SPACE = 1e9

_LARGE_FOR_CPU = 1e9

_MANY_POINTS = 20_000


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `advice` says what to do about what is slow or wrong."""

    name: str
    state: State
    detail: str
    advice: str = ""


@described(
    ("is all well?", "tsembed doctor"),
    ("with another model", "tsembed doctor --model Qwen/Qwen3-VL-Embedding-2B"),
    ("after a disk was full or a backup was restored", "tsembed doctor --repair"),
)
def doctor(
    index: options.IndexName = INDEX,
    url: options.Url = None,
    model: options.Model = None,
    device: options.Device = "auto",
    repair: Annotated[
        bool, typer.Option("--repair", help="Rebuild what the indexer remembers from what the index holds.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Look at everything that a search needs: what is installed, device, model, weights, disk, index.

    Says what is wrong or would be slow, why, and what to do. Exits with 1 when something is wrong.
    """
    address = IndexAddress(index, options.store_of(url))
    if repair:
        _repair(address)
    with render.working("Looking", quiet=json):
        findings = _examine(address, model, device)
    sound = all(finding.state != "problem" for finding in findings)
    if json:
        render.print_json({"ok": sound, "findings": [asdict(finding) for finding in findings]})
    else:
        _print(findings)
    if not sound:
        raise typer.Exit(1)


def _repair(address: IndexAddress) -> None:
    from tsembed_search.index import Index

    with Index.open(address.name, store=address.store) as index, render.working("Repairing"):
        kept = index.repair(render.remark)
    told = f"{wording.count_words(kept.files, 'file')}, {wording.count_words(kept.items, 'item')}"
    render.remark(f"The manifest of the index {address.name} was made again from the index: {told}.")


def _examine(address: IndexAddress, model: str | None, device: str) -> list[Finding]:
    """Every check; one that fails is itself a finding, and the others go on."""
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("software", _software),
        ("storage", _storage),
        ("privacy", lambda: _privacy(address)),
        ("terminal", _terminal),
        ("device", lambda: _device(device)),
        ("index", lambda: _index(address)),
        ("folders", lambda: _folders(address)),
        ("model", lambda: _model(address, model)),
    ]
    findings: list[Finding] = []
    for name, check in checks:
        try:
            findings.extend(check())
        except TsembedError as error:
            findings.append(Finding(name, "problem", error.message, error.hint))
    return findings


def _software() -> Iterator[Finding]:
    import importlib.metadata
    import platform

    found, missing = [], []
    for package in _PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(package)
    yield Finding("tsembed", "ok", f"{__version__}, Python {platform.python_version()}, {platform.system()}")
    yield Finding("packages", "ok", ", ".join(found))
    for package in missing:
        yield Finding("packages", "problem", f"{package} is not installed.", f"Run: pip install {package}")


def _storage() -> Iterator[Finding]:
    import shutil

    folder = home()
    existing = next(each for each in (folder, *folder.parents) if os.path.exists(each))  # noqa: PTH110
    free = shutil.disk_usage(existing).free
    detail = f"{folder}, {wording.size_words(free)} free"
    if not os.path.isdir(existing):  # noqa: PTH112
        yield Finding("storage", "problem", f"{existing} is no folder.", "Set TSEMBED_HOME to a folder.")
    elif not os.access(existing, os.W_OK):
        advice = "Searches work, on a copy. To index: make it writable, or set TSEMBED_HOME to another folder."
        yield Finding("storage", "slow", f"{folder} cannot be written.", advice)
    elif free < _LITTLE_SPACE:
        yield Finding("storage", "slow", detail, "Little space is left; indexing stops when the disk is full.")
    else:
        yield Finding("storage", "ok", detail)


def _privacy(address: IndexAddress) -> Iterator[Finding]:
    folder = address.folder
    if not os.path.isdir(folder):  # noqa: PTH112 - `Path.is_dir` raises where it may not look
        return
    if private.is_open_to_others(folder):
        by_hand = f"chmod -R go= {shlex.quote(str(folder))}"
        advice = f"The next `tsembed index` closes it, if its disk keeps permissions. At once: {by_hand}"
        yield Finding("privacy", "problem", f"Other users of this machine may read the index: {folder}", advice)
    else:
        yield Finding("privacy", "ok", f"only you can read {folder}")


def _terminal() -> Iterator[Finding]:
    from tsembed_search.cli.render.thumbnails import describe_terminal

    yield Finding("thumbnails", "ok", describe_terminal())


def _device(name: str) -> Iterator[Finding]:
    import torch

    from tsembed_search.model import backbone as device

    chosen = device.pick(name)
    threads = torch.get_num_threads()
    if chosen.type != "cpu":
        yield Finding("device", "ok", *words(chosen))
        return
    if (reason := device.unusable_gpu()) is not None:
        yield Finding("device", "slow", f"CPU, though {reason.partition(': ')[0]}", reason.partition(": ")[2] + ".")
        return
    detail = f"CPU, {wording.count_words(threads, 'thread')} of {wording.count_words(os.cpu_count() or 1, 'core')}"
    if threads < (os.cpu_count() or 1) // 2:
        yield Finding("device", "slow", detail, "OMP_NUM_THREADS or a CPU limit keeps the model from using all cores.")
    else:
        yield Finding("device", "ok", detail)


def _index(address: IndexAddress) -> Iterator[Finding]:
    from tsembed_search.index import Index
    from tsembed_search.store.opening import exists

    if not exists(address):
        yield Finding("index", "ok", f"{address.name}: not made yet", "Make it with: tsembed index FOLDER")
        return
    with Index.open(address.name, store=address.store) as index:
        status = index.status()
    if status.store is None:
        yield Finding("index", "slow", status.busy, "Wait until it has finished.")
        return
    assert status.store is not None and status.items is not None
    points, graph = status.store.points, status.store.indexed
    kinds = ", ".join(wording.count_words(count, kind) for kind, count in (status.items or {}).items()) or "empty"
    detail = f"{address.name}: {kinds}; {status.store.engine}; made by {status.metadata.model}"
    if points > _MANY_POINTS and graph < points / 2:
        advice = "Most items are compared one by one. `tsembed index` builds the search graph when a run ends."
        yield Finding("index", "slow", detail, advice)
    else:
        yield Finding("index", "ok", detail)


def _folders(address: IndexAddress) -> Iterator[Finding]:
    from tsembed_search.indexer.manifest import remembered

    for folder in remembered(address.folder).offline:
        why = absence(folder) or "Files of it were missing when the index was last updated."
        advice = "Its files stay in the index. Connect its disk; or remove them: tsembed index FOLDER --prune-empty"
        yield Finding("folders", "slow", f"{folder} is offline. {why}", advice)


def _model(address: IndexAddress, model: str | None) -> Iterator[Finding]:
    import torch

    from tsembed_search.model import registry

    name = model or _model_of(address) or DEFAULT_MODEL
    ref = registry.resolve(name)
    bytes_ = sum(path.stat().st_size for path in _checked_weights(ref))
    detail = f"{ref.name} ({ref.family}, {ref.fingerprint}), {wording.size_words(bytes_)} of weights, checked"
    if bytes_ > _LARGE_FOR_CPU and not torch.cuda.is_available():
        advice = "This model is large and there is no GPU: expect seconds per item. The model `mini` is made for CPUs."
        yield Finding("model", "slow", detail, advice)
    else:
        yield Finding("model", "ok", detail)


def _checked_weights(ref: ModelRef) -> list[Path]:
    """The files of a model's weights, and of its base's. Raises `ModelError` for one that is missing, cut short or not
    the right one.

    What `mini` is made of is compared with its checksums; nothing says what the files of another model should be.
    """
    from tsembed_search.model import files as weights
    from tsembed_search.model.backbones import mini_spec

    if ref.folder is None:
        return [mini_spec.verified(name) for name in mini_spec.FILES]
    base = loading.base_behind(ref)
    files = weights.weight_files(ref.folder) if base == ref else sorted(ref.folder.glob("*.safetensors"))
    for file in files:
        weights.read_header(file)
    return files if base == ref else [*files, *_checked_weights(base)]


def _model_of(address: IndexAddress) -> str | None:
    """The model that made the index, or None when there is no such index or it cannot be asked."""
    from tsembed_search.index import Index

    try:
        with Index.open(address.name, store=address.store) as index:
            return index.metadata.model
    except TsembedError:
        return None


def _print(findings: list[Finding]) -> None:
    if not render.is_terminal():
        for finding in findings:
            print("\t".join(map(wording.shown, (finding.state, finding.name, finding.detail, finding.advice))).rstrip())
        return
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(2):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        mark, style = _MARKS[finding.state]
        words = Text(wording.shown(finding.detail))
        if finding.advice:
            words.append("\n→ " + wording.shown(finding.advice), style=style if finding.state != "ok" else "dim")
        table.add_row(Text(mark, style=style), Text(finding.name, style="bold"), words)
    render.console().print(table)


def words(device: torch.device) -> tuple[str, str]:
    """The GPU in words: its abilities, and advice that follows from them, which may be empty."""
    import torch

    from tsembed_search.model import backbone as devices
    from tsembed_search.model.backbones import hf

    free = devices.free_bytes(device) or 0
    parts = [devices.describe(device), f"{free / 1e9:.1f} GB free"]
    native = devices.has_bfloat16(device)
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        parts.append(f"compute capability {major}.{minor}")
    parts.append("bfloat16" if native else "no bfloat16: large models run in float32, slower and with twice the memory")
    attention = {"flash_attention_2": "flash attention", "sdpa": "PyTorch's own attention"}[hf.attention(device)]
    return f"{', '.join(parts)}, {attention}", _for_recipes(free, device)


def _for_recipes(free: int, device: torch.device) -> str:
    """What of the recipes for models of two billion parameters fits."""
    from tsembed_search.model.backbone import has_bfloat16
    from tsembed_search.model.backbones.budget import LEAST_TOKENS, TWO_BILLION, TWO_BILLION_BYTES

    if device.type == "mps":
        return "Training does not run on the GPU of a Mac yet: tsembed train --device cpu."
    factor = 1 if has_bfloat16(device) else 2
    left = free // factor - TWO_BILLION_BYTES
    if left < 2 * LEAST_TOKENS * TWO_BILLION.checkpointed:
        return "The recipes for models of two billion parameters (mmeb-...) do not fit; those for mini do."
    plain, checkpointed = (TWO_BILLION.training_tokens(left, checkpointing) for checkpointing in (False, True))
    if left < 2 * LEAST_TOKENS * TWO_BILLION.training:
        return f"The recipes mmeb-... fit with --set run.checkpointing=true --set batch.tokens={checkpointed}."
    return (
        f"The recipes mmeb-... fit with batch.tokens of {plain} or less, or of {checkpointed} with "
        "--set run.checkpointing=true."
    )
