"""OpenVINO: an engine for small models on a CPU, several times as fast as PyTorch, and loaded in a tenth of its time.

A graph is made from a model's weights once, and kept in `$TSEMBED_HOME/cache/engine`, where the next process finds it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from tsembed_search import private
from tsembed_search.paths import home

Precision = Literal["f32", "bf16"]
Arrays = Sequence[NDArray[Any]]

# bfloat16 is coarser: it must be worth it.
_GAIN = 0.8
_DIGEST = hashlib.sha256().digest_size


@cache
def openvino() -> Any:
    """Return the package, or None where it is not installed or does not run.

    Its converter, which it imports by itself, reports over the network that it was imported. So that one is left out.
    """
    if importlib.util.find_spec("openvino") is None:
        return None
    converter = "openvino.tools.ovc"
    hide = converter not in sys.modules
    if hide:
        sys.modules[converter] = None  # type: ignore[assignment]
    try:
        import openvino

        openvino.Core().available_devices  # noqa: B018 - raises where the engine does not run
        return openvino
    except (ImportError, OSError, RuntimeError):
        return None
    finally:
        if hide:
            del sys.modules[converter]


@cache
def core() -> Any:
    """Return the engine itself, one for the process."""
    return openvino().Core()


def has_bfloat16() -> bool:
    """Tell whether the CPU computes in bfloat16 itself, and may."""
    most = os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper()
    may = any(word in most for word in ("ALL", "DEFAULT", "BF16", "FP16", "AMX"))
    return may and core().get_property("CPU", "INFERENCE_PRECISION_HINT") == openvino().Type.bf16


@cache
def fast_precision() -> Precision:
    """Return `bf16` where a large product takes much less time in it than in float32, else `f32`.

    Having instructions for it is not enough: without matrix tiles (AMX), some CPUs take half as long again as in
    float32, others half as long. It takes a fifth of a second to find out.
    """
    if not has_bfloat16():
        return "f32"
    times: dict[Precision, list[float]] = {"f32": [], "bf16": []}
    products = {precision: _product(precision) for precision in times}
    for turn in range(9):
        for precision, compute in products.items():
            started = time.thread_time()  # other work on the same cores does not count
            compute()
            if turn:
                times[precision].append(time.thread_time() - started)
    return "bf16" if sum(times["bf16"]) < _GAIN * sum(times["f32"]) else "f32"


def _product(precision: Precision) -> Callable[[], Any]:
    """A product of the size that a text of mini's takes, in the thread that asks for it."""
    import openvino.opset13 as operations

    given = operations.parameter([-1, 384], np.float32)
    weights = np.linspace(-1, 1, 1536 * 384, dtype=np.float32).reshape(1536, 384)
    product = operations.matmul(given, operations.constant(weights), False, True)
    model = openvino().Model([operations.result(product)], [given], "product")
    settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"}
    request = core().compile_model(model, "CPU", settings).create_infer_request()
    return partial(request.infer, [np.ones((256, 384), np.float32)])


class Facts(NamedTuple):
    """The engine's name with its version, and its `fast_precision`."""

    name: str
    precision: Precision


def facts() -> Facts | None:
    """Return what the engine says of itself, or None where it does not run. It is loaded once for that, on each CPU."""
    if (spec := importlib.util.find_spec("openvino")) is None or spec.origin is None:
        return None
    installed = Path(spec.origin).stat()
    may = os.environ.get("ONEDNN_MAX_CPU_ISA")
    told = f"measured {spec.origin} {installed.st_mtime_ns} {installed.st_size} {may} {_cpu()}"
    key = hashlib.sha256(told.encode()).hexdigest()
    file = _folder() / "facts.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(file.read_text("utf-8"))
        if known["key"] == key:
            return Facts(str(known["name"]), cast(Precision, {"f32": "f32", "bf16": "bf16"}[known["precision"]]))
    if openvino() is None:
        return None
    found = Facts(name(), fast_precision())
    _keep(file, [json.dumps({"key": key, **found._asdict()}).encode()])
    return found


def _cpu() -> str:
    """Names and features that tell one CPU from another, without the engine."""
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
        lines = file.read(8192).partition("\n\n")[0].splitlines()
        return " ".join(line for line in lines if line.startswith(("vendor_id", "model name", "flags", "Features")))
    return os.environ.get("PROCESSOR_IDENTIFIER", sys.platform)


def _folder() -> Path:
    return home() / "cache" / "engine"


def _keep(file: Path, parts: Sequence[bytes | memoryview]) -> None:
    """Write a file of the cache, whole or not at all. Where nothing can be written, there is none."""
    with suppress(OSError):
        private.make_folder(file.parent)
        number, partial = tempfile.mkstemp(".partial", dir=file.parent)
        try:
            with os.fdopen(number, "wb") as stream:
                stream.writelines(parts)
            Path(partial).replace(file)
        finally:
            Path(partial).unlink(missing_ok=True)


def name() -> str:
    """Return the engine's name and version."""
    return f"OpenVINO {str(openvino().__version__).partition('-')[0]}"


def words() -> str | None:
    """Say which engine it is, and in which precisions it computes; None where it does not run."""
    if (found := facts()) is None:
        return None
    texts = "bfloat16" if found.precision == "bf16" else "float32"
    return f"{found.name}, queries and pictures in float32, texts in {texts}"


def threads() -> int:
    """Count the threads that the engine may use: as many as there are cores for this process, or `OMP_NUM_THREADS`."""
    if (asked := os.environ.get("OMP_NUM_THREADS", "")).isdigit():
        return max(1, int(asked))
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Graph:
    """A graph as the engine takes it: from the last time, or else as `make` gives it now, and kept for the next time.

    `name` says which model it is of, and `state` in which state its files are: of one name only the newest is kept,
    once for each precision. One that is damaged, or was made for another CPU, is made again. Two processes may do that
    at once. Where nothing can be written, it is made each time. Raises `RuntimeError` when the engine does not take it.
    """

    def __init__(self, name: str, state: str, make: Callable[[], Any]) -> None:
        cpu = core().get_property("CPU", "FULL_DEVICE_NAME")
        version = hashlib.sha256(f"{openvino().__version__} {cpu}".encode()).hexdigest()[:16]
        self._name = name
        self._kept_as = f"{name}-{_short(state)}-{version}"
        self._make = make
        self._bytes: dict[Precision, NDArray[np.uint8]] = {}
        self._in("f32")

    def compiled(self, precision: Precision, settings: dict[str, Any]) -> Any:
        """Return the graph, ready to run in a precision."""
        settings = {**settings, "INFERENCE_PRECISION_HINT": precision}
        try:
            return self._imported(precision, settings)
        except RuntimeError:  # kept by another CPU of the same name
            self._bytes[precision] = self._made(precision)
            return self._imported(precision, settings)

    def _imported(self, precision: Precision, settings: dict[str, Any]) -> Any:
        return core().import_model(openvino().Tensor(self._in(precision), shared_memory=True), "CPU", settings)

    def _in(self, precision: Precision) -> NDArray[np.uint8]:
        """The graph's bytes. Those of one precision must not run in the other: with AMX the engine then writes beyond
        its memory, from 33 tokens on.
        """
        if precision not in self._bytes:
            found = _read(self._file(precision))
            self._bytes[precision] = self._made(precision) if found is None else found
        return self._bytes[precision]

    def _file(self, precision: Precision) -> Path:
        return _folder() / f"{self._kept_as}-{precision}.graph"

    def _made(self, precision: Precision) -> NDArray[np.uint8]:
        compiled = core().compile_model(self._make(), "CPU", {"INFERENCE_PRECISION_HINT": precision})
        made = compiled.export_model().getvalue()
        file = self._file(precision)
        _keep(file, [made, hashlib.sha256(made).digest()])
        with suppress(OSError):
            for old in file.parent.glob(f"{self._name}-*.graph"):
                if not old.name.startswith(f"{self._kept_as}-"):
                    old.unlink()
        return np.frombuffer(bytearray(made), np.uint8)


def is_kept(name: str, state: str) -> bool:
    """Tell whether a graph was made of a model whose files are in this state, for whatever CPU."""
    return any(_folder().glob(f"{name}-{_short(state)}-*.graph"))


def _short(state: str) -> str:
    return hashlib.sha256(state.encode()).hexdigest()[:8]


def _read(file: Path) -> NDArray[np.uint8] | None:
    """The bytes before the digest at the end of a file; None where they are not those it was made of."""
    try:
        whole = np.memmap(file, np.uint8, "c")  # the engine shares only what may be written, and writes nothing
    except (OSError, ValueError):  # there is none, or it is empty
        return None
    found, digest = whole[:-_DIGEST], whole[-_DIGEST:]
    return found if hashlib.sha256(found.data).digest() == digest.tobytes() else None


class Runner:
    """A graph that is ready to run, on all cores: for one input at a time, or for `many` beside each other."""

    def __init__(self, graph: Graph, precision: Precision, many: bool = False) -> None:
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "THROUGHPUT" if many else "LATENCY",
            "ENABLE_CPU_PINNING": False,  # other processes use the cores as well
            "INFERENCE_NUM_THREADS": threads(),
        }
        self._graph = graph  # its bytes are read in place
        compiled = graph.compiled(precision, settings)
        self._width = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")) if many else 1
        self._outputs = len(compiled.outputs)
        self._tensor = openvino().Tensor
        self._requests = [compiled.create_infer_request() for _ in range(self._width)]
        self._given: list[Arrays] = [()] * self._width

    def run(self, inputs: Iterable[Arrays]) -> list[Arrays]:
        """Return the outputs for each of some inputs, in their order. One thread at a time may call it."""
        found: list[Arrays] = []
        started = 0
        for one in inputs:
            if started >= self._width:
                found.append(self._output(started))
            request = self._requests[started % self._width]
            self._given[started % self._width] = one  # it is read in place
            for place, array in enumerate(one):
                request.set_input_tensor(place, self._tensor(array, shared_memory=True))
            request.start_async()
            started += 1
        while len(found) < started:
            found.append(self._output(len(found)))
        return found

    def _output(self, number: int) -> Arrays:
        request = self._requests[number % self._width]
        request.wait()
        return [request.get_output_tensor(place).data.copy() for place in range(self._outputs)]
