"""A GPU that is not there: tensors stay in the CPU's memory, but those that would be on the GPU are marked.

Inside `SimulatedGPU()`, `tensor.to("cuda")` and `torch.zeros(3, device="cuda")` mark their result, and `tensor.device`
says `cuda:0`. An operation that mixes marked tensors with others raises what PyTorch raises. Copies between the two and
waits for the GPU are counted, and so are the bytes of marked tensors: above `limit` an operation raises
`torch.OutOfMemoryError`. What it cannot show: kernels, their workspaces, fragmentation, NCCL, speed.

A mark lies on the storage, so that views share it and it ends when the memory is given back.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.thread import _worker
from contextlib import ExitStack, contextmanager, nullcontext
from types import FunctionType, SimpleNamespace
from typing import Any
from unittest import mock

import safetensors.torch
import torch
import torch.utils.checkpoint
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

GIB = 2**30

_aten = torch.ops.aten
# Operations whose result's shape, or whose caller, needs a number from the GPU.
_WAITING = {"_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select", "unique", "_unique2"}
_DRAWING = {"rand", "randn", "randint", "randperm", "uniform_", "normal_", "bernoulli_", "random_", "native_dropout"}
_PRODUCTS = {"mm", "addmm", "bmm", "baddbmm"}
_MAY_MIX = {"copy_", "index", "index_put", "index_put_", "_index_put_impl_", "set_"}  # what PyTorch allows to mix
_DEVICE_GETTER, _IS_CUDA_GETTER = torch.Tensor.device.__get__, torch.Tensor.is_cuda.__get__  # type: ignore[attr-defined]


class SimulatedGPU:
    """A context in which PyTorch has one GPU of `limit` bytes and compute capability `capability`. `kind`: `cuda`, or
    `mps` for a Mac's.

    `copies` and `waits` count up; `live` and `peak` are bytes of tensors on the GPU. `refused` counts operations that
    did not fit, `drawn` those that the GPU's own random numbers would be drawn for.
    """

    def __init__(self, limit: int = 80 * GIB, capability: tuple[int, int] = (8, 0), kind: str = "cuda") -> None:
        self.limit, self.capability, self.device = limit, capability, torch.device(kind, 0)
        self.copies = self.waits = self.live = self.peak = self.refused = self.drawn = 0
        self._thread = threading.local()
        self._open = ExitStack()

    def __enter__(self) -> SimulatedGPU:
        self._open.enter_context(_patched(self))
        self._open.enter_context(_modes(self))
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def reset(self) -> None:
        """Begins to count anew."""
        self.copies = self.waits = self.refused = 0
        self.peak = self.live

    @property
    def inside(self) -> bool:
        """Whether this thread is in an operation on the GPU's tensors: what it makes for its own use is there, too."""
        return getattr(self._thread, "inside", False)

    @inside.setter
    def inside(self, value: bool) -> None:
        self._thread.inside = value

    @staticmethod
    def holds(tensor: Tensor) -> bool:
        """Whether a tensor is on the GPU."""
        return getattr(_storage(tensor), "on_gpu", False)

    def take(self, tensor: Tensor) -> None:
        """Marks a tensor. Raises `torch.OutOfMemoryError` when it does not fit."""
        storage = _storage(tensor)
        if storage is None or getattr(storage, "on_gpu", False):
            return
        size = storage.nbytes()
        if self.live + size > self.limit:
            self.refused += 1
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size} bytes.")
        storage.on_gpu = True
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._give_back, size)

    def _give_back(self, size: int) -> None:
        self.live -= size

    def move(self, tensor: Tensor, there: bool, waits: bool = True) -> Tensor:
        """A copy of a tensor on the GPU (`there`) or off it; itself when it is where it should be."""
        if self.holds(tensor) == there:
            return tensor
        self.copies += 1
        self.waits += waits
        copy = _copied(tensor)
        if there:
            self.take(copy)
        return copy


def _copied(tensor: Tensor) -> Tensor:
    with torch._C._DisableTorchDispatch():  # not an operation of either side
        return tensor.clone()


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested arguments or results."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _tensors(one)
    elif isinstance(value, dict):
        for one in value.values():
            yield from _tensors(one)


def _storage(tensor: Tensor) -> Any:
    try:
        return tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):  # sparse and fake tensors have none
        return None


def _names_side(device: object) -> bool:
    """Whether it is one of the two sides that there are, not `meta`."""
    return isinstance(device, str | torch.device) and torch.device(device).type in ("cpu", "cuda", "mps")


def _is_gpu(device: object) -> bool:
    return isinstance(device, str | torch.device) and torch.device(device).type != "cpu"


class _Calls(TorchFunctionMode):
    """What is asked of PyTorch by its Python names: where a device is named."""

    def __init__(self, gpu: SimulatedGPU) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        gpu, named = self.gpu, dict(kwargs or {})
        name = getattr(func, "__name__", "")
        own = args[0] if args and isinstance(args[0], Tensor) else None
        if func == _DEVICE_GETTER:
            return gpu.device if gpu.holds(args[0]) else func(*args)
        if func == _IS_CUDA_GETTER:
            return gpu.holds(args[0]) and gpu.device.type == "cuda"
        if own is not None and name in ("to", "cuda", "cpu"):
            return self._to(own, name, list(args[1:]), named)
        if own is not None and name == "pin_memory":
            if gpu.holds(own) or gpu.device.type != "cuda":
                raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")
            pinned = own.clone()
            pinned.untyped_storage().pinned = True  # type: ignore[attr-defined]
            return pinned
        if own is not None and gpu.holds(own) and name in ("numpy", "__array__"):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")
        if own is not None and gpu.holds(own) and name == "tolist":
            gpu.copies, gpu.waits = gpu.copies + 1, gpu.waits + 1
        if _names_side(named.get("device")):
            there = _is_gpu(named["device"])
            gpu.drawn += there and name in _DRAWING
            out = func(*args, **{**named, "device": "cpu"})
            if name in ("tensor", "as_tensor", "asarray", "new_tensor"):
                return gpu.move(out, there)
            return self._put(out, there)
        if isinstance(func, FunctionType):
            return func(*args, **named)
        outer, waits = gpu.inside, gpu.waits
        gpu.inside = any(map(gpu.holds, _tensors((args, named))))
        try:
            return func(*args, **named)
        finally:
            gpu.inside = outer
            if name == "one_hot":  # looks at its numbers on a CPU only
                gpu.waits = waits

    def _put(self, out: Any, there: bool) -> Any:
        for tensor in _tensors(out):
            if there:
                self.gpu.take(tensor)
            elif self.gpu.holds(tensor):
                return self.gpu.move(tensor, False)
        return out

    def _to(self, tensor: Tensor, name: str, rest: list[Any], named: dict[str, Any]) -> Tensor:
        there, gradients = self.gpu.holds(tensor), tensor.requires_grad and torch.is_grad_enabled()
        devices = [one for one in (*rest, named.get("device")) if isinstance(one, Tensor) or _names_side(one)]
        if any(isinstance(one, str | torch.device) and not _names_side(one) for one in (*rest, *named.values())):
            return tensor.to(*rest, **named)
        if name != "to":
            there = name == "cuda"
        elif devices:
            there = self.gpu.holds(devices[0]) if isinstance(devices[0], Tensor) else _is_gpu(devices[0])
        non_blocking = bool(named.get("non_blocking") or True in rest)
        if self.gpu.holds(tensor) != there:
            with torch.no_grad():
                copy = self.gpu.move(tensor, there, not (non_blocking and getattr(_storage(tensor), "pinned", False)))
            tensor = _Moved.apply(tensor, copy) if gradients else copy
        dtypes = [one for one in (*rest, named.get("dtype")) if isinstance(one, torch.dtype)]
        dtypes += [one.dtype for one in devices if isinstance(one, Tensor)]
        layout = named.get("memory_format") or torch.preserve_format
        if dtypes or layout != torch.preserve_format:
            return tensor.to(dtypes[0] if dtypes else tensor.dtype, memory_format=layout)
        return tensor


class _Moved(torch.autograd.Function):
    """A copy to the other side, through which gradients flow back to this one."""

    @staticmethod
    def forward(context: Any, tensor: Tensor, copy: Tensor) -> Tensor:
        context.gpu_side = SimulatedGPU.holds(tensor)
        return copy

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0].to("cuda" if context.gpu_side else "cpu"), None


class _Operations(TorchDispatchMode):
    """What PyTorch does in the end, in backward passes too: which tensors meet, and what they take."""

    def __init__(self, gpu: SimulatedGPU) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        with torch._C.DisableTorchFunction():
            return self._run(func, args, kwargs or {})

    def _run(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        gpu, name = self.gpu, func._schema.name.removeprefix("aten::")
        tensors = list(_tensors((args, kwargs)))
        held = [tensor for tensor in tensors if gpu.holds(tensor)]
        if not tensors and gpu.inside:  # made by an operation for its own use, where its inputs are
            return self._taken(func(*args, **kwargs))
        if not held:
            return func(*args, **kwargs)
        others = [tensor for tensor in tensors if tensor.dim() and not gpu.holds(tensor)]
        if name == "copy_":
            gpu.copies += bool(others)
            gpu.waits += bool(others)
        elif name.startswith(("index", "_index_put")) and name in _MAY_MIX:
            gpu.copies += len(others)
            gpu.waits += any(tensor.dtype == torch.bool for tensor in tensors[1:] if gpu.holds(tensor))
            if not gpu.holds(tensors[0]) or any(tensor.is_floating_point() for tensor in others):
                raise _mixed(name)
        elif others and name not in _MAY_MIX:
            raise _mixed(name)
        gpu.drawn += name in _DRAWING
        gpu.waits += name in _WAITING or (name == "repeat_interleave" and kwargs.get("output_size") is None)
        out = _multiplied(func, args, kwargs) if name in _PRODUCTS else func(*args, **kwargs)
        return out if name == "copy_" else self._taken(out)

    def _taken(self, out: Any) -> Any:
        for tensor in _tensors(out):
            self.gpu.take(tensor)
        return out


def _multiplied(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """A product, of bfloat16 by way of float32: many CPUs take a hundred times as long for it as it is."""
    if kwargs or not all(tensor.dtype == torch.bfloat16 for tensor in _tensors(args)):
        return func(*args, **kwargs)
    return func(*(value.float() if isinstance(value, Tensor) else value for value in args)).bfloat16()


def _mixed(name: str) -> RuntimeError:
    return RuntimeError(
        f"Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! ({name})"
    )


@contextmanager
def _modes(gpu: SimulatedGPU) -> Iterator[None]:
    with _Operations(gpu), _Calls(gpu):
        yield


@contextmanager
def _patched(gpu: SimulatedGPU) -> Iterator[None]:
    """Everything that PyTorch says of GPUs, as if there were one; threads that begin meanwhile know it as well."""
    import torch._dynamo  # its tables name functions that are replaced here, and must not name what replaces them

    enabled, dtype, autocast, submit = (
        torch.is_autocast_enabled,
        torch.get_autocast_dtype,
        torch.autocast,
        ThreadPoolExecutor.submit,
    )

    is_cuda = gpu.device.type == "cuda"

    def of(kind: str) -> str:
        return "cpu" if kind == gpu.device.type else kind

    def submitted(self: ThreadPoolExecutor, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        def inside() -> Any:
            with _modes(gpu):
                return work(*args, **kwargs)

        return submit(self, inside)

    run = threading.Thread.run

    def ran(self: threading.Thread) -> None:
        if getattr(self, "_target", None) is _worker:  # of a pool, whose tasks know it
            run(self)
            return
        with _modes(gpu):
            run(self)

    cuda: dict[str, Any] = {
        "is_available": lambda: is_cuda,
        "is_initialized": lambda: is_cuda,
        "device_count": lambda: int(is_cuda),
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "device": lambda device: nullcontext(),
        "synchronize": lambda device=None: None,
        "empty_cache": lambda: None,
        "get_device_name": lambda device=None: "Simulated",
        "get_device_capability": lambda device=None: gpu.capability,
        "get_device_properties": lambda device=None: SimpleNamespace(
            name="Simulated", total_memory=gpu.limit, major=gpu.capability[0], minor=gpu.capability[1]
        ),
        "is_bf16_supported": lambda including_emulation=True: including_emulation or gpu.capability >= (8, 0),
        "mem_get_info": lambda device=None: (gpu.limit - gpu.live, gpu.limit),
        "memory_allocated": lambda device=None: gpu.live,
        "memory_reserved": lambda device=None: gpu.live,
        "max_memory_allocated": lambda device=None: gpu.peak,
        "reset_peak_memory_stats": lambda device=None: setattr(gpu, "peak", gpu.live),
        "get_rng_state": lambda device=None: torch.get_rng_state(),
        "set_rng_state": lambda state, device=None: torch.set_rng_state(state),
        "manual_seed_all": lambda seed: None,
    }
    amp: dict[str, Any] = {
        "autocast": lambda device_type, *args, **kwargs: autocast(of(device_type), *args, **kwargs),
        "is_autocast_enabled": lambda kind="cuda": enabled(of(kind)),
        "get_autocast_dtype": lambda kind: dtype(of(kind)),
    }
    run_backward = torch.autograd._engine_run_backward  # type: ignore[attr-defined]

    def backward(tensors: Sequence[Tensor], *args: Any, **kwargs: Any) -> Any:
        outer, gpu.inside = gpu.inside, any(gpu.holds(tensor) for tensor in tensors)
        try:
            with _Calls(gpu):  # for blocks that are computed again
                return run_backward(tensors, *args, **kwargs)
        finally:
            gpu.inside = outer

    load_file = safetensors.torch.load_file

    def loaded(file: Any, device: Any = "cpu") -> dict[str, Tensor]:
        return {name: gpu.move(tensor, _is_gpu(device)) for name, tensor in load_file(file).items()}

    with ExitStack() as stack:
        stream = SimpleNamespace(is_capturing=lambda: False)
        stack.enter_context(mock.patch.object(torch.accelerator, "current_stream", lambda device=None: stream))
        # Whether a saved tensor is asked for its device inside an operation or outside of one would make a difference.
        checks = torch.utils.checkpoint._allowed_determinism_checks_to_fns
        stack.enter_context(mock.patch.dict(checks, default=lambda tensor: (tensor.shape, tensor.dtype)))
        stack.enter_context(mock.patch.object(torch.autograd, "_engine_run_backward", backward))
        stack.enter_context(mock.patch.object(safetensors.torch, "load_file", loaded))
        for name, function in cuda.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, function))
        for name, function in amp.items():
            stack.enter_context(mock.patch.object(torch, name, function))
        mac: dict[str, Any] = {
            "recommended_max_memory": lambda: gpu.limit,
            "current_allocated_memory": lambda: gpu.live,
        }
        for name, function in mac.items():
            stack.enter_context(mock.patch.object(torch.mps, name, function))
        stack.enter_context(mock.patch.object(torch.backends.mps, "is_available", lambda: not is_cuda))
        stack.enter_context(mock.patch.object(torch.amp, "autocast", amp["autocast"]))
        stack.enter_context(mock.patch.object(ThreadPoolExecutor, "submit", submitted))
        stack.enter_context(mock.patch.object(threading.Thread, "run", ran))
        yield
