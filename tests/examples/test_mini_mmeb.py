"""The set that `examples/mini/data.py` builds: its pieces on small fixtures, and a build from made-up packages."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import data
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mini_mmeb import clipart, emoji, maps, pictures, scenes, small_sets, texts
from mini_mmeb.build import build, texts_asked, unasked
from mini_mmeb.examples import Example, Side
from mini_mmeb.packages import PackageError, Packages
from mini_mmeb.splits import Sides
from mini_mmeb.tasks import SOURCES, TASKS
from mini_mmeb.workshop import clip_labels, grouped
from mini_mmeb.writing import eval_rows, train_rows
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from tsembed_search.data.check import check
from tsembed_search.data.layouts import RowReader
from tsembed_search.data.records import Images, RowFile, RowRecord
from tsembed_search.data.training import load
from tsembed_search.errors import LoadError, UsageError

SVG = """<svg><metadata><rdf:RDF><cc:Work><dc:title>{title}</dc:title><dc:subject><rdf:Bag>
<rdf:li>animal</rdf:li><rdf:li>clip art</rdf:li><rdf:li>Big &amp; red</rdf:li></rdf:Bag></dc:subject></cc:Work>
</rdf:RDF></metadata></svg>"""


def test_sides_depend_on_the_seed_and_the_name_alone() -> None:
    first, again, other = Sides(0), Sides(0), Sides(1)
    names = [f"thing:{number}" for number in range(3000)]
    sides = [first.of(name) for name in names]
    assert sides == [again.of(name) for name in names] != [other.of(name) for name in names]
    shares = {side: sides.count(side) / len(sides) for side in ("train", "validation", "test")}
    assert 0.77 < shares["train"] < 0.83 and 0.06 < shares["validation"] < 0.1 and 0.1 < shares["test"] < 0.14
    assert sorted(first.order(names, "x")) == sorted(names) != first.order(names, "x")


def test_clip_art_is_read_with_titles_and_keywords(tmp_path: Path) -> None:
    packages = made_up(tmp_path)
    found = {clip.name: clip for clip in clipart.clips(packages)}
    assert found["animals/birds/bird_00"].title == "Bird number a"
    assert found["animals/birds/bird_00"].keywords == ("animal",)
    assert found["animals/birds/bird_00"].folders == ("animals", "birds")
    labels = clip_labels(list(found.values()))
    assert labels["animals/birds/bird_00"] == "birds"
    assert "unsorted/thing_00" not in labels


@pytest.mark.parametrize(
    ("title", "words"),
    [
        ("Clip art by A. Smith - Red House 02", "Red House"),
        ("clipart by john doe - a_cat", "a cat"),
        ("12_34", ""),
        ("x" * 90, ""),
        ("Simple Arrow", "Simple Arrow"),
    ],
)
def test_titles_are_cleaned(title: str, words: str) -> None:
    assert clipart.cleaned(title) == words


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.none() | st.integers(0, 6), st.none() | st.integers(0, 6)), max_size=20))
def test_things_that_share_a_key_are_grouped(keys: list[tuple[int | None, int | None]]) -> None:
    groups = grouped(keys)
    for a, own in enumerate(keys):
        assert groups[a] <= a and groups[groups[a]] == groups[a]
        for b, other in enumerate(keys):
            if any(x is not None and x == y for x, y in zip(own, other, strict=True)):
                assert groups[a] == groups[b]


def test_composed_queries_need_picture_and_word() -> None:
    titles = ["green apple", "red apple", "red: heart", "red car", "sun"]
    found = {(titles[one.picture], one.word, titles[one.answer]) for one in emoji.composed(titles)}
    assert found == {
        ("green apple", "red", "red apple"), ("red apple", "green", "green apple"),
        ("red apple", "car", "red car"), ("red car", "apple", "red apple"),
    }  # fmt: skip


def test_wordnets_lines_are_parsed() -> None:
    lines = [
        "  1 This line is the licence",
        '00001740 03 n 01 entity 0 001 ~ 00001930 n 0000 | that which is perceived; "an example"  ',
        "00001930 03 n 02 physical_entity 0 thing 1 001 @ 00001740 n 0000 | an entity that has physical existence  ",
    ]
    first, second = texts.parsed(lines, "noun")
    assert (first.words, first.gloss, first.above) == (("entity",), "that which is perceived", "")
    assert (second.words, second.above) == (("physical entity", "thing"), "noun:00001740")
    assert texts.beginning("One two. Three four five. Six.", 5) == "One two. Three four five."
    assert texts.beginning("one two three four", 2) == "one two"


def test_idx_files_are_read(tmp_path: Path) -> None:
    data = (2051).to_bytes(4, "big") + b"".join(n.to_bytes(4, "big") for n in (2, 3, 1)) + bytes(range(6))
    file = tmp_path / "x.gz"
    file.write_bytes(gzip.compress(data))
    assert small_sets.idx(file, 2051).tolist() == [[[0], [1], [2]], [[3], [4], [5]]]
    with pytest.raises(LoadError, match="IDX"):
        small_sets.idx(file, 2049)


def test_figures_of_a_manual_have_their_captions(tmp_path: Path) -> None:
    page = (
        "<div class='figure'><p class='title'><strong>Figure 17.41. Red eyes</strong></p><div class='mediaobject'>"
        "<img src='images/a/before.png'/><div class='caption'><p>Original  image</p></div></div>"
        "<div class='mediaobject'><img src='images/a/after.png'/></div></div><img src='images/icon.png'>"
    )
    found = list(small_sets.figures(page, tmp_path))
    assert [(one.caption, one.name) for one in found] == [
        ("Red eyes. Original image", "a/before"), ("Red eyes", "a/after"),
    ]  # fmt: skip


def test_pictures_are_flattened_made_small_and_written_once(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (800, 400), (255, 0, 0, 0))
    small = pictures.flattened(clear)
    assert small.size == (320, 160) and small.mode == "RGB" and small.getpixel((5, 5)) == (255, 255, 255)
    store = pictures.Pictures(tmp_path)
    name = store.add("a b/../c?", lambda: clear)
    assert name == "images/a_b/../c_.webp" or (tmp_path / name).exists()
    assert store.add("once", lambda: clear) == store.add("once", lambda: pytest.fail("made twice"))  # type: ignore[arg-type,return-value]
    assert (store.written, store.kept) == (2, 1)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    assert store.copy("broken", tmp_path / "broken.png") is None and len(store.unreadable) == 1


def test_looks_of_copies_are_equal_and_of_others_not() -> None:
    def shape(left: int) -> Image.Image:
        picture = Image.new("RGB", (90, 80), "white")
        ImageDraw.Draw(picture).ellipse((left, 20, left + 40, 60), "navy")
        return picture

    assert pictures.look(shape(10)) == pictures.look(shape(10).resize((180, 160), Image.Resampling.NEAREST))
    assert pictures.look(shape(10)) != pictures.look(shape(40))
    assert pictures.look(Image.new("RGB", (9, 9), "white")) == 0


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(8, 30))
def test_scenes_show_each_thing_in_its_own_cell(seed: int, count: int) -> None:
    scene = scenes.planned([f"thing {number}" for number in range(count)], random.Random(seed))
    assert 3 <= len(scene.things) <= 5
    assert (
        len({thing.cell for thing in scene.things}) == len({thing.name for thing in scene.things}) == len(scene.things)
    )
    for thing in scene.things:
        left, top, right, bottom = thing.box
        middle = ((left + right) / 2, (top + bottom) / 2)
        assert 0 <= left < right <= scenes.SIDE and 0 <= top < bottom <= scenes.SIDE
        assert int(middle[1] // (scenes.SIDE / 3)) * 3 + int(middle[0] // (scenes.SIDE / 3)) == thing.cell
    assert scene == scenes.planned([f"thing {number}" for number in range(count)], random.Random(seed))


def test_a_scene_is_drawn_and_cut() -> None:
    colours = ["red", "green", "blue", "navy", "black", "brown"]
    scene = scenes.planned(colours, random.Random(1))
    drawn = [Image.new("RGB", (50, 20), thing.name) for thing in scene.things]
    sheet = scenes.composed(scene, drawn)
    assert sheet.size == (scenes.SIDE, scenes.SIDE)
    for thing in scene.things:
        cut = np.asarray(scenes.crop(sheet, thing), np.int32)
        wanted = np.asarray(Image.new("RGB", (1, 1), thing.name), np.int32)[0, 0] * scene.paper // 255
        assert (abs(cut - wanted).max(axis=2) <= 2).mean() > 0.25


def test_maps_are_drawn_with_marks(tmp_path: Path) -> None:
    packages = made_up(tmp_path)
    drawing = maps.read(maps.map_files(packages)[0])
    assert len(drawing.regions) == 9 and {region.name for region in drawing.regions} >= {"Region 0", "Region 8"}
    places = {region.name: maps.place(region, drawing.regions) for region in drawing.regions}
    assert (places["Region 0"], places["Region 4"], places["Region 8"]) == ("north-west", "centre", "south-east")
    first = drawing.regions[0]
    marked = np.asarray(maps.drawn(drawing, {first.colour: "red"}))
    red = (marked == maps.COLOURS["red"]).all(axis=2)
    assert red.sum() == first.pixels and red[first.box[1], first.box[0]]
    assert (np.asarray(maps.cut(drawing, first, "red")) == maps.COLOURS["red"]).all(axis=2).any()
    assert maps.country(Path("france_regions.kgm")) == maps.country(Path("france.kgm")) == "france"


def test_rows_have_mmebs_layouts(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in "abc":
        (tmp_path / f"images/{name}.webp").touch()
    examples = [
        Example(Side(f"the {name}", "images/a.webp", "Find"), Side(image=f"images/{name}.webp"), name, "g", "test",
                (Side(image=f"images/{other}.webp"),))
        for name, other in ("ab", "bc", "ca")
    ]  # fmt: skip
    finder = Images([tmp_path])
    row = RowReader(finder).read(train_rows(examples)[0]).row()
    assert (row.query.text, row.query.image) == ("Find the a", tmp_path / "images/a.webp")
    assert (row.positive.image, row.positive.text) == (tmp_path / "images/a.webp", None)
    assert [one.image for one in row.negatives] == [tmp_path / "images/b.webp"]
    bare = RowReader(finder, "none").read(train_rows(examples)[0]).row()
    assert bare.query.text == "the a"
    tested = eval_rows(examples, Sides(0))[0]
    assert tested["tgt_img_path"] == ["images/a.webp", "images/b.webp", "images/c.webp"]
    assert RowReader(finder).read(tested).row().positive == row.positive


def test_held_out_queries_that_training_has_are_dropped() -> None:
    train = Example(Side("Eagle"), Side(image="a"), "a", "a", "train")
    same, other = (Example(Side(text), Side(image="b"), "b", "b", "test") for text in ("eagle", "owl"))
    shown = Example(Side("eagle", "c.png"), Side("x"), "x", "x", "test")
    assert unasked([train, same, other, shown], texts_asked([[train]])) == [train, other, shown]


def test_a_whole_set_is_built_from_packages_and_loads_without_leaks(tmp_path: Path) -> None:
    packages = made_up(tmp_path)
    wanted = (
        "clipart_folder",
        "clipart_t2i",
        "clipart_i2t",
        "scene_qa",
        "scene_part",
        "map_qa",
        "map_part",
        "unseen_clipart",
    )
    tasks = [task for task in TASKS if task.name in wanted]
    built = build(tmp_path / "set", packages.cache, tasks=tasks, share=0.02)
    assert not built.missing and set(built.rows) == set(wanted)
    assert built.rows["unseen_clipart"].keys() == {"unseen_validation", "unseen_test"}
    report = check([tmp_path / "set"])
    assert report.usable and not report.problems and not report.leaks
    data = load([tmp_path / "set"])
    assert {task.name for task in data.train} == set(wanted) - {"unseen_clipart"}
    assert {task.meta for task in data.train} == {"classification", "retrieval", "vqa", "grounding"}
    assert not any("food" in str(image) for task in data.train for row in (task[n] for n in range(len(task)))
                   for image in (row.query.image, row.positive.image))  # fmt: skip
    before = {file: file.read_bytes() for file in (tmp_path / "set").rglob("*") if file.is_file()}
    again = build(tmp_path / "set", packages.cache, tasks=tasks, share=0.02)
    assert again.rows == built.rows
    assert before == {file: file.read_bytes() for file in (tmp_path / "set").rglob("*") if file.is_file()}
    licences = json.loads((tmp_path / "set/licences.json").read_text())
    assert licences["sources"]["openclipart"]["licence"] == "public domain"
    assert "map_qa" not in licences["free_tasks"] and "clipart_t2i" in licences["free_tasks"]
    with pytest.raises(UsageError, match="other options"):
        build(tmp_path / "set", packages.cache, seed=1, tasks=tasks)
    public = build(tmp_path / "public", packages.cache, public=True, tasks=tasks, share=0.02)
    assert "map_qa" not in public.rows and "scene_qa" in public.rows
    for record in RowFile(tmp_path / "public/train/clipart_t2i.jsonl"):
        assert isinstance(record, RowRecord)


def test_every_source_has_a_licence_and_every_meta_task_is_there() -> None:
    assert {source for task in TASKS for source in task.sources} == set(SOURCES)
    trained = [task for task in TASKS if not task.unseen]
    assert len(trained) >= 10 and len({task.meta for task in trained}) == 4
    assert len({task.meta for task in trained if task.free}) == 4
    assert all(task.about.endswith(".") for task in TASKS)


def test_what_cannot_be_fetched_is_said_and_can_be_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # neither apt-get nor npm
    with pytest.raises(PackageError, match="`apt-get` is not here") as caught:
        Packages(tmp_path / "cache").debian("some-package")
    assert "Debian" in caught.value.hint
    with pytest.raises(PackageError, match="`npm` is not here"):
        Packages(tmp_path / "cache").npm("some@1.0")
    assert not [path for path in (tmp_path / "cache").iterdir() if not path.name.endswith(".partial")]
    made_up(tmp_path)
    done = CliRunner().invoke(data.app, ["--out", str(tmp_path / "set"), "--cache", str(tmp_path / "packages")])
    assert done.exit_code == 1 and "--skip-missing" in done.stderr
    (task,) = (task for task in TASKS if task.name == "gloss")
    built = build(tmp_path / "set", tmp_path / "packages", tasks=[task, *TASKS[-3:-2]], skip_missing=True)
    assert list(built.missing) == ["gloss"] and built.rows.keys() == {"unseen_clipart"}


def test_a_failing_tool_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "apt-get"
    tool.write_text("#!/bin/sh\necho 'W: a warning' >&2\necho 'E: Unable to locate package nope' >&2\nexit 100\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(PackageError, match="E: Unable to locate package nope"):
        Packages(tmp_path / "cache").debian("nope")


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("dear diary")
    with pytest.raises(UsageError, match="is not empty"):
        build(tmp_path, tmp_path / "cache", tasks=[])
    assert [path.name for path in tmp_path.iterdir()] == ["diary.txt"]


def made_up(folder: Path) -> Packages:
    """A cache with made-up packages of clip art, emoji and maps, as complete as fetched ones."""
    cache = folder / "packages"
    share = cache / "openclipart-svg-openclipart-png/usr/share/openclipart"
    draw = random.Random(0)
    for place, (kind, count) in enumerate((("animals/birds", 60), ("tools", 60), ("food", 12), ("unsorted", 3))):
        for number in range(count):
            name = (
                f"{kind}/{kind.split('/')[-1].rstrip('s')}_{number:02}"
                if kind != "unsorted"
                else f"unsorted/thing_{number:02}"
            )
            letters = "".join(chr(97 + int(digit)) for digit in str(number))
            for part, ending in (("svg", ".svg"), ("png", ".png")):
                (share / part / name).parent.mkdir(parents=True, exist_ok=True)
                file = share / part / (name + ending)
                if part == "svg":
                    title = f"{kind.split('/')[-1].rstrip('s').capitalize()} number {letters}"
                    file.write_text(SVG.format(title=title))
                else:
                    pixels = np.random.default_rng([place, number]).integers(0, 255, (6, 6, 3), np.uint8)
                    Image.fromarray(pixels).resize((40, 40), Image.Resampling.NEAREST).save(file)
    emoji_folder = cache / "-lobehub-fluent-emoji-3d-1-1-0/package/assets"
    labels_folder = cache / "emojibase-data-17-0-0/package"
    emoji_folder.mkdir(parents=True)
    (labels_folder / "meta").mkdir(parents=True)
    (labels_folder / "en").mkdir()
    (labels_folder / "meta/groups.json").write_text(json.dumps({"subgroups": {"0": "face-smiling"}}))
    (labels_folder / "en/data.json").write_text("[]")
    regions = cache / "kgeography-data/usr/share/kgeography"
    regions.mkdir(parents=True)
    for number in range(30):
        grid = np.zeros((60, 60, 3), np.uint8)
        parts = ["<division><name>Water</name><ignore>yes</ignore><color><red>0</red><green>0</green><blue>0</blue>"
                 "</color></division>"]  # fmt: skip
        for cell in range(9):
            row, column = divmod(cell, 3)
            # No two lands have the same outlines: what is marked on them must differ.
            top, left = row * 20 + 2 + number // 6, column * 20 + 2 + number % 6
            grid[top : row * 20 + 18, left : column * 20 + 18] = (cell + 1, number + 1, 7)
            parts.append(
                f"<division><name>Region {cell}</name><capital>Town {draw.randrange(9999)}</capital><color>"
                f"<red>{cell + 1}</red><green>{number + 1}</green><blue>7</blue></color></division>"
            )
        key = "land" + "".join(chr(97 + int(digit)) for digit in str(number))
        Image.fromarray(grid).save(regions / f"{key}.png")
        (regions / f"{key}.kgm").write_text(
            f"<map><mapFile>{key}.png</mapFile><name>Land {number}</name>{''.join(parts)}</map>"
        )
    for package in (
        "openclipart-svg-openclipart-png",
        "-lobehub-fluent-emoji-3d-1-1-0",
        "emojibase-data-17-0-0",
        "kgeography-data",
    ):
        (cache / package / ".complete").touch()
    return Packages(cache)
