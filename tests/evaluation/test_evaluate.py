"""Evaluation from items to figures, on the colours model."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.colour_index import solid
from helpers.colours import COLOURS, ColourBackbone
from tsembed_search.data.rows import RankingTask
from tsembed_search.errors import TooLargeError, UsageError
from tsembed_search.evaluation.evaluate import Reranking, evaluate
from tsembed_search.evaluation.results import compared, csv_rows, groups
from tsembed_search.items import Embeddings, Item
from tsembed_search.model.backbone import Prepared
from tsembed_search.model.embedder import Embedder
from tsembed_search.ranking.metrics import METRICS

WORDS = list(COLOURS)


class Counting(Embedder):
    """Counts what goes through the model."""

    def __init__(self, backbone: ColourBackbone) -> None:
        super().__init__(backbone)
        self.embedded = 0

    def embed_stream(
        self, stream: Iterable[Sequence[tuple[int, Prepared]]]
    ) -> Iterator[tuple[list[int], Embeddings | TooLargeError]]:
        for batch in stream:
            self.embedded += len(batch)
            yield from super().embed_stream([batch])


@pytest.fixture
def pictures(tmp_path: Path) -> dict[str, Path]:
    paths = {}
    for colour, rgb in COLOURS.items():
        paths[colour] = tmp_path / f"{colour}.png"
        Image.fromarray(solid(*rgb)).save(paths[colour])
    return paths


def naming(pictures: dict[str, Path], name: str = "naming", meta: str = "classification") -> RankingTask:
    """A picture's colour among all colours: easy for the model."""
    queries = [Item(image=pictures[word]) for word in WORDS]
    return RankingTask(name, meta, queries, [Item(word) for word in WORDS], [frozenset({n}) for n in range(6)])


def misleading(name: str = "misleading") -> RankingTask:
    """The right answer is the one that the model likes least of two."""
    queries = [Item(word) for word in WORDS]
    candidates = [Item(word) for word in WORDS] + [Item(f"stone wood {n}") for n in range(6)]
    correct = [frozenset({6 + n}) for n in range(6)]
    return RankingTask(name, "vqa", queries, candidates, correct, [[n, 6 + n] for n in range(6)], "out")


def embedder(experts: bool = False) -> Counting:
    return Counting(ColourBackbone(experts=experts))


def test_figures_per_task_group_and_overall(pictures: dict[str, Path]) -> None:
    result = evaluate(embedder(), [naming(pictures), misleading()])
    said = result.to_json()
    assert said["tasks"]["naming"]["hit@1"] == 1.0 and said["tasks"]["misleading"]["hit@1"] == 0.0
    assert said["tasks"]["misleading"]["mrr"] == 0.5
    assert said["groups"]["classification"]["hit@1"] == 1.0
    assert set(said["groups"]) == {"classification", "vqa", "out-of-distribution"}
    overall = said["overall"]
    assert (overall["hit@1"], overall["n"], overall["tasks"]) == (0.5, 12, 2)
    assert overall["interval"]["hit@1"] == [0.5, 0.5]
    for figures in (overall, *said["tasks"].values()):
        assert set(METRICS) | {"n", "interval"} <= set(figures)


def test_equal_items_are_embedded_once(pictures: dict[str, Path]) -> None:
    model = embedder()
    seen: list[tuple[int, int]] = []
    evaluate(
        model, [naming(pictures), naming(pictures, "again"), misleading()], progress=lambda *seen_: seen.append(seen_)
    )
    # 6 pictures and 6 words are asked, 6 words and 6 others are found
    assert model.embedded == 24
    assert seen[-1] == (24, 24) and seen == sorted(seen)


def test_unreadable_pictures_cost_their_queries_only(pictures: dict[str, Path]) -> None:
    pictures["red"].write_bytes(b"not a picture")
    result = evaluate(embedder(), [naming(pictures)])
    assert result.unread.items == 1 and result.unread.queries == 1
    assert "red.png" in result.unread.examples[0]
    assert result.tasks[0].queries.tolist() == [1, 2, 3, 4, 5]
    # as candidates: the query that it answers is lost, and the others do without it
    task = naming(pictures)
    turned = RankingTask("turned", "", task.candidates, task.queries, task.correct)
    result = evaluate(embedder(), [turned])
    assert result.tasks[0].queries.tolist() == [1, 2, 3, 4, 5]
    assert result.to_json()["overall"]["hit@1"] == 1.0
    for path in pictures.values():
        path.write_bytes(b"")
    with pytest.raises(UsageError, match="None of the queries"):
        evaluate(embedder(), [naming(pictures)])


def test_reranking_by_experts(pictures: dict[str, Path]) -> None:
    tasks = [naming(pictures), misleading()]
    plain = evaluate(embedder(experts=True), tasks)
    same = evaluate(embedder(experts=True), tasks, reranking=Reranking(weight=0.0))
    np.testing.assert_array_equal(plain.tasks[0].values, same.tasks[0].values)
    assert same.gain is not None and same.gain[0].mean == 0.0
    routed = evaluate(embedder(experts=True), tasks, reranking=Reranking(weight=1.0))
    assert any(not np.array_equal(a.values, b.values) for a, b in zip(plain.tasks, routed.tasks, strict=True))
    assert routed.gain is not None
    before, after = (np.mean([task.values[:, 0].mean() for task in each.tasks]) for each in (plain, routed))
    assert routed.gain[0].mean == pytest.approx(after - before)


def test_a_sweep_reports_on_queries_that_it_did_not_choose_on() -> None:
    queries = [Item(f"{word} {n}") for n in range(10) for word in WORDS]
    candidates = [Item(f"{word} {n} x") for n in range(10) for word in WORDS]
    task = RankingTask("t", "", queries, candidates, [frozenset({n}) for n in range(60)])
    result = evaluate(embedder(experts=True), [task], reranking=Reranking(sweep=True))
    assert result.sweep is not None
    said = result.to_json()["rerank"]["sweep"]
    assert said["chosen_on"] + said["reported_on"] == 60
    assert len(result.tasks[0].queries) == said["reported_on"]
    assert 10 < said["reported_on"] < 50
    assert [weight for weight, _ in result.sweep.curve][::10] == [0.0, 0.5, 1.0]
    best = max(mrr for _, mrr in result.sweep.curve)
    assert result.weight == min(weight for weight, mrr in result.sweep.curve if mrr >= best - 1e-9)


def test_comparison_pairs_queries(pictures: dict[str, Path]) -> None:
    tasks = [naming(pictures), misleading()]
    first = evaluate(embedder(), tasks)
    pictures["red"].write_bytes(b"broken")
    second = evaluate(embedder(), [naming(pictures)])
    difference = compared(first.tasks, second.tasks)
    assert [task.name for task in difference] == ["naming"]
    assert difference[0].queries.tolist() == [1, 2, 3, 4, 5]
    (*_, overall) = groups(difference)
    assert overall.estimates()[0].mean == 0.0 and not overall.estimates()[0].excludes_zero


def test_csv_is_in_mmebs_grouping(pictures: dict[str, Path]) -> None:
    result = evaluate(embedder(), [naming(pictures), misleading()])
    rows = list(csv_rows(result.tasks, result.metrics))
    assert [row[:2] for row in rows[1:]] == [
        ["classification", "naming"],
        ["vqa", "misleading"],
        ["classification", ""],
        ["vqa", ""],
        ["out-of-distribution", ""],
        ["overall", ""],
    ]
    assert len({len(row) for row in rows}) == 1
    table = list(csv.DictReader([",".join(row) for row in rows]))
    assert float(table[-1]["hit@1"]) == 0.5 and table[0]["hit@1 low"] == "1.000000"


@pytest.mark.parametrize(
    ("experts", "reranking", "message"),
    [
        (False, Reranking(weight=0.5), "no experts"),
        (True, Reranking(), "does not say"),
        (True, Reranking(weight=1.5), "not a route weight"),
        (True, Reranking(weight=0.5, sweep=True), "either given or swept"),
    ],
)
def test_refusals(experts: bool, reranking: Reranking, message: str, pictures: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match=message):
        evaluate(embedder(experts), [naming(pictures)], reranking=reranking)
    with pytest.raises(UsageError, match="too few queries"):
        one = RankingTask("one", "", [Item("red")], [Item("red"), Item("blue")], [frozenset({0})])
        evaluate(embedder(True), [one], reranking=Reranking(sweep=True))


def test_cut_vectors_are_measured_from_the_same_embeddings(pictures: dict[str, Path]) -> None:
    embedder = Counting(ColourBackbone())
    result = evaluate(embedder, [naming(pictures)], dims=[1, 2])
    assert embedder.embedded == 12
    hits = {dim: tasks[0].values[:, 0].mean() for dim, tasks in result.cut.items()}
    assert set(hits) == {1, 2}
    assert hits[1] == 0  # one number of unit length is the same for all, and ties count against the model
    assert result.to_json()["dims"]["2"]["overall"]["hit@1"] == hits[2] < result.tasks[0].values[:, 0].mean()


@pytest.mark.parametrize("dim", [0, -1, 10_000])
def test_vectors_are_not_cut_to_more_numbers_than_they_have(pictures: dict[str, Path], dim: int) -> None:
    with pytest.raises(UsageError, match=f"cannot be cut to {dim}"):
        evaluate(Embedder(ColourBackbone()), [naming(pictures)], dims=[dim])


def test_figures_of_a_model_that_stops_early_stand_beside_those_of_the_whole(pictures: dict[str, Path]) -> None:
    whole = evaluate(Embedder(ColourBackbone()), [naming(pictures)], dims=[2])
    other = evaluate(Embedder(ColourBackbone()), [naming(pictures)], dims=[1, 2])
    both = replace(whole, depths={3: other})
    assert [(depth, dim) for depth, dim, _ in both.shorter()] == [(None, 2), (3, None), (3, 1), (3, 2)]
    said = both.to_json()
    assert said["items"] == 12 and both.milliseconds() == 1000 * said["seconds"]["embed"] / 12 > 0
    assert said["depths"]["3"]["overall"]["hit@1"] == said["overall"]["hit@1"]
    assert said["depths"]["3"]["difference"]["overall"]["hit@1"] == 0
    shortest = said["depths"]["3"]["dims"]["1"]
    assert shortest["overall"]["hit@1"] == 0 and shortest["difference"]["overall"]["hit@1"] == -said["overall"]["hit@1"]
    assert "depths" not in whole.to_json()
