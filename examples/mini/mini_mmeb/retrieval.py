"""The tasks of the meta-tasks `retrieval` and `classification`."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from mini_mmeb import emoji as emojis
from mini_mmeb import small_sets, texts
from mini_mmeb.clipart import UNSEEN_FOLDER
from mini_mmeb.examples import Example, Side
from mini_mmeb.splits import TEST, TRAIN, Sides
from mini_mmeb.workshop import MOST, Workshop, emoji_group, first_with_title

if TYPE_CHECKING:
    from mini_mmeb.emoji import Emoji

_PASSAGE_WORDS: Final = 60
_TOPIC_WORDS: Final = 40
_MOST_WORDS: Final = 3
_PER_TOPIC: Final = 250


def search(sides: Sides, text: str, instruction: str) -> Side:
    """A query of a search task. One half has no instruction: that is how people search."""
    return Side(text, instruction="" if sides.draw("bare", text) < 0.5 else instruction)


def clipart_title_to_picture(shop: Workshop) -> Iterator[Example]:
    """Titles, and the drawings they belong to."""
    titled = [drawing for drawing in shop.drawings if drawing.title]
    for drawing, split in shop.chosen("clipart", titled, lambda one: one.group, train=3000):
        query = search(shop.sides, drawing.title, "Find the drawing with this title:")
        yield Example(query, Side(image=drawing.picture), f"picture:{drawing.picture}", drawing.group, split)


def clipart_picture_to_title(shop: Workshop) -> Iterator[Example]:
    """Drawings, and their titles."""
    titled = [drawing for drawing in shop.drawings if drawing.title]
    for drawing, split in shop.chosen("clipart back", titled, lambda one: one.group, train=3000):
        query = Side(image=drawing.picture, instruction="Find the title of this drawing.")
        yield Example(query, Side(drawing.title), f"title:{drawing.title.lower()}", drawing.group, split)


def clipart_folder(shop: Workshop) -> Iterator[Example]:
    """Drawings, and the kind of thing that the folder they are filed in is named for."""
    labelled = [drawing for drawing in shop.drawings if drawing.label]
    for drawing, split in shop.chosen("folder", labelled, lambda one: one.group, train=3500):
        query = Side(image=drawing.picture, instruction="Classify this drawing by its subject.")
        yield Example(query, Side(drawing.label), f"label:{drawing.label}", drawing.group, split)


def emoji_words_to_picture(shop: Workshop) -> Iterator[Example]:
    """Labels of emoji, and their tags, and the Fluent pictures they belong to."""
    for (emoji, picture), split in shop.chosen("emoji", shop.fluent, lambda one: emoji_group(one[0])):
        words = [emoji.label, ", ".join(emoji.tags[:5])] if split == TRAIN else [emoji.label]
        for text in filter(None, dict.fromkeys(words)):
            query = search(shop.sides, text, "Find the picture that shows this:")
            yield Example(query, Side(image=picture), f"fluent:{emoji.code}", emoji_group(emoji), split)


def emoji_subgroup(shop: Workshop) -> Iterator[Example]:
    """Fluent pictures, and the subgroup of emoji that they are in."""
    for (emoji, picture), split in shop.chosen("subgroup", shop.fluent, lambda one: emoji_group(one[0])):
        query = Side(image=picture, instruction="Classify this picture by its kind.")
        kind = emoji.subgroup.replace("-", " ")
        yield Example(query, Side(kind), f"label:{kind}", emoji_group(emoji), split)


def openmoji_picture_to_title(shop: Workshop) -> Iterator[Example]:
    """OpenMoji's pictures, and their labels."""
    for (emoji, picture), split in shop.chosen("openmoji", shop.openmoji, lambda one: emoji_group(one[0])):
        query = Side(image=picture, instruction="Find the title of this drawing.")
        yield Example(query, Side(emoji.label), f"title:{emoji.label}", emoji_group(emoji), split)


def emoji_other_style(shop: Workshop) -> Iterator[Example]:
    """Fluent pictures, and what shows the same thing in OpenMoji's style."""
    flat = {emoji.code: picture for emoji, picture in shop.openmoji}
    both = [(emoji, picture) for emoji, picture in shop.fluent if emoji.code in flat]
    for (emoji, picture), split in shop.chosen("style", both, lambda one: emoji_group(one[0])):
        query = Side(image=picture, instruction="Find the same thing drawn in another style.")
        target = Side(image=flat[emoji.code])
        yield Example(query, target, f"openmoji:{emoji.code}", emoji_group(emoji), split)


def emoji_changed_by_word(shop: Workshop) -> Iterator[Example]:
    """A Fluent picture and a word, and the picture that the word makes of it: a green apple and "red"."""
    sided = [(emoji, picture, shop.sides.of(emoji_group(emoji))) for emoji, picture in shop.fluent]
    for split in (TRAIN, *MOST):
        here = [(emoji, picture) for emoji, picture, side in sided if side == split]
        for change in emojis.composed([emoji.label for emoji, _ in here], 24):
            answer, picture = here[change.answer]
            query = Side(change.word, here[change.picture][1], "Find this picture changed by the word:")
            group = emoji_group(answer)
            yield Example(query, Side(image=picture), f"fluent:{answer.code}", group, split)


def description_to_passage(shop: Workshop) -> Iterator[Example]:
    """Short descriptions, and the encyclopaedia leads that they belong to, cut to sixty words."""
    described = [lead for lead in texts.leads(shop.packages) if lead.description]
    for lead, split in shop.chosen("leads", described, lambda one: f"lead:{one.title}", train=4000):
        query = search(shop.sides, lead.description, "Find the passage about this:")
        passage = Side(texts.beginning(lead.text, _PASSAGE_WORDS))
        yield Example(query, passage, f"lead:{lead.title}", f"lead:{lead.title}", split)


def passage_topic(shop: Workshop) -> Iterator[Example]:
    """Leads, and their topics."""
    used = collections.Counter[str]()
    found = [lead for lead in texts.leads(shop.packages) if lead.topic]
    for lead, split in shop.chosen("topics", found, lambda one: f"lead:{one.title}"):
        used[lead.topic] += split == TRAIN
        if split != TRAIN or used[lead.topic] <= _PER_TOPIC:
            query = Side(texts.beginning(lead.text, _TOPIC_WORDS), instruction="Classify this text by its topic:")
            yield Example(query, Side(lead.topic), f"label:{lead.topic}", f"lead:{lead.title}", split)


def gloss_to_word(shop: Workshop) -> Iterator[Example]:
    """WordNet's glosses, and their words. A sister under the same meaning is the hard negative."""
    found = texts.synsets(shop.packages)
    sisters: dict[tuple[str, str], list[texts.Synset]] = collections.defaultdict(list)
    for synset in found:
        sisters[synset.above, shop.sides.of(f"synset:{synset.key}")].append(synset)
    for synset, split in shop.chosen("glosses", found, lambda one: f"synset:{one.key}", train=5000):
        words = ", ".join(synset.words[:_MOST_WORDS])
        near = [one for one in sisters[synset.above, split] if not set(one.words) & set(synset.words)]
        hard = shop.sides.order(near, synset.key)[:1] if synset.above else []
        query = search(shop.sides, synset.gloss, "Find the word with this meaning:")
        yield Example(
            query, Side(words), f"word:{words.lower()}", f"synset:{synset.key}", split,
            tuple(Side(", ".join(one.words[:_MOST_WORDS])) for one in hard),
        )  # fmt: skip


def caption_to_figure(shop: Workshop) -> Iterator[Example]:
    """Captions in a manual, and the figures above them."""
    found = small_sets.manual_figures(shop.packages)
    for figure, split in shop.chosen("figures", found, lambda one: f"figure:{one.caption.split('. ')[0]}"):
        name = f"manual/{figure.name}"
        picture = shop.pictures.copy(name, figure.picture)
        if picture is not None:
            query = search(shop.sides, figure.caption, "Find the figure with this caption:")
            group = f"figure:{figure.caption.split('. ')[0]}"
            yield Example(query, Side(image=picture), f"figure:{picture}", group, split)


def clothing(shop: Workshop) -> Iterator[Example]:
    """Small grey photographs of clothes, and what they are. The authors' test part is the test."""
    from PIL import Image

    for part, most in (("train", {TRAIN: 2500, **MOST}), ("t10k", MOST)):
        data = small_sets.clothes(shop.packages, part)
        left = {split: count for split, count in most.items() if (split == TEST) == (part == "t10k")}
        for number in shop.sides.order(range(len(data.classes)), "clothes", part):
            group = f"clothes:{part}:{number}"
            side = TEST if part == "t10k" else shop.sides.of(group)
            if left.get(side, 0) <= 0:
                continue
            left[side] -= 1
            pixels = data.pictures[number]
            name = f"clothing/{part}_{number:05}"
            picture = shop.pictures.add(name, lambda pixels=pixels: Image.fromarray(pixels), lossless=True)  # type: ignore[misc]
            label = small_sets.CLOTHES[int(data.classes[number])]
            query = Side(image=picture, instruction="Classify this piece of clothing.")
            yield Example(query, Side(label), f"label:{label}", group, side)


def unseen_stamps(shop: Workshop) -> Iterator[Example]:
    """Captions and cut-out photographs: a kind of picture that training never sees."""
    for stamp in small_sets.stamps(shop.packages):
        picture = shop.pictures.copy(f"stamps/{stamp.name}", stamp.picture)
        if picture is not None:
            identity = f"stamp:{stamp.name}"
            yield Example(Side(stamp.caption), Side(image=picture), identity, identity, shop.sides.unseen(identity))


def unseen_clipart(shop: Workshop) -> Iterator[Example]:
    """Titles and drawings of the one folder of clip art that training never sees."""
    clips = [clip for clip in shop.clips if clip.folders[:1] == (UNSEEN_FOLDER,)]
    kept = first_with_title(clips)
    for clip in clips:
        picture = shop.pictures.copy(f"clipart/{clip.name}", clip.path) if clip.name in kept else None
        if picture is not None:
            side = shop.sides.unseen(f"clip:{clip.title}")
            yield Example(Side(clip.title), Side(image=picture), f"picture:{picture}", f"clip:{clip.title}", side)


def unseen_outlines(shop: Workshop) -> Iterator[Example]:
    """Labels and black outlines of emoji that training sees in no style."""
    for emoji, picture in shop.outlines:
        group = emoji_group(emoji)
        yield Example(Side(emoji.label), Side(image=picture), f"outline:{emoji.code}", group, shop.sides.unseen(group))


def names_and_pictures(shop: Workshop, split: str) -> Sequence[tuple[str, str]]:
    """Short names of things on one side of the split, and pictures of them: what scenes are made of."""
    emoji: list[tuple[Emoji, str]] = [
        one for one in shop.fluent if "flag" not in one[0].subgroup and shop.sides.of(emoji_group(one[0])) == split
    ]
    drawings = [one for one in shop.drawings if one.title and shop.sides.of(one.group) == split]
    named = [(one.label, picture) for one, picture in emoji if len(one.label.split()) <= _MOST_WORDS]
    return [*named, *((one.title.lower(), one.picture) for one in drawings if len(one.title.split()) <= _MOST_WORDS)]
