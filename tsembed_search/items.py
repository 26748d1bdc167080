"""The input and output of a model: `Item` and `Embeddings`, and how pictures and texts are prepared.

A word can be written in letters that look the same, or nearly so, and are others to a tokenizer: with ligatures, in
full width, in mathematical bold, as base letter and accent. Every text that reaches a model goes through `one_form`,
files and queries alike. What is stored and shown stays as it was written.

Whoever changes what comes out of `one_form` raises the versions of the formats with text in `documents/formats/`, so
that no index holds vectors of two forms.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from tsembed_search.errors import UsageError
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
    Text and instruction are brought into one form (see `one_form`), so that a model reads the same words however they
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

    A model without experts has routes of shape `[N, 0]`. `classes` `[N, C]` are the probabilities of the classes that a
    model sees in pictures: rows of zeros for items without one, None for a model that tells none.
    """

    vectors: NDArray[np.float32]
    routes: NDArray[np.float32]
    classes: NDArray[np.float32] | None = None

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


# Control characters say nothing to a reader. Tabs and line ends do.
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
# Nobody sees them inside a word: soft hyphens, zero-width spaces, marks of direction, selectors of glyphs, annotations.
_UNSEEN: Final = re.compile(
    "[\u00ad\u034f\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufe00-\ufe0d\ufeff\ufff9-\ufffb"
    "\U000e0100-\U000e01ef]"
)
# Joiners mean something in emoji, in Persian and in Indic scripts. Between these letters they only part a ligature.
_WESTERN: Final = "A-Za-z\u00c0-\u024f\u0370-\u052f"
_JOINERS: Final = re.compile(f"(?<=[{_WESTERN}])[\u200c\u200d]+(?=[{_WESTERN}])")
# Wide letters and digits, with the wide signs that touch them. Wide signs between ideographs are how they are written.
_WIDE: Final = re.compile("[！-～]*[０-９Ａ-Ｚａ-ｚ][！-～]*")
_NARROW: Final = {code: code - 0xFEE0 for code in range(ord("！"), ord("～") + 1)}
# "10①" is not 101.
_ENCLOSED: Final = "\u2460-\u249b\u24ea\u3251-\u325f\u32b1-\u32bf"
_BESIDE_ENCLOSED: Final = re.compile(f"(?<=[^\\W_])(?=[{_ENCLOSED}])|(?<=[{_ENCLOSED}])(?=[^\\W_])")
# Raised and lowered figures and fractions mean something else without their place: 10² is not 102.
_KEPT_TAGS: Final = frozenset({"<super>", "<sub>", "<fraction>"})
# Of what Unicode calls merely compatible: letters, Roman numerals, numbers in brackets, blanks, units, radicals. Not
# signs such as the ellipsis, which models know as they are.
_COMPAT: Final = frozenset({"Lu", "Ll", "Lt", "Lo", "Nl", "No", "Zs", "So"})
_HANGUL_LETTERS: Final = range(0x3131, 0x318F)


def one_form(text: str) -> str:
    """Return a text as a model reads it: composed, in plain letters, without what nobody sees.

    Plain ASCII stays as it is. So do superscripts, fractions, emoji, and the signs of East Asian writing. A text of
    nothing but unseen characters is given back as it came.
    """
    if text.isascii() and not _CONTROLS.search(text):
        return text
    if unicodedata.is_normalized("NFKC", text) and not _CONTROLS.search(text) and not _UNSEEN.search(text):
        return _plain(text)
    formed = _UNSEEN.sub("", _CONTROLS.sub(" ", text))
    formed = _WIDE.sub(lambda found: found[0].translate(_NARROW), formed)
    formed = _BESIDE_ENCLOSED.sub(" ", formed).translate(_LETTERS)
    formed = _plain(unicodedata.normalize("NFC", formed))
    return formed if formed.strip() else text


def _plain(text: str) -> str:
    """Without joiners between Western letters, and with the hyphen that keyboards have."""
    text = text.replace("\u2010", "-")
    return _JOINERS.sub("", text) if "\u200c" in text or "\u200d" in text else text


class _Letters(dict[int, str]):
    """The letters that stand for others, each found out when it is first met."""

    def __missing__(self, code: int) -> str:
        self[code] = found = _letter(chr(code))
        return found


_LETTERS: Final = _Letters()


def _letter(one: str) -> str:
    tag, *codes = unicodedata.decomposition(one).split() or [""]
    if not tag.startswith("<") or tag in _KEPT_TAGS or "！" <= one <= "～" or ord(one) in _HANGUL_LETTERS:
        return one
    parts = [chr(int(code, 16)) for code in codes]
    if tag == "<compat>":
        # A vowel sign of Thai is no compatibility form to those who write it, and a lone accent no blank with one.
        marked = any(unicodedata.category(part).startswith("M") for part in parts)
        if marked or unicodedata.category(one) not in _COMPAT:
            return one
    elif len(parts) > 1 and parts[0] == " ":
        return one
    return "".join(map(_letter, parts))
