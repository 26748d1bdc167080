"""What the tasks are made from, each read once: the drawings with their groups, the emoji, and the choice of rows."""

from __future__ import annotations

import collections
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final, TypeVar

from mini_mmeb import clipart
from mini_mmeb import emoji as emojis
from mini_mmeb.clipart import Clip
from mini_mmeb.emoji import Emoji
from mini_mmeb.packages import Packages
from mini_mmeb.pictures import Pictures, look
from mini_mmeb.splits import TEST, TRAIN, VALIDATION, Sides

if TYPE_CHECKING:
    from PIL import Image

MOST: Final = {VALIDATION: 300, TEST: 500}
"""Rows of a task in a split that is no training; in the unseen ones all that there are."""
_MOST_PER_LABEL: Final = 200
_FEWEST_PER_LABEL: Final = 15
_LEFT_OUT: Final = {"unsorted", "special", "logos", "buttons", "duplicates", "examples"}

Thing = TypeVar("Thing")
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Drawing:
    """A piece of clip art in the set. `group`: shared by those that look or are called nearly alike."""

    clip: Clip
    picture: str
    label: str
    title: str
    group: str


@dataclass(frozen=True)
class Workshop:
    """Packages to read, the set's pictures, and the seed's sides. `share` of the composed pictures is made."""

    packages: Packages
    pictures: Pictures
    sides: Sides
    share: float = 1.0

    def chosen(
        self, name: str, things: Iterable[Thing], group: Callable[[Thing], str], train: int | None = None
    ) -> list[tuple[Thing, str]]:
        """Things with their splits by group; in each split no more than there may be, and in an order of its own."""
        sided = [(thing, self.sides.of(group(thing))) for thing in things]
        most = {TRAIN: train, **MOST}
        found = []
        for split, limit in most.items():
            here = [thing for thing, side in sided if side == split]
            found += [(thing, split) for thing in self.sides.order(here, name, split)[:limit]]
        return found

    @cached_property
    def clips(self) -> list[Clip]:
        """All clip art, read once."""
        return clipart.clips(self.packages)

    @cached_property
    def drawings(self) -> list[Drawing]:
        """Clip art with a title of its own or a label, its pictures written; the unseen folder is not among it."""
        known = [clip for clip in self.clips if clip.folders and clip.folders[0] != clipart.UNSEEN_FOLDER]
        labels = clip_labels(known)
        titles = first_with_title(known)
        used = collections.Counter[str]()
        kept = []
        for clip in self.sides.order(known, "drawings"):
            label = labels.get(clip.name, "")
            fits = bool(label) and used[label] < _MOST_PER_LABEL
            if clip.name not in titles and not fits:
                continue
            used[label] += 1
            picture = self.pictures.copy(f"clipart/{clip.name}", clip.path)
            if picture is not None:
                kept.append((clip, picture, label if fits else ""))
        looks = [look(self.pictures.open(picture)) for _, picture, _ in kept]
        groups = grouped([(series(clip), looks[place] or None) for place, (clip, _, _) in enumerate(kept)])
        return [
            Drawing(clip, picture, label, clip.title if clip.name in titles else "", f"clip:{kept[group][0].name}")
            for (clip, picture, label), group in zip(kept, groups, strict=True)
        ]

    @cached_property
    def fluent(self) -> list[tuple[Emoji, str]]:
        """The Fluent emoji with their pictures in the set."""
        return list(self._copied("fluent", emojis.fluent(self.packages)))

    @cached_property
    def openmoji(self) -> list[tuple[Emoji, str]]:
        """The colour OpenMoji with their pictures in the set."""
        return list(self._rendered("openmoji", emojis.openmoji(self.packages, "color")))

    @cached_property
    def outlines(self) -> list[tuple[Emoji, str]]:
        """The black OpenMoji that training does not see in another style, with their pictures in the set."""
        everything = emojis.openmoji(self.packages, "black")
        held = [emoji for emoji in everything if self.sides.of(emoji_group(emoji)) != TRAIN]
        return list(self._rendered("openmoji_black", held))

    def _copied(self, folder: str, found: Sequence[Emoji]) -> Iterator[tuple[Emoji, str]]:
        for emoji in found:
            picture = self.pictures.copy(f"{folder}/{emoji.code}", emoji.picture)
            if picture is not None:
                yield emoji, picture

    def _rendered(self, folder: str, found: Sequence[Emoji]) -> Iterator[tuple[Emoji, str]]:
        for emoji in found:
            yield emoji, self.pictures.add(f"{folder}/{emoji.code}", lambda emoji=emoji: _drawn(emoji))  # type: ignore[misc]


def _drawn(emoji: Emoji) -> Image.Image:
    import io

    from PIL import Image

    return Image.open(io.BytesIO(emojis.render_svg(emoji.picture)))


def emoji_group(emoji: Emoji) -> str:
    """What variants of an emoji share: its first code point, or for a flag all of them."""
    return f"emoji:{emoji.code if emoji.code.startswith('1f1') else emoji.code.split('-')[0]}"


def clip_labels(clips: Sequence[Clip]) -> dict[str, str]:
    """Names of clip art to the label of the deepest of its folders that holds enough of it."""
    counts = collections.Counter("/".join(clip.folders[:depth]) for clip in clips for depth in range(1, 9))
    labels = {}
    for clip in clips:
        if _LEFT_OUT & set(clip.folders):
            continue
        for depth in range(min(2, len(clip.folders)), 0, -1):
            if counts["/".join(clip.folders[:depth])] >= _FEWEST_PER_LABEL:
                labels[clip.name] = re.sub(r"[_-]", " ", clip.folders[depth - 1])
                break
    return labels


def first_with_title(clips: Sequence[Clip]) -> set[str]:
    """The names of clip art whose title no one before it has."""
    first: dict[str, str] = {}
    for clip in clips:
        if clip.title:
            first.setdefault(clip.title.lower(), clip.name)
    return set(first.values())


def series(clip: Clip) -> str:
    """What pieces of a series share: their folder and their name without numbers."""
    return re.sub(r"[\d_.-]+", "", clip.name) or clip.name


def grouped(keys: Sequence[tuple[Key | None, ...]]) -> list[int]:
    """For each thing the first thing that it is linked to: those that share a key are, directly or through others."""
    above = list(range(len(keys)))

    def root(place: int) -> int:
        while above[place] != place:
            above[place] = above[above[place]]
            place = above[place]
        return place

    first: dict[tuple[int, Key], int] = {}
    for place, own in enumerate(keys):
        for kind, key in enumerate(own):
            if key is not None:
                ends = sorted((root(first.setdefault((kind, key), place)), root(place)))
                above[ends[1]] = ends[0]
    return [root(place) for place in range(len(keys))]
