"""Right answers are never negatives of their query, no item is ranked for itself, and what is no number never wins."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.training_data import small
from tsembed_search.data.rows import Task, content, question
from tsembed_search.data.tasks import load as load_evaluation
from tsembed_search.data.training import load
from tsembed_search.items import Embeddings, Item
from tsembed_search.model.backbone import autocast
from tsembed_search.ranking.similarity import rank
from tsembed_search.trainer.batches.features import preparer_for
from tsembed_search.trainer.batches.loader import read
from tsembed_search.trainer.batches.sampler import Pick
from tsembed_search.trainer.diagnostics import route_weight
from tsembed_search.trainer.distributed import Processes
from tsembed_search.trainer.losses import negatives as masks
from tsembed_search.trainer.losses.base import NEGATIVE, POSITIVE, QUERY, Labels
from tsembed_search.trainer.validation import Embedding, Ranking, rank_tasks, score

pytestmark = pytest.mark.usefixtures("one_block")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """House and boat, each under two names, and a picture of neither."""
    for number, name in enumerate(("house", "boat", "sun")):
        noise = np.random.default_rng(number).integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{name}.png")
        shutil.copy(tmp_path / f"{name}.png", tmp_path / f"{name}-copy.png")
    return tmp_path


def write(file: Path, rows: Sequence[Any]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def image(name: str) -> dict[str, str]:
    return {"image": f"{name}.png"}


def row(query: Any, positive: Any) -> dict[str, Any]:
    return {"query": query, "positive": positive}


# Rows, and which documents (positives, then hard negatives) must not be negatives of the first row's query.
SIBLINGS: dict[str, tuple[list[dict[str, Any]], set[int]]] = {
    "several rows": (
        [row("fruit", "apple"), row("fruit", "pear"), row("a", "b")],
        {1},
    ),
    "another spelling of the query": (
        [row("Fruit", "apple"), row("fruit ", "pear"), row("a", "b")],
        {1},
    ),
    "composed otherwise": (
        [row("caf\u00e9", "x"), row("cafe\u0301", "y"), row("a", "b")],
        {1},
    ),
    "the right one of another query": (
        [row("fruit", "apple"), row("green", "pear"), row("a", "b"),
         row("fruit", "pear")],
        {1, 3},
    ),
    "a hard negative": (
        [{"query": "fruit", "positive": "apple", "negatives": ["pear", "stone"]}, row("a", "b"),
         row("fruit", "pear")],
        {2, 3},
    ),
    "the query itself": (
        [row("sofa", "couch"), row("couch", "sofa"), row("a", "b")],
        {1},
    ),
    "by identity": (
        [row("fruit", "apple"), {"query": "green", "positive": "pear", "identity": "p"},
         {"query": "fruit", "positive": "a pear", "identity": "p"}, row("a", "b")],
        {1, 2},
    ),
    "copies of a target": (
        [row("home", image("house")), row("roof", image("house-copy")),
         row("ship", image("boat"))],
        {1},
    ),
    "copies of another right answer": (
        [row("thing", image("house")), row("ship", image("boat-copy")),
         row("star", image("sun")), row("thing", image("boat"))],
        {1, 3},
    ),
    "copies of the query": (
        [row(image("house"), "home"), row(image("house-copy"), "roof"),
         row(image("boat"), "ship")],
        {1},
    ),
    "a picture turned": (
        [row(image("house"), image("boat")), row(image("boat"), image("house-copy")),
         row(image("sun"), "star")],
        {1},
    ),
    "a picture with words": (
        [row({**image("house"), "text": "this"}, "home"),
         row({**image("house-copy"), "text": "this"}, "roof"),
         row({**image("house"), "text": "that"}, "door")],
        {1},
    ),
    "mmeb": (
        [{"qry": "fruit", "pos_text": "apple"}, {"qry": "fruit", "pos_text": "pear"}, {"qry": "a", "pos_text": "b"}],
        {1},
    ),
}  # fmt: skip


def batch(tasks: Sequence[Task]) -> Labels:
    """All rows of all tasks in one batch."""
    from tsembed_search.model.backbones import mini

    picks = [Pick(place, row, 0) for place, task in enumerate(tasks) for row in range(len(task))]
    prepares = preparer_for(mini.load("cpu"), "test", cache=False, workers=1)
    items, found, skipped, _ = read(tasks, picks, prepares, hard_negatives=2)
    prepares.close()
    assert len(items) == len(found.table) and not skipped
    return found


@pytest.mark.parametrize("name", SIBLINGS)
def test_no_right_answer_is_a_negative(pictures: Path, name: str) -> None:
    rows, right = SIBLINGS[name]
    found = batch(load([write(pictures / "rows.jsonl", rows)], validation=0).train)
    asked, documents = found.table[found.of(QUERY)], found.table[found.of(POSITIVE, NEGATIVE)]
    valid = masks.candidates(asked, documents, answers=found.answers)
    assert set((~valid[0]).nonzero().flatten().tolist()) == {0} | right
    assert valid.any(1).all(), "and what is wrong still is"


@pytest.mark.parametrize("name", SIBLINGS)
def test_evaluation_knows_them_too(pictures: Path, name: str) -> None:
    rows, right = SIBLINGS[name]
    data = load([write(pictures / "rows.jsonl", rows)], validation=0)
    found = batch(data.train)
    (task,) = load_evaluation([pictures / "rows.jsonl"]).tasks
    never = task.correct[0] | (frozenset() if task.left_out is None else task.left_out[0])
    told = {content(task.candidates[place]) for place in never}
    documents = found.table[found.of(POSITIVE, NEGATIVE)]
    assert told == {int(documents[place, 2]) for place in {0} | right}
    assert len(never) < len(task.candidates)


@pytest.mark.parametrize("name", SIBLINGS)
def test_so_does_validation(pictures: Path, name: str, adapted: Callable[[Any], Any]) -> None:
    rows, right = SIBLINGS[name]
    (task,) = load([write(pictures / "rows.jsonl", rows)], validation=0).train
    backbone = adapted(small().adapter)
    prepares = preparer_for(backbone, "test", cache=False, workers=1)
    found = rank_tasks(Embedding(backbone, prepares, autocast("float32", torch.device("cpu"))), [task], 100)["rows"]
    prepares.close()
    positives = {content(task[row].positive) for row in {0} | {one for one in right if one < len(task)}}
    order = list(dict.fromkeys((content(task[row].positive), task[row].identity) for row in range(len(task))))
    assert found.left_out is not None
    assert {order[place][0] for place in found.correct[0] | found.left_out[0]} == positives


def test_processes_know_what_the_others_rows_know(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answers are gathered with the labels, however many each process has."""
    parts = [torch.arange(2 * count).reshape(count, 2) for count in (0, 3)]
    group = Processes(0, 2)
    monkeypatch.setattr(Processes, "_gather", lambda self, tensor: parts if tensor.shape[1] == 2 else [tensor, tensor])
    own = Labels(torch.zeros(1, 5, dtype=torch.int64), parts[0])
    _, labels = group.gather(torch.zeros(1, 3), own)
    assert torch.equal(labels.answers, parts[1]) and labels.table.shape == (2, 5)


# Rows of pairs; a model that knows equal things only as equal has to rank each query's partner first.
TURNED: dict[str, list[tuple[Any, Any]]] = {
    "texts": [("car", "automobile"), ("sofa", "couch"), ("film", "movie")],
    "pictures": [(image("house"), image("house2")), (image("boat"), image("boat2"))],
    "joint": [({**image("house"), "text": "a"}, {**image("boat"), "text": "b"})],
    "across": [("house", image("house")), ("boat", image("boat"))],
    "spelled otherwise": [("Car", "automobile"), ("Sofa", "couch")],
}


@pytest.mark.parametrize("name", TURNED)
def test_an_item_is_not_ranked_for_itself(pictures: Path, name: str) -> None:
    for one in ("house", "boat"):
        noise = np.random.default_rng(len(one)).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(noise).save(pictures / f"{one}2.png")
    pairs = TURNED[name] + [(after, before) for before, after in TURNED[name]]
    rows = [{"query": query, "positive": positive} for query, positive in pairs]
    (task,) = load_evaluation([write(pictures / "rows.jsonl", rows)]).tasks
    assert task.left_out is not None
    for query, right, never in zip(task.queries, task.correct, task.left_out, strict=True):
        assert {content(task.candidates[place]) for place in never} == {content(query)} and not right & never
    # Equal content is an equal vector: without the rule, each query would find itself.
    places = {content(item): place for place, item in enumerate([*task.queries, *task.candidates])}
    unit = np.eye(len(task.queries) + len(task.candidates), dtype=np.float32) * 0.9 + 0.1
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    asked, found = (unit[[places[content(one)] for one in items]] for items in (task.queries, task.candidates))
    assert rank(asked, found, task.correct).ranks.metric("hit@1").max() == 0
    alone = [frozenset({sorted(right)[0]}) for right in task.correct]
    kept = rank(asked, found, alone, left_out=[never | right - one for never, right, one in
                zip(task.left_out, task.correct, alone, strict=True)], depth=3)  # fmt: skip
    assert all(never.isdisjoint(row) for never, row in zip(task.left_out, kept.wrong.tolist(), strict=True))
    assert (kept.ranks.ranks < rank(asked, found, alone).ranks.ranks).all()


def test_what_a_row_says_of_itself_is_ranked(tmp_path: Path) -> None:
    own = write(tmp_path / "own.jsonl", [{"query": "car", "positive": "car"}, {"query": "bus", "positive": "bus"}])
    (task,) = load_evaluation([own]).tasks
    assert task.left_out is None and task.correct == [frozenset({0}), frozenset({1})]
    told = write(tmp_path / "told.jsonl", [{"query": "car", "positive": "bus", "negatives": ["car"]}])
    assert load_evaluation([told]).tasks[0].left_out is None
    listed = write(tmp_path / "listed.jsonl", [{"qry_text": "car", "tgt_text": ["bus", "car", "x"]},
                                               {"qry_text": "bus", "tgt_text": ["car", "y"]}])  # fmt: skip
    (task,) = load_evaluation([listed]).tasks
    assert task.left_out is None and task.choices is not None and len(task.choices[0]) == 3


def test_a_limit_keeps_what_is_left_out(tmp_path: Path) -> None:
    pairs = [(f"a{n}", f"b{n}") for n in range(20)]
    rows = [{"query": q, "positive": p} for q, p in pairs + [(p, q) for q, p in pairs]]
    (task,) = load_evaluation([write(tmp_path / "rows.jsonl", rows)], limit=8, most_candidates=20).tasks
    assert len(task.queries) == 8 and len(task.candidates) == 20 and task.left_out is not None
    for query, right, never in zip(task.queries, task.correct, task.left_out, strict=True):
        assert all(task.candidates[place].text == query.text for place in never)
        assert [task.candidates[place].text for place in right] == [dict(pairs + [p[::-1] for p in pairs])[query.text]]


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), float("-inf")])
class TestWhatIsNoNumber:
    """Every comparison with it is false, so that nothing would come before the right answer."""

    def test_a_diverged_model_scores_nothing(self, odd: float) -> None:
        bad = Embeddings(np.full((3, 4), odd, np.float32), np.full((3, 2), odd, np.float32))
        ranking = Ranking("", bad, bad, [frozenset({row}) for row in range(3)])
        assert not ranking.finite
        assert score(ranking)["hit@1"] == 0 and score(ranking)["mrr"] == pytest.approx(1 / 3)
        chosen = route_weight({"one": ranking}, torch.zeros(2))
        assert chosen is not None and chosen.weight == 0 and all(mrr == pytest.approx(1 / 3) for _, mrr in chosen.curve)

    def test_evaluation_refuses_it(self, odd: float) -> None:
        vectors = np.array([[1.0, 0.0], [0.0, odd]], np.float32)
        with np.errstate(invalid="ignore"):
            with pytest.raises(ValueError, match="not finite"):
                rank(vectors, vectors, [frozenset({0}), frozenset({1})])
            with pytest.raises(ValueError, match="not finite"):
                rank(vectors, vectors, [frozenset({0}), frozenset({1})], [[0, 1], [0, 1]], depth=1)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (Item("A  cat\n"), Item("a cat"), True),
        (Item("caf\u00e9"), Item("cafe\u0301"), True),
        (Item("cat", instruction="Find it"), Item("cat"), True),
        (Item("cat"), Item("cats"), False),
        (Item("10\u00b2"), Item("102"), False),
        (Item(image="house.png"), Item(image="house-copy.png"), True),
        (Item(image="house.png"), Item(image="boat.png"), False),
        (Item("a", image="house.png"), Item("b", image="house.png"), False),
        (Item(image="nowhere.png"), Item(image="elsewhere.png"), False),
        (Item(image=np.zeros((2, 3, 3), np.uint8)), Item(image=np.zeros((3, 2, 3), np.uint8)), False),
        (Item(image=np.zeros((2, 3, 3), np.uint8)), Item(image=np.zeros((2, 3, 3), np.uint8)), True),
    ],
)
def test_same_content(pictures: Path, monkeypatch: pytest.MonkeyPatch, one: Item, other: Item, same: bool) -> None:
    monkeypatch.chdir(pictures)
    assert (content(one) == content(other)) is same
    assert question(Item("cat", instruction="Find it")) != question(Item("cat"))


@pytest.mark.parametrize(("kind", "place"), [("BMP", 300_000), ("TIFF", 300_000), ("JPEG", 0), ("PNG", 0)])
def test_large_pictures_are_told_apart(tmp_path: Path, kind: str, place: int) -> None:
    """Where pixels lie as they are, two pictures may differ in one place alone."""
    pixels = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
    other = pixels.copy()
    other.reshape(-1)[place] ^= 255
    for name, data in (("one", pixels), ("other", other), ("copy", pixels)):
        Image.fromarray(data).save(tmp_path / name, kind)
    one, two, copy = (content(Item(image=tmp_path / name)) for name in ("one", "other", "copy"))
    assert one == copy != two
