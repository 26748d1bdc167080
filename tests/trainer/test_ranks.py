"""Two processes train as one."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.training_data import Listed, few_targets, job, run_code, two_tasks, weights
from tsembed_search.trainer.distributed import Processes
from tsembed_search.trainer.log import read
from tsembed_search.trainer.loop import train
from tsembed_search.trainer.losses.base import Labels

pytestmark = pytest.mark.usefixtures("small_base")

SERVER = multiprocessing.get_context("forkserver" if hasattr(os, "fork") else "spawn")
# The last one every optimizer imports; with jinja2 every report is made.
SERVER.set_forkserver_preload([run_code.__module__, train.__module__, "jinja2", "torch._dynamo"])
HELD = ("loss.distillation_weight=1", "query_distillation_weight=2")
EXACT = ("steps=5", "dropout=0", "noise=0", "learn_temperature=true", "queue=5", *HELD, "validate_every=5")


def start(count: int, code: str, folder: Path) -> tuple[list[int | None], list[str]]:
    """Runs Python code in processes that know of one another as those of torchrun do. Exit codes and what they said."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    shared["TSEMBED_HOME"] = os.environ["TSEMBED_HOME"]
    errors = [folder / f"said-{rank}.txt" for rank in range(count)]
    running = [
        SERVER.Process(
            target=run_code, args=(code, shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, errors[rank])
        )
        for rank in range(count)
    ]
    for process in running:
        process.start()
    for process in running:
        process.join(240)
    return [process.exitcode for process in running], [file.read_text("utf-8") for file in errors]


def in_processes(count: int, out: Path, *overrides: str, tasks: str = "two_tasks") -> None:
    """Runs the job as torchrun would. Raises when a process fails."""
    code = (
        "from dataclasses import replace; from pathlib import Path\n"
        "from helpers.training_data import *; from tsembed_search.trainer.loop import train\n"
        f"train(replace(job(Path({str(out)!r}), *{list(overrides)!r}), train={tasks}()))"
    )
    codes, said = start(count, code, out.parent)
    assert codes == [0] * count, "\n".join(said)


def steps(out: Path) -> list[dict[str, Any]]:
    return [record for record in read(out / "log.jsonl") if record["kind"] == "step"]


@pytest.mark.parametrize("more", [(), ("depths=[1]", "dimensions=[64]")], ids=["whole", "shorter"])
def test_two_processes_equal_one(more: tuple[str, ...], tmp_path: Path) -> None:
    """Hard negatives make the parts uneven, the queue and the temperature are shared, and GradCache cuts them anew."""
    train(job(tmp_path / "one", *EXACT, *more))
    in_processes(2, tmp_path / "two", *EXACT, *more, "batch.tokens=24")
    one, two = weights(tmp_path / "one/model"), weights(tmp_path / "two/model")
    assert one.keys() == two.keys()
    for name in one:  # B began at 0, so its size is how far it moved; Adam makes much of gradients that are next to 0
        assert (two[name] - one[name]).norm() <= 5e-3 * one[name].norm(), name
    moved = [(two[name] - one[name]).norm() / one[name].norm() for name in one if "lora_B" in name]
    assert sum(moved) / len(moved) < 5e-4
    for single, double in zip(steps(tmp_path / "one"), steps(tmp_path / "two"), strict=True):
        for key in ("loss", "gradient_norm", "mask_rate", "hardness", "routing_entropy", "temperature"):
            assert double[key] == pytest.approx(single[key], rel=1e-3, abs=1e-5), key
        assert (double["items"], double["rows"], double["tasks"]) == (single["items"], single["rows"], single["tasks"])
    found = [[r for r in read(tmp_path / which / "log.jsonl") if r["kind"] == "validation"] for which in ("one", "two")]
    assert [r["tasks"].keys() for r in found[0]] == [r["tasks"].keys() for r in found[1]]


@pytest.mark.parametrize("tasks", [two_tasks, few_targets])
def test_fewer_rows_than_processes(tasks: Callable[[], list[Listed]], tmp_path: Path) -> None:
    """A process without a row of the batch goes along, with held texts, a learned temperature and a queue, too.

    A batch is small, or there are few targets.
    """
    size = 2 if tasks is two_tasks else 6
    settings = (*EXACT, "steps=3", "validate_every=0", f"batch.size={size}", f"sub_batch={size}")
    train(job(tmp_path / "one", *settings, train=tasks()))
    in_processes(3, tmp_path / "three", *settings, tasks=tasks.__name__)
    for single, triple in zip(steps(tmp_path / "one"), steps(tmp_path / "three"), strict=True):
        for key in ("loss", "gradient_norm", "temperature"):
            assert triple[key] == pytest.approx(single[key], rel=1e-3, abs=1e-5), key
        assert (triple["items"], triple["rows"]) == (single["items"], single["rows"]) and single["rows"] == 2


@pytest.mark.parametrize("trouble", ["data", "taken", "pictures", "diverged", "disk"])
def test_what_ends_one_process_ends_all_with_one_message(trouble: str, tmp_path: Path) -> None:
    """Whether all of them find it, or one of them, the first or another."""
    file, out = tmp_path / "rows.jsonl", tmp_path / "run"
    lines: list[dict[str, Any]] = [
        {"query": {"text": f"question {at}"}, "positive": {"text": f"answer {at}"}} for at in range(12)
    ]
    settings = ["--set", "batch.size=4", "--set", "sub_batch=4", "--set", "rank=2", "--set", "data.validation=0"]
    before, words, expected = "", "", 2
    if trouble == "data":
        lines, words = lines[:1], "There is nothing to tell apart"
    if trouble == "taken":
        out.mkdir()
        (out / "mine.txt").write_text("mine")
        words = "exists and is not empty"
    if trouble == "pictures":
        before = "import tsembed_search.trainer.batches.features as f; from tsembed_search.errors import LoadError\n"
        before += "f.Preparer._one = f.CachingPreparer._one = lambda self, wanted: LoadError('It is gone.')\n"
        words = "4 of 4 rows cannot be read"
    if trouble == "diverged":
        settings += ["--set", "optimizer.learning_rate=1e30", "--set", "warmup=0"]
        words, expected = "has diverged", 1
    if trouble == "disk":
        before = "from tsembed_search.trainer import state\n"
        before += "def full(*_): raise OSError(28, 'No space left on device')\nstate._write = full\n"
        words, expected = "There is no space left on the disk", 1
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = [
        "train",
        str(file),
        "--recipe",
        "lora",
        "--max-steps",
        "2",
        "--device",
        "cpu",
        "--out",
        str(out),
        *settings,
    ]
    code = f"import sys\n{before}sys.argv = ['tsembed', *{command!r}]\nfrom tsembed_search.cli.main import run; run()"
    codes, said = start(2, code, tmp_path)
    together = " ".join(" ".join(said).split())
    assert (codes, together.count(words), together.count("error: ")) == ([expected] * 2, 1, 1), together
    assert "fault" not in together


def test_parts_are_the_whole() -> None:
    for rows in (0, 1, 7, 8):
        for count in (1, 2, 3):
            parts = [list(Processes(rank, count).own(range(rows))) for rank in range(count)]
            assert sum(parts, []) == list(range(rows))  # noqa: RUF017 - a few short lists
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_alone_nothing_is_exchanged() -> None:
    alone = Processes()
    packed = torch.ones(2, 3, requires_grad=True)
    labels = Labels(torch.zeros(2, 4, dtype=torch.int64))
    assert alone.gather(packed, labels) == (packed, labels)
    assert alone.sum(2.5) == 2.5 and alone.collect("x") == ["x"] and alone.first
