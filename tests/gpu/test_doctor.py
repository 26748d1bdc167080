"""What `tsembed doctor` says of GPUs."""

from __future__ import annotations

import pytest
import real_size
import torch

from helpers.device_simulation import SimulatedGPU
from tsembed_search.cli import doctor
from tsembed_search.model import backbone as budget


@pytest.mark.parametrize(
    ("gigabytes", "capability", "said", "advised"),
    [
        (80, (9, 0), "compute capability 9.0, bfloat16, PyTorch's own attention", "batch.tokens of 8192 or less"),
        (24, (8, 6), "24.0 GB free", "or of 16"),
        (16, (7, 5), "no bfloat16: large models run in float32", "run.gradient_checkpointing=true"),
        (12, (8, 6), "bfloat16", "fit with --set run.gradient_checkpointing=true --set batch.tokens="),
        (4, (8, 6), "4.0 GB free", "do not fit; those for mini do"),
    ],
)
def test_says_what_a_card_can_do(gigabytes: int, capability: tuple[int, int], said: str, advised: str) -> None:
    with SimulatedGPU(gigabytes * 10**9, capability):
        finding = next(doctor._device("cuda"))
    assert finding.state == "ok" and said in finding.detail and advised in finding.advice


def test_says_what_a_mac_can_do() -> None:
    with SimulatedGPU(16 * 10**9, kind="mps"):
        finding = doctor._gpu(torch.device("mps"))
    assert "16.0 GB free" in finding.detail and "Training does not run" in finding.advice


def test_says_that_a_gpu_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    finding = next(doctor._device("auto"))
    assert finding.state == "slow" and "driver does not run this PyTorch" in finding.detail
    assert "update the driver" in finding.advice


@pytest.mark.parametrize("size", ["qwen2-vl-2b", "qwen3-vl-2b"])
def test_two_billion_parameters_are_reckoned_as_the_models_are(size: str) -> None:
    real = budget.needs(real_size.config(size))
    for ours, theirs in (
        (budget.TWO_BILLION.training, real.training),
        (budget.TWO_BILLION.checkpointed, real.checkpointed),
    ):
        assert theirs <= ours <= 1.05 * theirs
    assert real.forward <= budget.TWO_BILLION.forward
