"""What computes `mini` on a CPU, and what it could be: `python benchmarks/engines.py --json`.

The same texts pass through sentence-transformers (MiniLM, in PyTorch), `mini` in PyTorch, and `mini` in OpenVINO in
float32 and, where the CPU has it, in bfloat16. With `--onnx`, MiniLM passes through ONNX Runtime, too: it
needs the packages onnxruntime, onnx and onnxscript. Rounds alternate, and figures are medians of ratios within a round,
so that a busy machine slows all alike; seconds of the processor are disturbed less. An older CPU is imitated by the
variables ONEDNN_MAX_CPU_ISA=AVX2, MKL_ENABLE_INSTRUCTIONS=AVX2 and ATEN_CPU_CAPABILITY=avx2.

Then vectors and routes, of pictures as well, are compared with those of PyTorch, and so are the hits of descriptions
among the leads of an encyclopaedia (see `queries.py`).
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import typer
from numpy.typing import NDArray
from queries import write_leads

from tsembed_search.items import Item
from tsembed_search.model import engine, loading, registry
from tsembed_search.model.backbones import mini_spec
from tsembed_search.model.embedder import Embedder

_STARTS = {
    "import torch": "import torch",
    "PyTorch": "from tsembed_search.model import loading, registry; from tsembed_search import Embedder\n"
    "Embedder(loading.load(registry.resolve('mini'), 'cpu')).embed([Item('a red bicycle')], 'query')",
    "OpenVINO": "from tsembed_search import Embedder\n"
    "Embedder.load('mini', 'cpu').embed([Item('a red bicycle')], 'query')",
}
_START = """
import sys, time
from pathlib import Path
started = time.perf_counter()
from tsembed_search.items import Item
{}
peak = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
memory = int(peak[0].split()[1]) / 1024  # getrusage would tell of the process that forked this one
print(time.perf_counter() - started, memory)
"""
Rate = Callable[[Sequence[str]], Any]


def main(
    texts: Annotated[int, typer.Option(help="Texts of a round.")] = 200,
    rounds: Annotated[int, typer.Option(help="Rounds, after one to warm up.")] = 5,
    leads: Annotated[int, typer.Option(help="Leads to find again.")] = 2000,
    queries: Annotated[int, typer.Option(help="Descriptions to find them by.")] = 500,
    onnx: Annotated[bool, typer.Option("--onnx", help="ONNX Runtime as well.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object last.")] = False,
) -> None:
    """Measures starts, speed, agreement and hits."""
    with tempfile.TemporaryDirectory() as folder:
        asked = write_leads(Path(folder) / "leads", None, leads, queries)
        read = [path.read_text("utf-8").strip() for path in sorted((Path(folder) / "leads").iterdir())]
    torch = Embedder(loading.load(registry.resolve("mini"), "cpu"))
    quick = Embedder.load("mini", "cpu")
    figures = {
        "engine": quick.info.engine,
        "indexing": quick.info.dtype,
        "starts": starts(rounds),
        "speed": speed(torch, quick, read[:texts], rounds, onnx),
        "one query": one_query(torch, quick, asked),
        "agreement": agreement(torch, quick, read, asked),
    }
    for name, found in figures.items():
        print(f"{name}:", found if isinstance(found, str) else "")
        for row, values in found.items() if isinstance(found, dict) else ():
            print(f"  {row:<24}", ", ".join(f"{key} {value:.6g}" for key, value in values.items()))
    if as_json:
        print(json.dumps({"benchmark": "engines", **figures}))


def starts(rounds: int) -> dict[str, dict[str, float]]:
    """From a process's start to its first vector, against `import torch` alone, and its peak memory."""
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in _STARTS}
    for _ in range(rounds + 1):
        for name, code in _STARTS.items():
            program = [sys.executable, "-c", _START.format(code)]
            done = subprocess.run(program, capture_output=True, text=True, check=True)
            seconds, memory = map(float, done.stdout.split())
            measured[name].append((seconds, memory))
    floor = [seconds for seconds, _ in measured["import torch"]]
    return {
        name: {
            "over_import_torch": statistics.median(one / of for (one, _), of in zip(found, floor, strict=True)),
            "seconds": statistics.median(seconds for seconds, _ in found),
            "megabytes": statistics.median(memory for _, memory in found),
        }
        for name, found in measured.items()
    }


def speed(torch: Embedder, quick: Embedder, texts: list[str], rounds: int, onnx: bool) -> dict[str, dict[str, float]]:
    """Texts a second, against sentence-transformers."""
    from sentence_transformers import SentenceTransformer

    peer = SentenceTransformer(str(mini_spec.file_path("encoder").parent), device="cpu")
    items = [Item(text) for text in texts]
    sides: dict[str, Callable[[], object]] = {
        "sentence-transformers": lambda: peer.encode(texts),
        "mini, PyTorch": lambda: torch.embed(items),
        f"mini, OpenVINO, {engine.fast_precision()}": lambda: quick.embed(items),
    }
    if other := {"bf16": "f32", "f32": "bf16" if engine.has_bfloat16() else ""}[engine.fast_precision()]:
        known, precision = engine.facts, cast(engine.Precision, other)
        engine.facts = lambda: engine.Facts(engine.name(), precision)
        slower = Embedder.load("mini", "cpu")
        engine.facts = known
        sides[f"mini, OpenVINO, {other}"] = lambda: slower.embed(items)
    if onnx:
        sides["MiniLM, ONNX Runtime"] = onnx_runtime(torch, texts)
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, side in sides.items():
            wall, processor = time.perf_counter(), time.process_time()
            side()
            if turn:
                measured[name].append((time.perf_counter() - wall, time.process_time() - processor))
    floor = measured["sentence-transformers"]
    found = {}
    for name, times in measured.items():
        ratios = [of[0] / one[0] for one, of in zip(times, floor, strict=True)]
        found[name] = {
            "texts_per_second": len(texts) / statistics.median(wall for wall, _ in times),
            "ratio": statistics.median(ratios),
            "least": min(ratios),
            "most": max(ratios),
            "processor_ratio": statistics.median(of[1] / one[1] for one, of in zip(times, floor, strict=True)),
        }
    return found


def onnx_runtime(torch: Embedder, texts: list[str]) -> Callable[[], object]:
    """MiniLM without experts in ONNX Runtime, on batches of 1,024 tokens of similar length."""
    import onnxruntime
    import torch as library
    from transformers import BertModel

    folder = mini_spec.file_path("encoder").parent
    model = BertModel.from_pretrained(str(folder), attn_implementation="eager", add_pooling_layer=False).eval()
    file = str(Path(tempfile.mkdtemp()) / "model.onnx")
    one = library.ones(2, 7, dtype=library.long)
    axes = {"input_ids": {0: "rows", 1: "tokens"}, "attention_mask": {0: "rows", 1: "tokens"}}
    library.onnx.export(
        model, (one, one), file, input_names=list(axes), output_names=["hidden"], dynamic_axes=axes, dynamo=False
    )
    session = onnxruntime.InferenceSession(file)
    ids = sorted((torch.prepare(Item(text)).data.ids for text in texts), key=len)
    batches: list[list[list[int]]] = [[]]
    for row in ids:
        if (len(batches[-1]) + 1) * len(row) > 1024:
            batches.append([])
        batches[-1].append(row)

    def run() -> None:
        for batch in filter(None, batches):
            places = np.zeros((len(batch), len(batch[-1])), np.int64)
            mask = np.zeros_like(places)
            for row, own in enumerate(batch):
                places[row, : len(own)], mask[row, : len(own)] = own, 1
            session.run(None, {"input_ids": places, "attention_mask": mask})

    return run


def one_query(torch: Embedder, quick: Embedder, asked: Sequence[str]) -> dict[str, dict[str, float]]:
    """Milliseconds of queries that have not been seen before, one by one."""
    found: dict[str, list[float]] = {"PyTorch": [], "OpenVINO": []}
    for number, text in enumerate(asked[:130]):
        for name, embedder in (("PyTorch", torch), ("OpenVINO", quick)):
            started = time.perf_counter()
            embedder.embed([Item(text)], "query")
            if number >= 30:
                found[name].append((time.perf_counter() - started) * 1000)
    return {name: {"p50": statistics.median(times), "least": min(times)} for name, times in found.items() if times}


def agreement(torch: Embedder, quick: Embedder, read: list[str], asked: list[str]) -> dict[str, dict[str, float]]:
    """Vectors, routes and hits, against PyTorch's."""
    items, questions = [Item(text) for text in read], [Item(text) for text in asked]
    expected, wanted = torch.embed(items), torch.embed(questions, "query")
    exact, found, query = quick.embed(items, "query"), quick.embed(items), quick.embed(questions, "query")
    numbers = np.random.default_rng(0)
    coarse = (numbers.integers(0, 256, (12, 16, 3), np.uint8) for _ in range(50))
    pictures = [Item(image=one.repeat(40, 0).repeat(40, 1)) for one in coarse]
    joint = [Item(text, one.image) for text, one in zip(read, pictures, strict=False)]
    seen, before_seen = quick.embed([*pictures, *joint]), torch.embed([*pictures, *joint])
    pairs = {
        "queries": (query, wanted),
        "texts, f32": (exact, expected),
        "texts": (found, expected),
        "pictures": (seen, before_seen),
    }
    rows = {}
    for name, (one, of) in pairs.items():
        cosines = (one.vectors * of.vectors).sum(1)
        rows[name] = {
            "most_difference": float(np.abs(one.vectors - of.vectors).max()),
            "least_cosine": float(cosines.min()),
            "median_cosine": float(np.median(cosines)),
            "most_difference_of_routes": float(np.abs(one.routes - of.routes).max()),
            "least_route_cosine": float((one.routes * of.routes).sum(1).min()),
        }
    before, after = _first_ten(wanted.vectors, expected.vectors), _first_ten(query.vectors, found.vectors)
    rows["hits"] = {
        "same_first": float((before[:, 0] == after[:, 0]).mean()),
        "same_of_ten": float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(before, after, strict=True)])),
        "hit@1_before": float((before[:, 0] == np.arange(len(asked))).mean()),
        "hit@1": float((after[:, 0] == np.arange(len(asked))).mean()),
        "recall@10_before": float((before == np.arange(len(asked))[:, None]).any(1).mean()),
        "recall@10": float((after == np.arange(len(asked))[:, None]).any(1).mean()),
    }
    return rows


def _first_ten(queries: NDArray[np.float32], vectors: NDArray[np.float32]) -> NDArray[np.intp]:
    ranked: NDArray[np.intp] = np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :10]
    return ranked


if __name__ == "__main__":
    typer.run(main)
