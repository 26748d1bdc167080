"""Two processes train as one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training_data import job, weights

from tsembed_search.trainer.log import read
from tsembed_search.trainer.loop import train
from tsembed_search.trainer.ranks import Ranks
from tsembed_search.trainer.representations import Labels

HERE = Path(__file__).parent
HELD = ("loss.keep=1", "keep_queries=2")
EXACT = ("steps=5", "dropout=0", "noise=0", "learn_temperature=true", "queue=5", *HELD, "validate_every=5")


def in_two_processes(out: Path, *overrides: str) -> None:
    """Runs the job as torchrun would. Raises when a process fails."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = (
        f"import sys; sys.path.insert(0, {str(HERE)!r})\n"
        "import torch; torch.set_num_threads(1)\n"
        "from pathlib import Path; from training_data import job; from tsembed_search.trainer.loop import train\n"
        f"train(job(Path({str(out)!r}), *{list(overrides)!r}))"
    )
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=240)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], "\n".join(errors)


def test_two_processes_equal_one(tmp_path: Path) -> None:
    """Hard negatives make the parts uneven, the queue and the temperature are shared, and GradCache cuts them anew."""
    train(job(tmp_path / "one", *EXACT))
    in_two_processes(tmp_path / "two", *EXACT, "batch.tokens=24")
    one, two = weights(tmp_path / "one/model"), weights(tmp_path / "two/model")
    assert one.keys() == two.keys()
    for name in one:  # B began at 0, so its size is how far it moved; Adam makes much of gradients that are next to 0
        assert (two[name] - one[name]).norm() <= 5e-3 * one[name].norm(), name
    moved = [(two[name] - one[name]).norm() / one[name].norm() for name in one if "lora_B" in name]
    assert sum(moved) / len(moved) < 5e-4
    steps = [[r for r in read(tmp_path / which / "log.jsonl") if r["kind"] == "step"] for which in ("one", "two")]
    for single, double in zip(*steps, strict=True):
        for key in ("loss", "gradient_norm", "mask_rate", "hardness", "routing_entropy", "temperature"):
            assert double[key] == pytest.approx(single[key], rel=1e-3, abs=1e-5), key
        assert (double["items"], double["rows"], double["tasks"]) == (single["items"], single["rows"], single["tasks"])
    found = [[r for r in read(tmp_path / which / "log.jsonl") if r["kind"] == "validation"] for which in ("one", "two")]
    assert [r["tasks"].keys() for r in found[0]] == [r["tasks"].keys() for r in found[1]]


def test_parts_are_the_whole() -> None:
    for rows in (0, 1, 7, 8):
        for count in (1, 2, 3):
            parts = [list(Ranks(rank, count).own(range(rows))) for rank in range(count)]
            assert sum(parts, []) == list(range(rows))  # noqa: RUF017 - a few short lists
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_alone_nothing_is_exchanged() -> None:
    alone = Ranks()
    packed = torch.ones(2, 3, requires_grad=True)
    labels = Labels(torch.zeros(2, 4, dtype=torch.int64))
    assert alone.gather(packed, labels) == (packed, labels)
    assert alone.sum(2.5) == 2.5 and alone.collect("x") == ["x"] and alone.first
