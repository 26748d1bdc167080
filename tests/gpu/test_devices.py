"""Which device is taken, in which precision, and what is refused, with its reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.device_simulation import SimulatedGPU
from tsembed_search.errors import ModelError, UsageError
from tsembed_search.items import Item
from tsembed_search.model import backbone as device
from tsembed_search.model import loading, registry
from tsembed_search.model.backbone import autocast
from tsembed_search.model.backbones import hf
from tsembed_search.model.embedder import Embedder
from tsembed_search.trainer import gradcache
from tsembed_search.trainer.settings import Recipe

FAMILIES = ["qwen2-vl", "qwen2.5-vl", "qwen3-vl", "smolvlm", "idefics3", "llava-onevision"]
ITEMS = [
    *(Item(f"text {number} " * (number + 1)) for number in range(5)),
    Item(image=np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8)),
    Item("both", np.random.default_rng(1).integers(0, 256, (30, 90, 3), dtype=np.uint8)),
]
TURING = (7, 5)


@pytest.fixture
def unusable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that is counted, and whose driver is too old for this PyTorch."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_auto_leaves_a_gpu_alone_that_cannot_be_used(unusable: None) -> None:
    assert device.pick("auto").type == "cpu"
    assert Embedder.load("mini-base").info.device == "cpu"


@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_a_gpu_that_cannot_be_used_is_refused_with_the_reason(unusable: None, name: str) -> None:
    with pytest.raises(ModelError, match=r"its driver does not run this PyTorch, which was built for CUDA .*: update"):
        device.pick(name)


def test_picks() -> None:
    with SimulatedGPU():
        assert device.pick().type == "cuda" and device.pick("cpu").type == "cpu"
        with pytest.raises(ModelError, match="cuda:1 does not exist: there are 1"):
            device.pick("cuda:1")
        with pytest.raises(ModelError, match="no Mac"):
            device.pick("mps")
    with SimulatedGPU(kind="mps"):
        assert device.pick().type == "cpu", "nobody has measured it: it has to be asked for"
        assert device.pick("mps").type == "mps"


@pytest.mark.parametrize("family", [*FAMILIES, "mini"])
@pytest.mark.parametrize(("kind", "capability"), [("cuda", (8, 0)), ("cuda", TURING), ("mps", (0, 0))])
def test_every_family_on_every_kind_of_gpu(
    family: str, kind: str, capability: tuple[int, int], tiny: Callable[[str], str]
) -> None:
    """The same vectors as on a CPU; in bfloat16 only where the GPU has it."""
    name = family if family == "mini" else tiny(family)
    expected = Embedder.load(name, "cpu").embed(ITEMS).vectors
    with SimulatedGPU(kind=kind, capability=capability) as gpu:
        embedder = Embedder.load(name, kind)
        found = embedder.embed(ITEMS).vectors
        assert gpu.live > 0 and embedder.info.device.startswith(kind)
    halved = capability >= (8, 0) and family != "mini"
    assert embedder.info.dtype == ("bfloat16" if halved else "float32")
    assert (found * expected).sum(1).min() > (0.995 if halved else 0.99999)


def test_weights_that_do_not_fit_are_refused(tiny: Callable[[str], str]) -> None:
    with SimulatedGPU(limit=100_000), pytest.raises(ModelError, match=r"take 0\.0 GB in bfloat16, and cuda:0 .* free"):
        Embedder.load(tiny("qwen2-vl"))
    with (
        SimulatedGPU(limit=100_000, capability=TURING),
        pytest.raises(ModelError, match=r"in float32 \(this GPU has no bfloat16, which would take half\)"),
    ):
        Embedder.load(tiny("qwen2-vl"))


def test_room_is_asked_in_the_precision_it_is_loaded_in() -> None:
    eight_billion, card = 8 * 10**9, torch.device("cuda:0")
    with SimulatedGPU(limit=24 * 10**9):
        device.check_room("a model", eight_billion, torch.bfloat16, card)
        with pytest.raises(ModelError, match=r"take 32\.0 GB in float32, and"):
            device.check_room("a model", eight_billion, torch.float32, card)
    device.check_room("a model", eight_billion, torch.float32, torch.device("cpu"))


def test_flash_attention_only_where_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers.utils

    monkeypatch.setattr(transformers.utils, "is_flash_attn_2_available", lambda: True)
    card = torch.device("cuda:0")
    for capability, expected in (((8, 0), "flash_attention_2"), ((9, 0), "flash_attention_2"), (TURING, "sdpa")):
        with SimulatedGPU(capability=capability):
            assert hf.attention(card) == expected
    assert hf.attention(torch.device("cpu")) == "sdpa"


@pytest.mark.parametrize(
    ("name", "capability", "bfloat16"),
    [
        ("auto", (8, 0), True),
        ("auto", TURING, False),
        ("float32", (8, 0), False),
        ("bfloat16", (8, 0), True),
        ("bfloat16", TURING, True),
    ],
)
def test_precision_of_training(name: str, capability: tuple[int, int], bfloat16: bool) -> None:
    with SimulatedGPU(capability=capability), autocast(name, torch.device("cuda:0"))():
        assert torch.is_autocast_enabled("cuda") == bfloat16


def test_training_on_a_mac_is_refused(tmp_path: Path) -> None:
    from helpers.training_data import job
    from tsembed_search.trainer.loop import train

    with SimulatedGPU(kind="mps"), pytest.raises(UsageError, match="GPU of a Mac"):
        train(job(tmp_path / "run", device="mps"))


@pytest.mark.parametrize("base", ["mini-base", "qwen2-vl"])
def test_a_seed_means_the_same_adapters_everywhere(base: str, tiny: Callable[[str], str]) -> None:
    name = base if base == "mini-base" else tiny(base)
    settings = replace(Recipe().adapter, rank=2, projector=base == "mini-base")

    def drawn(where: str) -> tuple[dict[str, torch.Tensor], list[bool]]:
        backbone: Any = loading.load(registry.resolve(name), where)
        gradcache.seed_step(1, 0, 0)
        adapters = backbone.adapt(settings)
        state = adapters.expert_state() | adapters.router_state()
        return {key: tensor.cpu() for key, tensor in state.items()}, [one.is_cuda for one in adapters.parameters()]

    here, _ = drawn("cpu")
    with SimulatedGPU() as gpu:
        there, on_gpu = drawn("cuda")
    assert all(on_gpu) and gpu.drawn == 0, "a GPU draws other numbers"
    assert here.keys() == there.keys() and all(torch.equal(here[key], there[key]) for key in here)


def test_a_launcher_may_show_each_process_one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from tsembed_search.trainer import distributed as ranks

    begun: list[str] = []
    monkeypatch.setattr(ranks.dist, "init_process_group", lambda backend, **_: begun.append(backend))
    monkeypatch.setattr(ranks.dist, "get_rank", lambda: 3)
    for name, value in {"WORLD_SIZE": "8", "LOCAL_RANK": "3", "RANK": "3", "CUDA_VISIBLE_DEVICES": "3"}.items():
        monkeypatch.setenv(name, value)
    with SimulatedGPU():
        group, device_name = ranks.join()
        assert (device_name, group.rank, begun) == ("cuda:0", 3, ["nccl"])
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        with pytest.raises(UsageError, match="There are 1 GPUs for 8 processes"):
            ranks.join()


def test_gradients_are_exchanged_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from tsembed_search.trainer import distributed as ranks

    exchanged: list[int] = []

    def doubled(tensor: torch.Tensor) -> None:
        exchanged.append(tensor.numel())
        tensor.mul_(2)

    monkeypatch.setattr(ranks.dist, "all_reduce", doubled)
    parameters = [torch.nn.Parameter(torch.ones(2, 3)), torch.nn.Parameter(torch.ones(4))]
    parameters[0].grad = torch.arange(6.0).view(2, 3)
    ranks.Processes(0, 2).sum_gradients(parameters)
    assert exchanged == [10]
    assert torch.equal(parameters[0].grad, 2 * torch.arange(6.0).view(2, 3))
    assert parameters[1].grad is not None and not parameters[1].grad.any()


@pytest.mark.parametrize("where", ["cuda", "cpu"])
def test_weights_go_straight_to_the_gpu(
    where: str, tiny: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the whole of them through the host's memory first."""
    import transformers

    asked: list[Any] = []
    load = transformers.Qwen2VLForConditionalGeneration.from_pretrained

    def loaded(*args: Any, **kwargs: Any) -> Any:
        asked.append(kwargs["device_map"])
        return load(*args, **kwargs)

    monkeypatch.setattr(transformers.Qwen2VLForConditionalGeneration, "from_pretrained", loaded)
    with SimulatedGPU() as gpu:
        Embedder.load(tiny("qwen2-vl"), where)
    with SimulatedGPU(2**30):
        Embedder.load(tiny("qwen2-vl"), where)
    assert asked == ([{"": gpu.device}, None] if where == "cuda" else [None, None])
