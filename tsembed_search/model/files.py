"""Model files: which weights a folder has, whether they are whole, and what tells two sets of weights apart; folders
that appear whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsembed_search.errors import ModelError
from tsembed_search.wording import brief

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_SAMPLE = 512  # bytes read from the middle of each tensor
_HEADER_LIMIT = 100_000_000  # safetensors' own limit, bytes


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises `ModelError` when it cannot be read or is not an object."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {brief(error)}.", "Download the model again.") from error
    if not isinstance(data, dict):
        raise ModelError(f"{path} does not hold a JSON object.", "Download the model again.")
    return data


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder, sorted.

    Raises `ModelError` when there are none, when a shard that the index names is missing, or when the weights are
    pickled: a pickle can run any code when it is opened.
    """
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        files = sorted(folder.glob("*.safetensors"))
    else:
        try:
            files = sorted({folder / Path(name).name for name in read_json(index)["weight_map"].values()} - {folder})
        except (KeyError, TypeError, AttributeError) as error:
            message = f"{index} does not say which weight files there are."
            raise ModelError(message, "Download the model again.") from error
    if missing := [file.name for file in files if not file.is_file()]:
        raise ModelError(
            f"{folder} lacks {len(missing)} of its {len(files)} weight files, {missing[0]} among them.",
            "Download the model again.",
        )
    if files:
        return files
    refuse_pickles(folder)
    raise ModelError(
        f"{folder} holds no weights.",
        "A model has one or more .safetensors files; pickled weights are neither downloaded nor opened.",
    )


def refuse_pickles(folder: Path) -> None:
    """Raises `ModelError` when a folder that lacks safetensors weights has pickled ones: say why they are not used."""
    pickled = [path.name for pattern in _PICKLED for path in sorted(folder.glob(pattern))]
    if pickled:
        raise ModelError(
            f"The weights in {folder} are pickled ({pickled[0]}), and opening a pickle can run any code.",
            "Use a version of the model with safetensors weights, or convert it where you trust it.",
        )


def read_header(file: Path) -> tuple[int, dict[str, Any]]:
    """Where the data of a safetensors file begin, in bytes, and its header: tensor name to dtype, shape and
    `data_offsets` (bytes after that).

    Raises `ModelError` when the file is not safetensors or shorter than its header says.
    """
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length)) if 0 < length <= _HEADER_LIMIT else None
        if not isinstance(header, dict):
            raise ValueError("no safetensors header")
        header.pop("__metadata__", None)
        start, size = 8 + length, file.stat().st_size
        end = start + max(map(_end, header.values()), default=0)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(
            f"{file} is not a readable safetensors file: {brief(error)}.", "Download the model again."
        ) from error
    if size != end:
        raise ModelError(f"{file} has {size} bytes where its header promises {end}.", "Download the model again.")
    return start, header


def _end(entry: Any) -> int:
    """Where a tensor's bytes end. Raises `KeyError`, `TypeError` or `ValueError` for an entry that describes none."""
    first, last = entry["data_offsets"]
    if not (isinstance(entry["dtype"], str) and isinstance(entry["shape"], list) and 0 <= first <= last):
        raise ValueError("a tensor without a place")
    return int(last)


def arrays(file: Path) -> dict[str, NDArray[np.float32]]:
    """The float32 tensors of a safetensors file, read from the disk when they are used. Raises `ModelError`."""
    import numpy as np

    start, header = read_header(file)
    whole = np.memmap(file, np.uint8, "r", start)
    found = {}
    for name, entry in header.items():
        if entry["dtype"] == "F32":
            first, last = entry["data_offsets"]
            found[name] = whole[first:last].view(np.float32).reshape(entry["shape"])
    return found


def numbers(files: Iterable[Path]) -> int:
    """Count the numbers in weight files, by their headers, less a language-model head. Raises `ModelError`."""
    entries = (entry for file in files for entry in read_header(file)[1].items())
    return sum(math.prod(entry["shape"]) for name, entry in entries if not name.startswith("lm_head"))


def content_identity(files: Iterable[Path]) -> str:
    """A hash that tells weights apart without reading all of them: every header, and a sample from every tensor.

    A fine-tuned copy differs in some tensor's sample; a renamed or moved copy is the same. Sharding does not matter.
    """
    tensors: dict[str, bytes] = {}
    for file in files:
        start, header = read_header(file)
        with file.open("rb") as stream:
            for name, entry in header.items():
                first, last = entry["data_offsets"]
                stream.seek(start + max(first, (first + last - _SAMPLE) // 2))
                sample = stream.read(min(_SAMPLE, last - first))
                tensors[name] = f"{entry['dtype']}{entry['shape']}".encode() + sample
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + b"\0" + tensors[name])
    return digest.hexdigest()


def fingerprint(*parts: object) -> str:
    """16 hex characters over JSON-able parts."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_hash(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def appearing(folder: str | Path, replaces: str | None = None) -> Iterator[tuple[Path, Path]]:
    """A new folder to fill, and where it will be: when it is filled, it takes its place at once.

    What is there already is replaced if it holds a file called `replaces`; else raises `ModelError`, unless it is
    empty. Where something is replaced, a crash between two renames can leave it as `.NAME.old` beside where it was.
    """
    target = Path(os.path.abspath(Path(folder).expanduser()))  # noqa: PTH100 - resolve() would follow links
    known = replaces is not None and (target / replaces).is_file()
    if target.exists() and not known and not (target.is_dir() and not any(target.iterdir())):
        what = " and is not a checkpoint" if replaces else " and is not empty"
        raise ModelError(f"{target} exists{what}.", "Choose another folder, or empty this one.")
    target.parent.mkdir(parents=True, exist_ok=True)
    new, old = (target.with_name(f".{target.name}.{what}") for what in ("new", "old"))
    for left in (new, old):
        shutil.rmtree(left, ignore_errors=True)
    new.mkdir()
    try:
        yield new, target
        for path in [*new.rglob("*"), new]:
            flush(path)
        if target.exists():
            target.rename(old)
        new.rename(target)
        flush(target.parent)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def flush(path: Path) -> None:
    """To the disk: a rename that survives a power cut is worth nothing when the files did not."""
    if os.name == "nt" and path.is_dir():
        return
    number = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(number)
    finally:
        os.close(number)
