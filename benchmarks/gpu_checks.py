"""The checks of `gpu_check.py`, each a generator of lines."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_check import Check, Line, Setting
from PIL import Image
from torch import Tensor

from tsembed_search.data.rows import Row
from tsembed_search.items import Item
from tsembed_search.model import backbone as devices
from tsembed_search.model import loading, registry
from tsembed_search.model.backbone import Prepared, Trainable, autocast
from tsembed_search.model.backbones import tiny
from tsembed_search.model.embedder import Embedder
from tsembed_search.trainer import gradcache, preparation, recipe
from tsembed_search.trainer.job import Job, Stopped
from tsembed_search.trainer.log import read
from tsembed_search.trainer.loop import train
from tsembed_search.trainer.losses.base import Shape, unpack
from tsembed_search.trainer.settings import Recipe

_WORDS = "red apple on a wooden table by the sea where two old dogs sleep in the sun".split()
_NO_CHANCE = ("adapter.dropout=0", "adapter.noise=0")
_EXACT, _HALF = 0.999, 0.99  # least cosines, of float32 and of bfloat16


def _texts(count: int) -> list[Item]:
    return [Item(" ".join(_WORDS[(at + k) % len(_WORDS)] for k in range(1 + at * 7 % 24))) for at in range(count)]


def _pictures(count: int) -> list[Item]:
    return [
        Item(image=np.random.default_rng(at).integers(0, 256, (60 + 8 * at % 90, 90, 3), dtype=np.uint8))
        for at in range(count)
    ]


def _tiny(setting: Setting, family: str) -> str:
    folder = setting.folder / family
    return str(folder if folder.is_dir() else tiny.make(family, folder))


def _models(setting: Setting) -> list[tuple[str, str]]:
    """Name and place of mini and of the tiny families."""
    families = ["qwen2-vl"] if setting.quick else list(tiny.MAKERS)
    return [("mini", "mini"), *((family, _tiny(setting, family)) for family in families)]


def card(setting: Setting) -> Iterator[Line]:
    """What the card is and can do."""
    yield Line("card", "PyTorch", f"{torch.__version__}, CUDA {torch.version.cuda}")
    reason = devices.unusable_gpu()
    yield Line("card", "auto", str(devices.pick()), reason or "", reason is None)
    if not setting.on_gpu:
        return
    place = torch.device(setting.device)
    free, whole = torch.cuda.mem_get_info(place)
    capability = torch.cuda.get_device_capability(place)
    yield Line("card", "name", torch.cuda.get_device_name(place))
    yield Line("card", "compute capability", ".".join(map(str, capability)), figures={"capability": capability})
    yield Line("card", "memory", f"{free / 1e9:.1f} of {whole / 1e9:.1f} GB free", figures={"free": free, "all": whole})
    yield Line("card", "bfloat16", "native" if devices.has_bfloat16(place) else "emulated: float32 is used")
    from tsembed_search.model.backbones.hf import attention

    yield Line("card", "attention", attention(place))


def vectors(setting: Setting) -> Iterator[Line]:
    """The same vectors as on a CPU, alone as in a batch."""
    items = [*_texts(12), *_pictures(4)]
    for name, place in _models(setting):
        expected = Embedder.load(place, "cpu").embed(items).vectors
        embedder = Embedder.load(place, setting.device)
        least = _EXACT if embedder.info.dtype == "float32" else _HALF
        found = embedder.embed(items).vectors
        alone = np.concatenate([embedder.embed([item]).vectors for item in items])
        for what, one, other in (("as on a CPU", found, expected), ("alone as in a batch", alone, found)):
            cosine = float((one * other).sum(1).min())
            yield Line(
                "vectors",
                f"{name} {what}",
                f"cosine {cosine:.6f}",
                f"at least {least}",
                cosine >= least,
                {"cosine": cosine},
            )
    if setting.on_gpu:
        before = torch.backends.cuda.matmul.allow_tf32
        embedder, expected = Embedder.load("mini", setting.device), Embedder.load("mini", "cpu").embed(items).vectors
        torch.backends.cuda.matmul.allow_tf32 = not before
        cosine = float((embedder.embed(items).vectors * expected).sum(1).min())
        torch.backends.cuda.matmul.allow_tf32 = before
        yield Line(
            "vectors",
            f"mini, TF32 {'off' if before else 'on'}",
            f"cosine {cosine:.6f}",
            f"at least {_EXACT}",
            cosine >= _EXACT,
            {"cosine": cosine},
        )


class _Files:
    """A task of pictures in files and their names."""

    name, meta, weight = "files", "retrieval", 1.0

    def __init__(self, folder: Path, backwards: bool = False) -> None:
        folder.mkdir(exist_ok=True)
        self.backwards = backwards
        self.name = "named" if backwards else "files"
        self.paths = [folder / f"{at}.png" for at in range(16)]
        for path, item in zip(self.paths, _pictures(16), strict=True):
            if not path.exists():
                Image.fromarray(np.asarray(item.image)).save(path)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> Row:
        words, picture = Item(f"picture number {row}"), Item(image=self.paths[row])
        query, target = (picture, words) if self.backwards else (words, picture)
        return Row(query, target, self.identity(row))

    def identity(self, row: int) -> str:
        """Each row is one of its own."""
        return f"{self.name}/{row}"

    def batch(self, row: int) -> int:
        """Rows may meet any others."""
        return 0


def _job(setting: Setting, out: str, base: str, *overrides: str, **changes: Any) -> Job:
    fixed = (
        "steps=2",
        "batch.size=8",
        "sub_batch=4",
        "validate_every=0",
        "checkpoint_every=1",
        "cache=false",
        "workers=2",
    )
    tasks = [_Files(setting.folder / "pictures"), _Files(setting.folder / "pictures", True)]
    asked = recipe.load("tsembed", (*fixed, "batch.tokens=256", f"model.base={base}", *overrides))
    return Job(
        asked,
        tasks,
        changes.pop("held_out", []),
        setting.folder / out,
        changes.pop("device", setting.device),
        **changes,
    )


def steps(setting: Setting) -> Iterator[Line]:
    """Training on picture files, stopped, resumed with another budget, and trained on: weights finite, float32."""
    for base in ("mini-base", "mini", _tiny(setting, "qwen2-vl")):
        name = Path(base).name
        with suppress(Stopped):
            train(_job(setting, f"run-{name}", base, stop=iter([False, True]).__next__))
        report = train(_job(setting, f"run-{name}", base, "batch.tokens=128", resume=True))
        on = train(_job(setting, f"on-{name}", str(report.checkpoint), "steps=1"))
        loaded: Any = loading.load(registry.resolve(str(on.checkpoint)), setting.device)
        tensors = list(loaded.adapters.parameters())
        fine = all(bool(one.isfinite().all()) and one.dtype == torch.float32 for one in tensors)
        there = all(one.device.type == setting.device.partition(":")[0] for one in tensors)
        yield Line(
            "steps",
            f"{name}: run, resumed, trained on",
            f"loss {report.loss:.3f}",
            "finite float32 on the device",
            fine and there,
            {"loss": report.loss},
        )


def _adapted(place: str, where: str, *, checkpointing: bool = False, dropout: float = 0.0) -> Trainable:
    backbone: Any = loading.load(registry.resolve(place), where)
    gradcache.seed_step(0, 0, 0)
    adapters = backbone.adapt(replace(Recipe().adapter, rank=4, dropout=dropout, noise=0.0))
    for layer in adapters.layers.values():
        torch.nn.init.normal_(layer.up.weight, std=0.02)
    for parameter in adapters.parameters():
        parameter.requires_grad_(True)
    if checkpointing:
        backbone.enable_gradient_checkpointing()
    backbone.train(True)
    return backbone  # type: ignore[no-any-return]


def _gradient(backbone: Trainable, items: Sequence[Prepared], tokens: int, where: str) -> Tensor:
    assert backbone.adapters is not None
    place, parameters = torch.device(where), list(backbone.adapters.expert_parameters())
    for parameter in backbone.adapters.parameters():
        parameter.grad = None
    gradcache.seed_step(0, 1, 0)

    def loss(packed: Tensor) -> Tensor:
        found = unpack(packed, Shape(backbone.info.dim, *backbone.adapters.shape)).vectors  # type: ignore[union-attr]
        return torch.logsumexp(found @ found.T / 0.1, 1).mean()

    gradcache.backward(backbone.trace, items, loss, tokens, place)
    return torch.cat(
        [torch.zeros_like(one).flatten() if one.grad is None else one.grad.flatten() for one in parameters]
    )


def _apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm().clamp_min(1e-12))


def pieces(setting: Setting) -> Iterator[Line]:
    """Gradients in pieces and with checkpointing are those of the whole."""
    for name, place in [("mini", "mini-base"), ("qwen2-vl", _tiny(setting, "qwen2-vl"))]:
        backbone = _adapted(place, setting.device)
        items = [backbone.prepare(item) for item in _texts(16)]
        whole = _gradient(backbone, items, 10**6, setting.device)
        budget = sum(one.tokens for one in items) // 4
        limit = 0.001 if backbone.info.dtype == "float32" else 0.1
        apart = _apart(_gradient(backbone, items, budget, setting.device), whole)
        yield Line(
            "pieces",
            f"{name}: in pieces as at once",
            f"{apart:.1e} apart",
            f"at most {limit}",
            apart <= limit,
            {"apart": apart},
        )
        chance = _adapted(place, setting.device, dropout=0.3)
        same = torch.equal(*(_gradient(chance, items, budget, setting.device) for _ in range(2)))
        yield Line("pieces", f"{name}: with dropout, twice", "equal" if same else "different", "equal", same)
        less = _adapted(place, setting.device, checkpointing=True)
        apart = _apart(_gradient(less, items, 10**6, setting.device), whole)
        yield Line(
            "pieces",
            f"{name}: with checkpointing",
            f"{apart:.1e} apart",
            f"at most {limit}",
            apart <= limit,
            {"apart": apart},
        )
        if setting.on_gpu:
            yield from _memory_of(name, backbone, less, items, setting)


def _memory_of(
    name: str, plain: Trainable, less: Trainable, items: Sequence[Prepared], setting: Setting
) -> Iterator[Line]:
    peaks = []
    for backbone in (plain, less):
        _gradient(backbone, items, 10**6, setting.device)
        gc.collect()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        _gradient(backbone, items, 10**6, setting.device)
        gc.collect()
        peaks.append(torch.cuda.max_memory_allocated() - before)
        left = torch.cuda.memory_allocated() - before
        yield Line(
            "pieces", f"{name}: left after a pass", f"{left / 1e6:.2f} MB", "at most 1 MB", left <= 1e6, {"left": left}
        )
    yield Line(
        "pieces",
        f"{name}: peak with checkpointing",
        f"{peaks[1] / 1e6:.1f} of {peaks[0] / 1e6:.1f} MB",
        "less",
        peaks[1] < peaks[0],
        {"peaks": peaks},
    )


def back_off(setting: Setting) -> Iterator[Line]:
    """A batch twice too large is halved once; one item too large fails alone."""
    if not setting.on_gpu:
        return
    embedder = Embedder.load("mini", setting.device)
    items = [embedder.prepare(item) for item in _texts(1)] * 20000
    embedder.encode(items[:10])
    sizes: list[int] = []
    forward = embedder.backbone.forward

    def counted(batch: Sequence[Prepared]) -> Any:
        sizes.append(len(batch))
        return forward(batch)

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    embedder.encode(items[:10000])
    peak, whole = torch.cuda.max_memory_reserved(), torch.cuda.mem_get_info()[1]
    torch.cuda.empty_cache()
    embedder.backbone.forward = counted  # type: ignore[method-assign]
    torch.cuda.set_per_process_memory_fraction(min(1.0, 1.2 * peak / whole))
    try:
        embedder.encode(items)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    yield Line(
        "back_off",
        "a batch twice too large",
        f"tried {sizes}",
        "halved once",
        sizes == [20000, 10000, 10000],
        {"sizes": sizes},
    )
    large = embedder.prepare(_texts(1)[0])

    def hungry(batch: Sequence[Prepared]) -> Any:
        if any(one is large for one in batch):
            torch.empty(2 * whole, dtype=torch.uint8, device=setting.device)
        return forward(batch)

    embedder.backbone.forward = hungry  # type: ignore[method-assign]
    found, failed = embedder.encode_fitting([*items[:50], large, *items[:50]])
    yield Line(
        "back_off",
        "one item too large",
        f"{len(found.vectors)} embedded, failed: {sorted(failed)}",
        "100, and number 50 alone",
        len(found.vectors) == 100 and sorted(failed) == [50],
        {"embedded": len(found.vectors), "failed": sorted(failed)},
    )


def real_size(setting: Setting) -> Iterator[Line]:
    """Memory and speed of training a model of two billion parameters, against what is reckoned."""
    if not setting.on_gpu:
        return
    import real_size as sizes

    from tsembed_search.model import backbone as budget
    from tsembed_search.model.moe_lora import attach

    needs, place = budget.needs(sizes.config("qwen2-vl-2b")), torch.device(setting.device)
    decoder = sizes.model("qwen2-vl-2b", setting.device, depth=1).model.language_model
    adapters = attach(decoder, replace(Recipe().adapter, rank=4, dropout=0.1), "layers")
    for parameter in adapters.parameters():
        parameter.requires_grad_(True)
    decoder.train(True)
    for tokens in (2048, 4096, 8192, 16384):
        free = devices.free_bytes(place) or 0
        if needs.training * tokens > free:
            yield Line("real_size", f"{tokens} tokens", f"reckoned {needs.training * tokens / 1e9:.0f} GB: left out")
            continue
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        seconds = [_pass(decoder, adapters, tokens, autocast("bfloat16", place)) for _ in range(3)][-1]
        taken = torch.cuda.max_memory_allocated() - before
        said = f"{taken / 1e9:.1f} GB, {tokens / seconds:,.0f} tokens a second"
        limit = needs.training * tokens
        yield Line(
            "real_size",
            f"{tokens} tokens",
            said,
            f"at most {limit / 1e9:.1f} GB",
            taken <= limit,
            {"bytes": taken, "seconds": seconds},
        )


def _pass(decoder: Any, adapters: Any, tokens: int, precision: Callable[[], AbstractContextManager[object]]) -> float:
    words = torch.randn(tokens // 512, 512, 1536, device=next(decoder.parameters()).device, dtype=torch.bfloat16)
    torch.cuda.synchronize()
    started = time.perf_counter()
    with precision(), adapters.tracing(None, losses=True) as trace:
        traced = trace.finished(decoder(inputs_embeds=words, use_cache=False).last_hidden_state[:, -1])
    traced.vectors.float().sum().backward()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def recipes(setting: Setting) -> Iterator[Line]:
    """Every recipe, walked through in small."""
    for name in ["tsembed", "mmeb-qwen2vl-2b"] if setting.quick else recipe.RECIPES.names():
        _, report = preparation.dry_run(recipe.load(name), device=setting.device)
        fine = report.loss is not None and np.isfinite(report.loss)
        yield Line("recipes", name, f"loss {report.loss:.3f}", "finite", bool(fine), {"loss": report.loss})


def speed(setting: Setting) -> Iterator[Line]:
    """Items per second of indexing, without reading files; on a GPU also how much of that time it has nothing to do."""
    count = 256 if setting.quick or not setting.on_gpu else 8192
    embedder = Embedder.load("mini", setting.device)
    for what, items in (("texts", _texts(count)), ("pictures", _pictures(min(count, 64)) * max(1, count // 512))):
        prepared = [embedder.prepare(item) for item in items]
        embedder.encode(prepared[:8])
        started = time.perf_counter()
        for at in range(0, len(prepared), 256):
            embedder.encode(prepared[at : at + 256])
        each = len(prepared) / (time.perf_counter() - started)
        yield Line("speed", f"mini: {what}", f"{each:,.0f} items a second", figures={"items_per_second": each})
        if setting.on_gpu:
            idle = _idle(lambda some=prepared[:2048]: embedder.encode(some))
            yield Line("speed", f"mini: {what}, GPU idle", f"{idle:.0%} of the time", figures={"idle": idle})


def _idle(work: Callable[[], object]) -> float:
    """The share of the time of `work` in which no kernel and no copy runs on the GPU."""
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    started = time.perf_counter()
    with profile(activities=[ProfilerActivity.CUDA]) as watched:
        work()
        torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    busy = sum(event.self_device_time_total for event in watched.key_averages()) / 1e6
    return max(0.0, 1 - busy / seconds)


def processes(setting: Setting) -> Iterator[Line]:
    """Two processes train as one does: by NCCL where there are two GPUs, else by gloo on the CPU."""
    two_gpus = setting.on_gpu and torch.cuda.device_count() > 1
    where = "cuda" if two_gpus else "cpu"
    train(_job(setting, "alone", "mini-base", *_NO_CHANCE, device=where))
    port = str(20000 + os.getpid() % 20000)
    children = []
    for rank in range(2):
        said = {
            "WORLD_SIZE": "2",
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        command = [sys.executable, __file__, str(setting.folder), where]
        children.append(subprocess.Popen(command, env={**os.environ, **said}))
    codes = [child.wait(600) for child in children]
    losses = [
        [record["loss"] for record in read(setting.folder / run / "log.jsonl") if record["kind"] == "step"]
        for run in ("alone", "together")
    ]
    apart = max(abs(a - b) for a, b in zip(*losses, strict=True))
    yield Line(
        "processes",
        f"two by {'NCCL' if two_gpus else 'gloo'}",
        f"losses {apart:.1e} apart",
        "at most 0.001",
        codes == [0, 0] and apart <= 0.001,
        {"losses": losses},
    )


CHECKS: dict[str, Check] = {
    check.__name__: check for check in (card, vectors, steps, pieces, back_off, real_size, recipes, speed, processes)
}
"""By name, in the order in which they run."""


if __name__ == "__main__":  # one of the two processes of `processes`
    train(_job(Setting(sys.argv[2], Path(sys.argv[1])), "together", "mini-base", *_NO_CHANCE, device=sys.argv[2]))
