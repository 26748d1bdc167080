"""The simulated GPU itself: what a real one refuses, it refuses."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from helpers.device_simulation import SimulatedGPU


def test_knows_where_tensors_are() -> None:
    with SimulatedGPU():
        there, here = torch.ones(2, 3, device="cuda"), torch.ones(2, 3)
        assert there.device == torch.device("cuda:0") and there.is_cuda and here.device.type == "cpu"
        made = (there + 1, there[0], there.half(), torch.empty_like(there), there.new_zeros(3), here.to(there.device))
        assert all(one.is_cuda for one in made)
        assert not there.cpu().is_cuda and there.cpu().numpy().sum() == 6


@pytest.mark.parametrize("mix", ["add", "cat", "matmul", "stack", "where", "put", "module"])
def test_refuses_to_mix(mix: str) -> None:
    with SimulatedGPU():
        there, here = torch.ones(3, 3, device="cuda"), torch.ones(3, 3)
        ways = {
            "add": lambda: there + here,
            "cat": lambda: torch.cat([there, here]),
            "matmul": lambda: here @ there,
            "stack": lambda: torch.stack([here, there]),
            "where": lambda: torch.where(there > 0, here, there),
            "put": lambda: here.index_put_((torch.tensor([1]),), there[:1]),
            "module": lambda: torch.nn.Linear(3, 3)(there),
        }
        with pytest.raises(RuntimeError, match="same device"):
            ways[mix]()
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()


def test_allows_what_is_allowed() -> None:
    """A number of no dimensions from the CPU, and places from the CPU."""
    with SimulatedGPU() as gpu:
        there = torch.arange(4.0, device="cuda")
        assert (there * torch.tensor(2.0)).is_cuda and gpu.copies == 0
        assert there[torch.tensor([1, 2])].tolist() == [1, 2]
        assert (gpu.copies, gpu.waits) == (2, 1)


def test_gradients_cross_sides_and_stay_on_them() -> None:
    with SimulatedGPU():
        layer, start = torch.nn.Linear(3, 2, device="cuda"), torch.ones(4, 3, requires_grad=True)
        first, _ = layer(start.to("cuda")).split([1, 1], dim=1)
        first.square().sum().backward()
        assert layer.weight.grad is not None and layer.weight.grad.is_cuda
        assert start.grad is not None and not start.grad.is_cuda


def test_counts_copies_and_waits() -> None:
    with SimulatedGPU() as gpu:
        pinned = torch.ones(3).pin_memory()
        there = pinned.to("cuda", non_blocking=True)
        assert (gpu.copies, gpu.waits) == (1, 0)
        torch.ones(3).to("cuda")
        assert (gpu.copies, gpu.waits) == (2, 1)
        bool((there > 0).all())
        float(there.sum())
        assert (gpu.copies, gpu.waits) == (2, 3)
        assert there[there > 0].cpu().tolist() == [1, 1, 1]
        assert (gpu.copies, gpu.waits) == (3, 5)


def test_memory_is_taken_and_given_back() -> None:
    with SimulatedGPU(limit=1000) as gpu:
        kept = torch.zeros(100, device="cuda")
        view = kept[10:]
        assert gpu.live == 400
        with pytest.raises(torch.OutOfMemoryError):
            torch.cat([kept, view])
        del kept
        assert (gpu.live, gpu.refused) == (400, 1)
        del view
        gc.collect()
        assert (gpu.live, gpu.peak) == (0, 400)


def test_a_traceback_keeps_memory() -> None:
    """As it does on a GPU: what an exception holds is given back when the exception is gone."""

    def fails() -> None:
        own = torch.zeros(100, device="cuda")
        own.repeat(3)

    with SimulatedGPU(limit=1000) as gpu:
        try:
            fails()
        except torch.OutOfMemoryError:
            assert gpu.live == 400
        assert gpu.live == 0


def test_threads_know_it() -> None:
    with SimulatedGPU() as gpu, ThreadPoolExecutor(1) as pool:
        there = pool.submit(torch.zeros, 3, device="cuda").result()
        assert there.is_cuda and gpu.live == 12


def test_autocast_is_that_of_the_device() -> None:
    with SimulatedGPU(), torch.autocast("cuda", torch.bfloat16):
        there = torch.ones(2, 2, device="cuda")
        assert (there @ there).dtype == torch.bfloat16 and torch.is_autocast_enabled("cuda")
