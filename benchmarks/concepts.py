"""How much better pictures are found when what they show counts beside the cosine: `python benchmarks/concepts.py`.

Photographs and cartoons of GCompris and cut-outs of Tux Paint, which training never saw, each set searched by its
pictures' names; with `--mmeb FOLDER` also drawings and emoji of a set that `python examples/mini/data.py` made: clip
art and outlines of kinds that training never saw, and others that it left out. Compared, on the same queries, are
`mini` by cosine, `mini` with concepts (`ranking/concepts.py`), and `mini-base` by cosine.

The weight of concepts is found on one half of all queries and tried on the other, and the other way round. Then all
pictures compete with passages of an encyclopaedia, by calibrated scores: whether passages are still found as well.
Intervals are 95%, bootstrapped over queries; differences are paired. Packages are fetched once, with `apt-get` and
`pip`. `--json` prints one JSON object last.

`--cost` measures only how much longer a warm search takes: an index of the cartoons is searched with concepts and
without, in turn. `--parts` measures only whether several parts of a picture, each with its own vector and concepts,
find more: its best part counts, beside the whole.
"""

from __future__ import annotations

import json as jsons
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import numpy as np
import typer
from numpy.typing import NDArray

from tsembed_search.index import Index
from tsembed_search.items import Item
from tsembed_search.model.concepts import hierarchy, meanings
from tsembed_search.model.embedder import Embedder
from tsembed_search.paths import home
from tsembed_search.ranking import concepts
from tsembed_search.ranking.scores import COSINE_OF_EVIDENCE, WITH_EVIDENCE, Calibration
from tsembed_search.search.by_concepts import ByConcepts
from tsembed_search.store.base import StoreSettings
from tsembed_search.store.schema import concept_fields, stored_classes

sys.path.insert(0, str(Path(__file__).parents[1] / "examples/mini"))

Matrix = NDArray[np.float64]
WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
_RESAMPLES = 4000
_PASSAGES = 1200
_FEW = 220
_ROUNDS = 15
_OF: dict[str, Any] = {"median": np.median, "shortest": np.min}


@dataclass(frozen=True)
class NamedPictures:
    """A set of pictures and their names; a picture without a name is there to be confused with others. `base`: compare
    with the base, too, which takes as long again.
    """

    title: str
    files: Sequence[Path]
    names: Sequence[str]
    base: bool = True


@dataclass(frozen=True)
class Measured:
    """A set's scores `[Q, P]` by cosine, by evidence, by the base's cosine if asked, and which pictures are right."""

    title: str
    cosine: Matrix
    evidence: Matrix
    base: Matrix | None
    right: NDArray[np.bool_]

    def ranks(self, scores: Matrix) -> NDArray[np.int64]:
        """For each query the 0-based rank of its best right picture."""
        best = np.where(self.right, scores, -np.inf).max(axis=1, keepdims=True)
        return ((scores >= best) & ~self.right).sum(axis=1)


def gathered(work: Path, mmeb: Path | None) -> list[NamedPictures]:
    """All sets of pictures."""
    from mini_mmeb import gcompris, small_sets
    from mini_mmeb.packages import Packages

    packages = Packages(home() / "cache" / "packages")
    photographs, cartoons = (
        gcompris.photographs(packages, work / "photographs"),
        gcompris.cartoons(packages, work / "lang"),
    )
    landmarks = {one.name for one in photographs if one.landmark}
    stamps = small_sets.stamps(packages)
    found = [
        NamedPictures("photographs", [one.file for one in photographs], [one.name for one in photographs]),
        NamedPictures(
            "of these, things",
            [one.file for one in photographs],
            ["" if one.name in landmarks else one.name for one in photographs],
        ),
        NamedPictures("cartoons", [one.file for one in cartoons], [one.name for one in cartoons]),
        NamedPictures("cut-outs", [one.picture for one in stamps], [one.caption for one in stamps]),
    ]
    if mmeb is not None:
        for title, task, splits in (
            ("clip art of a kind never seen", "unseen_clipart", ("unseen_validation", "unseen_test")),
            ("black outlines", "unseen_outlines", ("unseen_validation", "unseen_test")),
            ("drawings", "clipart_t2i", ("validation", "test")),
            ("emoji", "emoji_t2i", ("validation", "test")),
        ):
            found.append(_of_rows(mmeb, title, task, splits))
    return found


def _of_rows(mmeb: Path, title: str, task: str, splits: Sequence[str]) -> NamedPictures:
    """The first targets of a task's rows, by the queries' words."""
    rows = [
        jsons.loads(line)
        for split in splits
        for line in (mmeb / split / f"{task}.jsonl").read_text("utf-8").splitlines()
    ]
    root = mmeb if (mmeb / rows[0]["tgt_img_path"][0]).exists() else mmeb / "images"
    names: dict[Path, str] = {}
    for row in rows:
        names.setdefault(root / row["tgt_img_path"][0], row["qry_text"].removeprefix(row["qry_inst"]).strip())
    return NamedPictures(title, list(names), list(names.values()), base=False)


class Eyes:
    """Both models; each picture and text is embedded once."""

    def __init__(self) -> None:
        self.models = {name: Embedder.load(name) for name in ("mini", "mini-base")}
        self._seen: dict[tuple[str, Path], tuple[NDArray[np.float32], NDArray[np.float32]]] = {}

    def pictures(self, model: str, files: Sequence[Path]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Vectors `[P, D]` and classes `[P, C]`."""
        fresh = [file for file in dict.fromkeys(files) if (model, file) not in self._seen]
        for start in range(0, len(fresh), 64):
            some = fresh[start : start + 64]
            found = self.models[model].embed([Item(image=file) for file in some])
            assert found.classes is not None
            for file, vector, classes in zip(some, found.vectors, found.classes, strict=True):
                self._seen[model, file] = vector, classes
            typer.echo(f"{model}: {start + len(some)} of {len(fresh)} pictures", err=True)
        rows = [self._seen[model, file] for file in files]
        return np.stack([row[0] for row in rows]), np.stack([row[1] for row in rows])

    def texts(self, model: str, texts: Sequence[str], *, queries: bool) -> NDArray[np.float32]:
        """Vectors `[T, D]`."""
        role = "query" if queries else "document"
        return self.models[model].embed([Item(text) for text in texts], role).vectors


def evidence_of(queries: NDArray[np.float32], classes: NDArray[np.float32]) -> Matrix:
    """The evidence `[Q, P]` that pictures show what queries mean, as a search has it."""
    known = hierarchy()
    shown = np.zeros((len(classes), len(known.names)))
    for row, own in enumerate(classes):
        stored = stored_classes(concept_fields(own))
        assert stored is not None
        places, weights = concepts.evidence(known, stored)
        shown[row, places] = weights
    asked, usual = np.zeros((len(queries), len(known.names))), np.zeros((len(queries), 1))
    for row, query in enumerate(queries):
        meant = concepts.meant(known, meanings(queries.shape[1]), query)
        asked[row, meant.shown.places], usual[row] = meant.shown.weights, meant.usual
    return usual + asked @ shown.T


def measured(eyes: Eyes, pictures: NamedPictures) -> Measured:
    """Everything about one set."""
    names = [name.lower() for name in pictures.names]
    asked = sorted(set(names) - {""})
    vectors, classes = eyes.pictures("mini", pictures.files)
    queries, base = eyes.texts("mini", asked, queries=True), None
    if pictures.base:
        by_base = eyes.texts("mini-base", asked, queries=True) @ eyes.pictures("mini-base", pictures.files)[0].T
        base = by_base.astype(np.float64)
    return Measured(
        pictures.title,
        (queries @ vectors.T).astype(np.float64),
        evidence_of(queries, classes),
        base,
        np.array([[name == one for name in names] for one in asked]),
    )


def interval(values: NDArray[Any]) -> dict[str, float]:
    """The mean of some values, and its bounds."""
    draws = np.random.default_rng(0).integers(len(values), size=(_RESAMPLES, len(values)))
    low, high = np.percentile(values[draws].mean(axis=1), [2.5, 97.5])
    return {"mean": round(float(values.mean()), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def compared(one: Measured, weight: float) -> dict[str, Any]:
    """The figures of one set."""
    ranks = {
        "cosine": one.ranks(one.cosine),
        "concepts": one.ranks(one.cosine + weight * one.evidence),
    }
    if one.base is not None:
        ranks["base"] = one.ranks(one.base)
    figures: dict[str, Any] = {"set": one.title, "queries": len(one.right), "pictures": one.right.shape[1]}
    for k in (1, 10):
        for name, own in ranks.items():
            figures[f"{name}@{k}"] = round(float((own < k).mean()), 4)
        for name in ranks.keys() - {"concepts"}:
            figures[f"over {name}@{k}"] = interval((ranks["concepts"] < k) * 1.0 - (ranks[name] < k))
    return figures


def crossed(sets: Sequence[Measured]) -> list[dict[str, Any]]:
    """The weight that is best for one half of the queries, and what it gains on the other."""

    def inverse(one: Measured, weight: float) -> NDArray[np.float64]:
        return 1 / (1.0 + one.ranks(one.cosine + weight * one.evidence))

    tried = {weight: [inverse(one, weight) for one in sets] for weight in WEIGHTS}
    found = []
    for half in (0, 1):
        means = {weight: float(np.mean([own[half::2].mean() for own in each])) for weight, each in tried.items()}
        best = max(means, key=lambda weight: means[weight])
        gains = [
            after[1 - half :: 2] - before[1 - half :: 2] for after, before in zip(tried[best], tried[0.0], strict=True)
        ]
        found.append({"weight": best, "gain in MRR": round(float(np.mean([own.mean() for own in gains])), 4)})
    return found


def mixed(eyes: Eyes, sets: Sequence[NamedPictures]) -> dict[str, Any]:
    """Passages and all pictures in one list, by calibrated scores: without concepts, with evidence added to the cosine
    and nothing else, and with concepts as a search has them.
    """
    from mini_mmeb import texts
    from mini_mmeb.packages import Packages

    leads = [lead for lead in texts.leads(Packages(home() / "cache" / "packages")) if lead.description]
    random.Random(0).shuffle(leads)
    leads = leads[:_PASSAGES]
    passages = eyes.texts("mini", [lead.text for lead in leads], queries=False)
    files = list(dict.fromkeys(file for one in sets for file in one.files))
    names = {file: name.lower() for one in sets for file, name in zip(one.files, one.names, strict=True) if name}
    asked = sorted(set(names.values()))
    vectors, classes = eyes.pictures("mini", files)
    calibration = eyes.models["mini"].info.calibration
    assert calibration is not None
    figures: dict[str, Any] = {}
    for kind, queries, right in (
        (
            "passages",
            eyes.texts("mini", [lead.description for lead in leads], queries=True),
            np.hstack([np.eye(len(leads), dtype=bool), np.zeros((len(leads), len(files)), bool)]),
        ),
        (
            "pictures",
            eyes.texts("mini", asked, queries=True),
            np.array([[False] * len(leads) + [names.get(file) == name for file in files] for name in asked]),
        ),
    ):
        of_texts = _scores(calibration, queries @ passages.T, "text")
        evidence = evidence_of(queries, classes)
        ranks = {}
        for name, weight in (("cosine", 0.0), ("added", COSINE_OF_EVIDENCE), ("concepts", COSINE_OF_EVIDENCE)):
            of_pictures = _scores(calibration, queries @ vectors.T + weight * evidence, "image")
            if name == "concepts":
                of_pictures = WITH_EVIDENCE[0] * of_pictures + WITH_EVIDENCE[1]
            logits = np.hstack([of_texts, of_pictures])
            ranks[name] = Measured(kind, logits, evidence, logits, right).ranks(logits)
        own = {f"{name}@{k}": round(float((each < k).mean()), 4) for name, each in ranks.items() for k in (1, 10)}
        own |= {f"difference@{k}": interval((ranks["concepts"] < k) * 1.0 - (ranks["cosine"] < k)) for k in (1, 10)}
        figures[kind] = {"queries": len(queries), "items": len(leads if kind == "passages" else files), **own}
    return figures


def _scores(calibration: Calibration, cosines: Matrix, kind: Any) -> Matrix:
    """Logits, which order as scores do."""
    line = calibration.lines["text", kind]
    return line.slope * cosines.astype(np.float64) + line.offset


def with_parts(eyes: Eyes, pictures: NamedPictures) -> dict[str, Any]:
    """The figures of a set by whole pictures, and by the best of the whole and five parts: four corners and the middle,
    each of two thirds of the width and of the height.
    """
    from PIL import Image

    names = [name.lower() for name in pictures.names]
    asked = sorted(set(names) - {""})
    queries = eyes.texts("mini", asked, queries=True)
    right = np.array([[name == one for name in names] for one in asked])
    vectors, classes = eyes.pictures("mini", pictures.files)
    whole = queries @ vectors.T + COSINE_OF_EVIDENCE * evidence_of(queries, classes)
    best = whole.copy()
    for column, file in enumerate(pictures.files):
        with Image.open(file) as opened:
            picture = opened.convert("RGBA")
        ground = Image.new("RGBA", picture.size, "white")
        ground.alpha_composite(picture)
        (width, height), share = picture.size, 2 / 3
        corners = [(x * width, y * height) for x, y in ((0, 0), (1 / 3, 0), (0, 1 / 3), (1 / 3, 1 / 3), (1 / 6, 1 / 6))]
        parts = [
            ground.convert("RGB").crop((int(x), int(y), int(x + share * width), int(y + share * height)))
            for x, y in corners
        ]
        seen = eyes.models["mini"].embed([Item(image=part) for part in parts])
        assert seen.classes is not None
        own = queries @ seen.vectors.T + COSINE_OF_EVIDENCE * evidence_of(queries, seen.classes)
        best[:, column] = np.maximum(best[:, column], own.max(axis=1))
    one = Measured(pictures.title, whole, whole, None, right)
    ranks = {"whole": one.ranks(whole), "parts": one.ranks(best)}
    figures: dict[str, Any] = {"set": pictures.title, "queries": len(asked), "pictures": len(names)}
    for k in (1, 10):
        figures |= {f"{name}@{k}": round(float((own < k).mean()), 4) for name, own in ranks.items()}
        figures[f"difference@{k}"] = interval((ranks["parts"] < k) * 1.0 - (ranks["whole"] < k))
    return figures


def cost(work: Path) -> dict[str, float]:
    """Milliseconds of a warm search by words, with and without concepts: the median and the shortest."""
    from mini_mmeb import gcompris
    from mini_mmeb.packages import Packages

    cartoons = gcompris.cartoons(Packages(home() / "cache" / "packages"), work / "lang")
    asked = [one.name for one in cartoons if one.name][:20]
    times: dict[str, list[float]] = {"with": [], "without": []}
    place = f"edge:{work / 'home'}"
    with Index.open("cost", store=place, embedder=Embedder.load("mini"), create=StoreSettings(0)) as index:
        index.add(work / "lang")
        for each in range(_ROUNDS + 1):
            for name, own in times.items():
                # Nothing is asked for concepts where no query means any.
                none = (
                    patch.object(ByConcepts, "_meant", lambda self, row: None) if name == "without" else nullcontext()
                )
                with none:
                    for query in asked:
                        started = time.perf_counter()
                        index.search(query)
                        own += [1000 * (time.perf_counter() - started)] * (each > 0)
    return {f"{which} {name}": round(float(of(own)), 2) for name, own in times.items() for which, of in _OF.items()}


def _print(figures: dict[str, Any]) -> None:
    rows = [(f"{own['set']} ({own['queries']} queries, {own['pictures']} pictures)", own) for own in figures["sets"]]
    for title, own in rows:
        for k in (1, 10):
            known = [name for name in ("base", "cosine", "concepts") if f"{name}@{k}" in own]
            each = [f"{name} {own[f'{name}@{k}']:.3f}" for name in known]
            over = [f"over {name} {_spell(own[f'over {name}@{k}'])}" for name in known[:-1]]
            print(f"{title} @{k}: {', '.join([*each, *over])}")
    print(f"weights by halves: {figures['crossed']}")
    for kind in ("passages", "pictures"):
        own = figures["mixed"][kind]
        for k in (1, 10):
            print(f"mixed, {kind} @{k}: cosine {own[f'cosine@{k}']:.3f}, concepts {own[f'concepts@{k}']:.3f},", end=" ")
            print(f"difference {_spell(own[f'difference@{k}'])}")


def _spell(one: dict[str, float]) -> str:
    return f"{one['mean']:+.3f} ({one['low']:+.3f} to {one['high']:+.3f})"


def main(
    mmeb: Annotated[
        Path | None, typer.Option(help="A set that examples/mini/data.py made.", show_default=False)
    ] = None,
    parts: Annotated[bool, typer.Option("--parts", help="Measure parts of pictures only.")] = False,
    only_cost: Annotated[bool, typer.Option("--cost", help="Measure the time of searches only.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object last.")] = False,
) -> None:
    """Measure, and print a table."""
    with tempfile.TemporaryDirectory() as work:
        if only_cost:
            print(jsons.dumps(cost(Path(work))))
            return
        if parts:
            eyes = Eyes()
            for one in gathered(Path(work), None):
                if not one.title.startswith("of these"):
                    few = NamedPictures(one.title, one.files[:_FEW], one.names[:_FEW])
                    print(jsons.dumps(with_parts(eyes, few)), flush=True)
            return
        eyes, pictures = Eyes(), gathered(Path(work), mmeb)
        sets = [measured(eyes, one) for one in pictures]
        figures = {
            "weight": COSINE_OF_EVIDENCE,
            "sets": [compared(one, COSINE_OF_EVIDENCE) for one in sets],
            "crossed": crossed([one for one in sets if not one.title.startswith("of these")]),
            "mixed": mixed(eyes, pictures),
        }
    _print(figures)
    if json:
        print(jsons.dumps(figures))


if __name__ == "__main__":
    typer.run(main)
