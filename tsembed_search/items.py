"""The input and output of a model: `Item` and `Embeddings`, and how pictures and texts are prepared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tsembed_search.errors import UsageError
from tsembed_search.text_form import one_form
from tsembed_search.wording import valid_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Kind = Literal["image", "text", "page"]
"""The kind of an indexed item: a picture, a chunk of text, or a document page rendered as a picture."""

KINDS: tuple[Kind, ...] = ("image", "text", "page")

Role = Literal["query", "document"]
"""Models may prompt a query differently from what it searches for."""

Modality = Literal["text", "image", "joint"]
"""The parts of a query."""


@dataclass(frozen=True)
class Item:
    """A text, an image, or an image with a text, embedded as one.

    `image` is a path, a `PIL.Image.Image` or a uint8 RGB array `[H, W, 3]`.
    `instruction` says what the item is for; it replaces the model's default one. `mini` reads it before the text.
    Text and instruction are brought into one form (`text_form.py`), so that a model reads the same words however they
    were written. What is no character (a byte that was not UTF-8) becomes the replacement character.

    Raises `UsageError` when there is neither text nor image.
    """

    text: str | None = None
    image: Any = None
    instruction: str | None = None

    def __post_init__(self) -> None:
        if self.image is None and (self.text is None or not self.text.strip()):
            raise UsageError("An item needs a text or an image.", "Give one of them, or both.")
        for name in ("text", "instruction"):
            if words := getattr(self, name):
                object.__setattr__(self, name, one_form(valid_text(words)))
        if isinstance(self.image, str):
            object.__setattr__(self, "image", Path(self.image))

    @property
    def modality(self) -> Modality:
        """`text`, `image` or `joint`."""
        if self.image is None:
            return "text"
        return "joint" if self.text and self.text.strip() else "image"


@dataclass(frozen=True)
class Embeddings:
    """`vectors` `[N, D]` float32, rows of unit length; `routes` `[N, L·E]` float32, centred and of unit length.

    A model without experts has routes of shape `[N, 0]`.
    """

    vectors: NDArray[np.float32]
    routes: NDArray[np.float32]

    def __len__(self) -> int:
        return int(self.vectors.shape[0])


@dataclass(frozen=True)
class ImageSpec:
    """The shape of a picture that a model takes.

    `size` `(H, W)`: exactly that, the aspect ratio kept by white bars when `pad`, else not. Without `size` the aspect
    ratio is kept, the sides are multiples of `multiple` and the area lies within `min_pixels` and `max_pixels` (both in
    pixels).
    """

    size: tuple[int, int] | None = None
    pad: bool = False
    multiple: int = 1
    min_pixels: int = 0
    max_pixels: int = 1024 * 1024


@dataclass(frozen=True)
class TextSpec:
    """The measure of a text: a `tokenizers` JSON file and the most tokens of content that one item may have.

    `max_tokens` leaves room for the special tokens and the prompt that the model adds.
    """

    tokenizer_file: Path
    max_tokens: int
    overlap: int = 32


@dataclass(frozen=True)
class InputSpec:
    """All that a decoding worker has to know of a model. `reads_pages`: it understands a rendered page by eye."""

    image: ImageSpec
    text: TextSpec
    reads_pages: bool = False
