"""A disk that is full, or not to be written to, anywhere a run writes: words, the folder, and a way to go on."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError

from helpers.training_data import job, same, weights
from tsembed_search.trainer.job import DiskError, in_words
from tsembed_search.trainer.log import Log
from tsembed_search.trainer.loop import train

pytestmark = pytest.mark.usefixtures("one_block")

SETTINGS = ("steps=3", "validate_every=1", "checkpoint_every=1")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The model of a run that had room."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    train(job(out, *SETTINGS))
    return weights(out / "model")


def refusing(monkeypatch: pytest.MonkeyPatch, name: str, number: int, after: int) -> None:
    """No file of that `name` can be written from now on, after so many that could."""
    left = after

    def check(file: Path) -> None:
        nonlocal left
        if Path(file).name == name:
            left -= 1
            if left < 0:
                raise OSError(number, os.strerror(number), str(file))

    write_text, save_file, log = Path.write_text, safetensors.torch.save_file, Log.write

    def writing(self: Path, *given: Any, **named: Any) -> int:
        check(self)
        return write_text(self, *given, **named)

    def saving(tensors: Any, file: Path, *given: Any, **named: Any) -> None:
        try:
            check(file)
        except OSError as error:  # as the library words it
            Path(file).write_bytes(b"half of it")
            words = f"Error while serializing: I/O error: {error.strerror} (os error {number})"
            raise SafetensorError(words) from error
        save_file(tensors, file, *given, **named)

    def logging(self: Any, *given: Any, **named: Any) -> None:
        check(Path("log.jsonl"))
        log(self, *given, **named)

    monkeypatch.setattr(Path, "write_text", writing)
    monkeypatch.setattr(safetensors.torch, "save_file", saving)
    monkeypatch.setattr(Log, "write", logging)


@pytest.mark.parametrize(
    ("name", "number", "after"),
    [
        ("run.json.new", errno.ENOSPC, 0),
        ("log.jsonl", errno.ENOSPC, 6),
        ("tensors.safetensors", errno.ENOSPC, 0),
        ("tensors.safetensors", errno.EDQUOT, 2),
        ("best.safetensors", errno.ENOSPC, 0),
        ("state.json", errno.EROFS, 1),
        ("adapter_model.safetensors", errno.ENOSPC, 0),
        ("tsembed.json", errno.EACCES, 0),
        (".report.html.partial", errno.ENOSPC, 0),
        (".README.md.new", errno.EIO, 0),
    ],
)
def test_every_file_of_a_run(
    name: str, number: int, after: int, whole: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(DiskError) as caught:
        refusing(patch, name, number, after)
        train(job(out, *SETTINGS))
    full = number in (errno.ENOSPC, errno.EDQUOT)
    assert caught.value.exit_code == 1 and str(out) in caught.value.message
    assert ("no space left" in caught.value.message) == full
    begun = name != "run.json.new"
    assert (f"{{resume}} {{out}} {out}" in caught.value.hint) == begun == out.exists()
    assert not list(out.rglob("*.new")), "what is half written takes the room that is missing"
    train(job(out, *SETTINGS, resume=begun))
    assert same(weights(out / "model"), whole)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENAMETOOLONG])
def test_words(number: int, tmp_path: Path) -> None:
    with pytest.raises(DiskError) as caught, in_words(tmp_path):
        raise OSError(number, os.strerror(number))
    assert str(tmp_path) in caught.value.message and caught.value.hint
    with pytest.raises(DiskError, match="no header"), in_words(tmp_path):
        raise SafetensorError("no header")
