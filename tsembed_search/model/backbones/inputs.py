"""A model's inputs: an instruction, the tokens of a picture and a text as one sequence of token ids; and the pixels.

A `Picture` is cut on the CPU while still uint8, so that it is small to move and to pickle. All arithmetic on pixels
happens in `collate`, on the device and for the whole batch at once.
"""

from __future__ import annotations

import math
import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tsembed_search.documents.pictures import target_size
from tsembed_search.errors import ModelError
from tsembed_search.items import ImageSpec
from tsembed_search.model.backbones.families import Family, VisionKind
from tsembed_search.wording import brief

_AROUND = "<fake_token_around_image>"
_FIELD = re.compile(r"(\{instruction\}|\{image\}|\{text\})")


class Prompt:
    """A prompt template bound to a tokenizer.

    Special tokens count only where the template or a picture puts them: a user's text that spells one out is read as
    ordinary text, so that it can neither end the prompt nor pass for a picture.
    """

    def __init__(self, tokenizer_file: Path, template: str, lead: str, max_tokens: int) -> None:
        """`template` has `{instruction}`, `{image}` and `{text}`; `lead` precedes a text that no picture precedes.

        Raises `ModelError` when the tokenizer cannot be read or lacks a special token that the template needs.
        """
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_file(str(tokenizer_file))
        except Exception as error:  # the library raises plain Exception
            raise ModelError(
                f"{tokenizer_file} cannot be read: {brief(error)}.", "Download the model again."
            ) from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._before, self._after = self._affixes()
        self._tokenizer.encode_special_tokens = True
        self._specials = {token.content: id_ for id_, token in self._tokenizer.get_added_tokens_decoder().items()}
        longest_first = sorted(map(re.escape, self._specials), key=len, reverse=True)
        self._special = re.compile(f"({'|'.join(longest_first)})") if longest_first else re.compile("(?!)")
        self.largest_id = max(self._tokenizer.get_vocab().values(), default=0)
        self._parts = _FIELD.split(template)
        self._lead = lead
        self.max_tokens = max_tokens
        for token in re.findall(r"<[^<>\s]+>", template):
            if token not in self._specials:
                raise ModelError(f"{tokenizer_file} has no token {token}.", "It belongs to another kind of model.")

    def encode(self, instruction: str, image: str, text: str) -> list[int]:
        """Token ids. `image` is the model's own markup for a picture, or empty; `text` is cut to `max_tokens`."""
        text = self.cut(text.strip())
        instruction = instruction.strip()
        if instruction and not unicodedata.category(instruction[-1]).startswith("P"):
            instruction += "."
        users = {"{instruction}": instruction, "{text}": text if image or not text else self._lead + text}
        ids: list[int] = []
        plain = ""  # the template's words and the user's that touch are one text, as in training
        for part in self._parts:
            if part in users:
                plain += users[part]
                continue
            for piece in self._special.split(image if part == "{image}" else part):
                if piece in self._specials:
                    ids += [*self._plain_ids(plain), self._specials[piece]]
                    plain = ""
                else:
                    plain += piece
        ids += self._plain_ids(plain)
        before = [] if ids[: len(self._before)] == self._before else self._before
        return before + ids + self._after

    def cut(self, text: str) -> str:
        """The text, or as much of its beginning as fits in `max_tokens`."""
        if len(text) <= self.max_tokens:  # a token is at least a byte, and most are several characters
            return text
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        if len(encoding.ids) <= self.max_tokens:
            return text
        return text[: encoding.offsets[self.max_tokens - 1][1]]

    def token(self, content: str) -> int:
        """The id of a special token. Raises `ModelError` when the tokenizer has none of that name."""
        if content not in self._specials:
            raise ModelError(f"The tokenizer has no token {content}.", "Download the model again.")
        return self._specials[content]

    def _plain_ids(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids) if text else []

    def _affixes(self) -> tuple[list[int], list[int]]:
        """Special tokens that the tokenizer itself puts before and after every sequence."""
        bare = self._tokenizer.encode("a", add_special_tokens=False).ids
        whole = self._tokenizer.encode("a").ids
        start = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)
        return list(whole[:start]), list(whole[start + len(bare) :])


Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Picture:
    """A picture ready for `collate`. `pixels`: `[n, H, W, 3]` uint8, n tiles or one whole picture.

    `markup`: its tokens, as text. `grid`: rows and columns of tokens, for models whose positions are two-dimensional.
    `size`: the picture's height and width in pixels before it was cut into tiles.
    """

    pixels: Pixels
    markup: str
    grid: tuple[int, int]
    size: tuple[int, int]


class Vision(ABC):
    """One way of seeing, made from a model's configuration, its image settings and its family (`KeyError` or
    `AttributeError` when they lack something). `token` is the special token that a picture's features replace.
    `positional`: tokens have (time, row, column) positions, so the backbone must say them.
    """

    token = "<image>"
    positional = False
    spec: ImageSpec

    def __init__(self, settings: Mapping[str, Any], family: Family) -> None:
        mean, std = (torch.tensor(settings[key], dtype=torch.float32) for key in ("image_mean", "image_std"))
        self._scale, self._shift = (1 / (255 * std)).view(3, 1, 1), (mean / std).view(3, 1, 1)
        self._filter = Image.Resampling(int(settings.get("resample", 3)))
        self._template = family.image_template

    @abstractmethod
    def picture(self, pixels: Pixels) -> Picture:
        """Cut one picture `[H, W, 3]` of any size."""

    @abstractmethod
    def collate(self, pictures: Sequence[Picture], device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
        """The model's keyword arguments for the pictures of a batch."""

    def _resized(self, pixels: Pixels, size: tuple[int, int]) -> Pixels:
        """`[H, W, 3]` to `[*size, 3]`; untouched when it has that size already."""
        if pixels.shape[:2] == size:
            return pixels
        return np.asarray(Image.fromarray(pixels).resize((size[1], size[0]), self._filter), dtype=np.uint8)

    def _normalized(self, pixels: Tensor, dtype: torch.dtype) -> Tensor:
        """`[N, H, W, 3]` uint8 to `[N, 3, H, W]`."""
        scale, shift = self._scale.to(pixels.device), self._shift.to(pixels.device)
        return (pixels.permute(0, 3, 1, 2).float() * scale - shift).to(dtype)

    def _made(self, tiles: Pixels, markup: str, size: tuple[int, int], grid: tuple[int, int] = (0, 0)) -> Picture:
        return Picture(tiles, self._template.replace("{tokens}", markup), grid, size)


class Grid(Vision):
    """Qwen-VL: the picture at its own resolution, in patches; blocks of `merge`² patches become one token."""

    token = "<|image_pad|>"
    positional = True

    def __init__(self, config: Any, settings: Mapping[str, Any], family: Family) -> None:
        super().__init__(settings, family)
        self.patch = int(config.vision_config.patch_size)
        self.merge = int(config.vision_config.spatial_merge_size)
        self.frames = int(config.vision_config.temporal_patch_size)
        self.spec = ImageSpec(
            multiple=self.patch * self.merge, min_pixels=family.min_pixels, max_pixels=family.max_pixels
        )

    def picture(self, pixels: Pixels) -> Picture:
        width, height = target_size(pixels.shape[1], pixels.shape[0], self.spec)
        grid = (height // self.spec.multiple, width // self.spec.multiple)
        tokens = self.token * (grid[0] * grid[1])
        return self._made(self._resized(pixels, (height, width))[None], tokens, (height, width), grid)

    def collate(self, pictures: Sequence[Picture], device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
        patches = [self._patchify(pixels) for pixels in _to_device(pictures, device)]  # [P, patch, patch, 3] uint8
        values = self._normalized(torch.cat(patches), dtype)  # [P, 3, patch, patch]
        # The vision tower reads short videos; a still picture is one whose frames are all alike.
        values = values.unsqueeze(2).expand(-1, -1, self.frames, -1, -1).reshape(len(values), -1)
        grids = [(1, p.grid[0] * self.merge, p.grid[1] * self.merge) for p in pictures]
        return {"pixel_values": values, "image_grid_thw": torch.tensor(grids).to(device, non_blocking=True)}

    def _patchify(self, pixels: Tensor) -> Tensor:
        """`[1, H, W, 3]` to `[P, patch, patch, 3]`, the patches of one token next to each other."""
        rows, columns = (side // self.spec.multiple for side in pixels.shape[1:3])
        blocks = pixels.view(rows, self.merge, self.patch, columns, self.merge, self.patch, 3)
        return blocks.permute(0, 3, 1, 4, 2, 5, 6).reshape(-1, self.patch, self.patch, 3)


class Tiles(Vision):
    """Idefics3 and SmolVLM: square tiles in rows and columns, then the whole picture shrunk to one tile.

    A picture is never enlarged by more than it takes to fill its tiles, and one that fits in a tile is one tile.
    """

    def __init__(self, config: Any, settings: Mapping[str, Any], family: Family) -> None:
        super().__init__(settings, family)
        self.tile = int(settings["max_image_size"]["longest_edge"])
        self.longest = max(self.tile, min(int(settings["size"]["longest_edge"]), math.isqrt(family.max_pixels)))
        side = self.tile // int(config.vision_config.patch_size)
        self._tokens = self.token * (side // int(config.scale_factor)) ** 2
        self.spec = ImageSpec(max_pixels=self.longest**2)

    def picture(self, pixels: Pixels) -> Picture:
        height, width = pixels.shape[:2]
        rows, columns = self._layout(height, width)
        tiles = [self._resized(pixels, (self.tile, self.tile))[None]]
        lines = ""
        if (rows, columns) != (1, 1):
            large = self._resized(pixels, (rows * self.tile, columns * self.tile))
            tiles.insert(0, _cut(large, self.tile))
            for row in range(1, rows + 1):
                places = (f"<row_{row}_col_{column}>" for column in range(1, columns + 1))
                lines += "".join(f"{_AROUND}{place}{self._tokens}" for place in places) + "\n"
            lines += "\n"
        whole = f"{_AROUND}<global-img>{self._tokens}{_AROUND}"
        return self._made(np.concatenate(tiles), lines + whole, (height, width))

    def collate(self, pictures: Sequence[Picture], device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
        # One "item" with all tiles of the batch: features are put in place in order, so nothing has to be padded.
        return {"pixel_values": self._normalized(torch.cat(_to_device(pictures, device)), dtype)[None]}

    def _layout(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of tiles: as many as the longer side fills, up to the model's limit."""
        longest = min(math.ceil(max(height, width) / self.tile) * self.tile, self.longest)
        shortest = int(longest * min(height, width) / max(height, width))
        shortest += shortest % 2
        many, few = math.ceil(longest / self.tile), max(1, math.ceil(shortest / self.tile))
        return (few, many) if width >= height else (many, few)


class AnyRes(Vision):
    """LLaVA-OneVision: the whole picture as one tile, then the picture fitted into the best of some canvases of tiles.

    The features of padding are cut away again, and each row of the rest ends in a newline feature.
    """

    def __init__(self, config: Any, settings: Mapping[str, Any], family: Family) -> None:
        super().__init__(settings, family)
        self.tile = int(config.vision_config.image_size)
        self.side = self.tile // int(config.vision_config.patch_size)
        most = min(family.max_pixels, 9 * self.tile**2)  # from ten tiles on the model would shrink the features
        self.canvases = [(int(h), int(w)) for h, w in config.image_grid_pinpoints if h * w <= most]
        config.image_grid_pinpoints = [list(canvas) for canvas in self.canvases]  # the model must choose the same one
        self.spec = ImageSpec(max_pixels=most)

    def picture(self, pixels: Pixels) -> Picture:
        size = pixels.shape[0], pixels.shape[1]
        canvas = max(self.canvases, key=lambda canvas: _merit(canvas, *size))
        fitted = self._resized(pixels, _inside(size, canvas))
        top, left = ((outer - inner) // 2 for outer, inner in zip(canvas, fitted.shape[:2], strict=True))
        padded = np.zeros((*canvas, 3), np.uint8)
        padded[top : top + fitted.shape[0], left : left + fitted.shape[1]] = fitted
        tiles = np.concatenate([self._resized(pixels, (self.tile, self.tile))[None], _cut(padded, self.tile)])
        return self._made(tiles, self.token * self._count(size, canvas), size)

    def collate(self, pictures: Sequence[Picture], device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
        tiles = torch.cat(_to_device(pictures, device))
        sizes = torch.tensor([picture.size for picture in pictures])  # read on the CPU, so it stays there
        return {"pixel_values": self._normalized(tiles, dtype), "image_sizes": sizes}

    def _count(self, size: tuple[int, int], canvas: tuple[int, int]) -> int:
        """Tokens of a picture: the whole, the unpadded features of its canvas, and a newline for each of their rows."""
        rows, columns = (side // self.tile * self.side for side in canvas)
        height, width = size
        if width / height > columns / rows:
            rows -= (rows - int(round(height * (columns / width), 7))) // 2 * 2
        else:
            columns -= (columns - int(round(width * (rows / height), 7))) // 2 * 2
        return self.side**2 + rows * columns + rows


def _merit(canvas: tuple[int, int], height: int, width: int) -> tuple[int, int]:
    """Rank a canvas: by the picture's pixels that it keeps, then by how few of its own it wastes."""
    scale = min(canvas[0] / height, canvas[1] / width)
    kept = min(int(height * scale) * int(width * scale), height * width)
    return kept, kept - canvas[0] * canvas[1]


def _inside(size: tuple[int, int], canvas: tuple[int, int]) -> tuple[int, int]:
    """The largest size of the same shape that fits in the canvas."""
    tall, wide = canvas[0] / size[0], canvas[1] / size[1]
    if wide < tall:
        return min(math.ceil(size[0] * wide), canvas[0]), canvas[1]
    return canvas[0], min(math.ceil(size[1] * tall), canvas[1])


def _cut(pixels: Pixels, tile: int) -> Pixels:
    """`[R·tile, C·tile, 3]` to `[R·C, tile, tile, 3]`, row by row."""
    rows, columns = pixels.shape[0] // tile, pixels.shape[1] // tile
    return pixels.reshape(rows, tile, columns, tile, 3).swapaxes(1, 2).reshape(-1, tile, tile, 3)


def _to_device(pictures: Sequence[Picture], device: torch.device) -> list[Tensor]:
    """Every picture's pixels on the device, moved in one pinned copy."""
    flat = torch.from_numpy(np.concatenate([picture.pixels.reshape(-1) for picture in pictures]))
    flat = flat.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else flat.to(device)
    parts = torch.split(flat, [picture.pixels.size for picture in pictures])
    return [part.view(picture.pixels.shape) for part, picture in zip(parts, pictures, strict=True)]


VISIONS: Mapping[VisionKind, Callable[[Any, Mapping[str, Any], Family], Vision]] = {
    "grid": Grid,
    "tiles": Tiles,
    "anyres": AnyRes,
}
