"""The tasks of the meta-tasks `vqa` and `grounding`: on coloured shapes, on scenes of drawings, and on maps."""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from mini_mmeb import maps, scenes, small_sets
from mini_mmeb.examples import Example, Side
from mini_mmeb.pictures import flattened
from mini_mmeb.retrieval import names_and_pictures
from mini_mmeb.splits import TEST, TRAIN, VALIDATION
from mini_mmeb.workshop import Workshop

if TYPE_CHECKING:
    from PIL import Image

_SCENES: Final = {TRAIN: 1800, VALIDATION: 150, TEST: 250}
_MAP_QUESTIONS: Final = 22
_MAP_LAYOUTS: Final = 7
_MARKED: Final = 4
_MAP_CAPS: Final = {TRAIN: 2500, VALIDATION: 300, TEST: 500}
_COUNTS: Final = ("no", "one", "two", "three", "four", "five", "six")
_ANSWER: Final = "Answer the question about this picture:"
_SHOW: Final = "Find the part of this picture that shows"


def shape_questions(shop: Workshop) -> Iterator[Example]:
    """Questions about coloured shapes; the authors' test part is the test. Most answers are other than yes and no."""

    def wanted(question: small_sets.Question) -> bool:
        telling = question.answer not in ("yes", "no")
        return telling or shop.sides.draw("yes or no", question.picture.stem, question.text) < 0.25

    left = {TRAIN: 4000, VALIDATION: 300, TEST: 500}
    found = [one for one in small_sets.shape_questions(shop.packages) if wanted(one)]
    for question in shop.sides.order(found, "shapes"):
        part = "test" if question.held_out else "train"
        group = f"shapes:{part}:{question.picture.stem}"
        split = shop.sides.of(group)
        if question.held_out or split == TEST:
            split = TEST if question.held_out else TRAIN
        if left[split] <= 0:
            continue
        left[split] -= 1
        name = f"shapes/{part}_{question.picture.stem}"
        picture = shop.pictures.copy(name, question.picture, lossless=True)
        if picture is not None:
            query = Side(question.text, picture, _ANSWER)
            yield Example(query, Side(question.answer), f"answer:{question.answer}", group, split)


def _scenes(shop: Workshop) -> Iterator[tuple[str, str, scenes.Scene, str]]:
    """(split, name, scene, picture) of every scene; things of one split only are in it."""
    for split, count in _SCENES.items():
        things = names_and_pictures(shop, split)
        names = [name for name, _ in things]
        if len(set(names)) < 10:
            continue
        for number in range(round(count * shop.share)):
            draw = random.Random(f"{shop.sides.seed} {split} {number}")
            scene = scenes.planned(names, draw)
            name = f"scenes/{split}_{number:04}"

            def sheet(scene: scenes.Scene = scene, things: Sequence[tuple[str, str]] = things) -> Image.Image:
                return scenes.composed(scene, [shop.pictures.open(things[thing.picture][1]) for thing in scene.things])

            yield split, name, scene, shop.pictures.add(name, sheet)


def scene_questions(shop: Workshop) -> Iterator[Example]:
    """What is where on a sheet with a few drawings, where is what, and how many there are."""
    for split, name, scene, picture in _scenes(shop):
        draw = random.Random(f"{shop.sides.seed} questions {name}")
        first, second = draw.sample(scene.things, 2)
        asked = [
            (f"What is at the {scenes.PLACES[first.cell]}?", first.name),
            (f"Where is the {second.name}?", scenes.PLACES[second.cell]),
        ]
        if draw.random() < 0.25:
            asked[draw.randrange(2)] = ("How many things are there?", _COUNTS[len(scene.things)])
        for text, answer in asked:
            yield Example(Side(text, picture, _ANSWER), Side(answer), f"answer:{answer}", f"scene:{name}", split)


def scene_grounding(shop: Workshop) -> Iterator[Example]:
    """The part of a sheet that shows a thing, by its name or by its place. The other parts are hard negatives."""
    for split, name, scene, picture in _scenes(shop):
        draw = random.Random(f"{shop.sides.seed} grounding {name}")
        parts = [
            shop.pictures.add(
                f"{name}_{thing.cell}",
                lambda picture=picture, thing=thing: flattened(  # type: ignore[misc]
                    scenes.crop(shop.pictures.open(picture), thing), scenes.CROP_SIDE
                ),
            )
            for thing in scene.things
        ]
        for place, by_name in zip(draw.sample(range(len(parts)), 2), (True, False), strict=True):
            thing = scene.things[place]
            words = f"the {thing.name}" if by_name else f"the thing at the {scenes.PLACES[thing.cell]}"
            others = draw.sample([part for part in parts if part != parts[place]], len(parts) - 1)
            yield Example(
                Side(words, picture, _SHOW), Side(image=parts[place]), f"part:{parts[place]}", f"scene:{name}", split,
                tuple(Side(image=part) for part in others),
            )  # fmt: skip


def map_questions(shop: Workshop) -> Iterator[Example]:
    """Questions about one marked region of a map: where it is, its colour, its capital, and whether it is large."""
    left = dict(_MAP_CAPS)
    for file in shop.sides.order(maps.map_files(shop.packages), "maps"):
        split = shop.sides.of(f"map:{maps.country(file)}")
        if left[split] <= 0:
            continue
        drawing = maps.read(file)
        regions = shop.sides.order(drawing.regions, drawing.key)[:_MAP_QUESTIONS] if len(drawing.regions) > 2 else []
        for place, region in enumerate(regions[: left[split]]):
            draw = random.Random(f"{shop.sides.seed} {drawing.key} {place}")
            colour = draw.choice(list(maps.COLOURS))
            picture = shop.pictures.add(
                f"maps/{drawing.key}_{place:02}",
                lambda region=region, colour=colour, drawing=drawing: maps.drawn(drawing, {region.colour: colour}),  # type: ignore[misc]
            )
            text, answer = _asked(draw, drawing, region, colour)
            left[split] -= 1
            group = f"map:{maps.country(file)}"
            yield Example(Side(text, picture, _ANSWER), Side(answer), f"answer:{answer}", group, split)


def _asked(draw: random.Random, drawing: maps.Map, region: maps.Region, colour: str) -> tuple[str, str]:
    kind = draw.random()
    if kind < 0.3 and region.capital:
        return f"The marked region is {region.name}. What is its capital?", region.capital
    if kind < 0.55:
        return "What colour is the marked region?", colour
    if kind < 0.7:
        large = region.pixels > statistics.median(one.pixels for one in drawing.regions)
        return "Is the marked region larger than most of the others?", "yes" if large else "no"
    return "Where on the map is the marked region?", f"in the {maps.place(region, drawing.regions)}"


def map_grounding(shop: Workshop) -> Iterator[Example]:
    """The part of a map that shows one of a few marked regions, by its colour or by its place."""
    left = {split: most // 2 for split, most in _MAP_CAPS.items()}
    for file in shop.sides.order(maps.map_files(shop.packages), "map layouts"):
        split = shop.sides.of(f"map:{maps.country(file)}")
        if left[split] <= 0:
            continue
        drawing = maps.read(file)
        if len(drawing.regions) < _MARKED + 2:
            continue
        for layout in range(min(_MAP_LAYOUTS, left[split] // 2)):
            yield from _pointed(shop, drawing, layout, f"map:{maps.country(file)}", split)
            left[split] -= 2


def _pointed(shop: Workshop, drawing: maps.Map, layout: int, group: str, split: str) -> Iterator[Example]:
    draw = random.Random(f"{shop.sides.seed} layout {drawing.key} {layout}")
    marked = draw.sample(drawing.regions, _MARKED)
    colours = draw.sample(list(maps.COLOURS), _MARKED)
    name = f"maps/{drawing.key}_layout{layout}"
    marks = {region.colour: colour for region, colour in zip(marked, colours, strict=True)}
    picture = shop.pictures.add(name, lambda: maps.drawn(drawing, marks))
    parts = [
        shop.pictures.add(
            f"{name}_{colour}",
            lambda region=region, colour=colour: flattened(maps.cut(drawing, region, colour), scenes.CROP_SIDE),  # type: ignore[misc]
        )
        for region, colour in zip(marked, colours, strict=True)
    ]
    places = [maps.place(region, drawing.regions) for region in marked]
    lonely = [place for place in range(_MARKED) if places.count(places[place]) == 1]
    first = draw.randrange(_MARKED)
    second = draw.choice(lonely) if lonely else (first + 1) % _MARKED
    for place, by_colour in ((first, True), (second, not lonely)):
        words = f"the {colours[place]} region" if by_colour else f"the marked region in the {places[place]}"
        others = tuple(Side(image=part) for part in parts if part != parts[place])
        target = Side(image=parts[place])
        yield Example(Side(words, picture, _SHOW), target, f"part:{parts[place]}", group, split, others)
