"""How good mini's search is, against its floors in the same run: `python examples/mini/quality.py`.

Builds one real index of openclipart pictures and encyclopaedia leads with the indexer, and searches it:
- pictures by their titles, among pictures alone and in the mixed index, against ConSE (Norouzi et al., arXiv 1312.5650:
  the softmax-weighted mean of MiniLM's embeddings of the ImageNet class names);
- passages by their short descriptions, alone and mixed, against MiniLM run by sentence-transformers;
- joint queries (a picture and a word) against the picture alone and the word alone;
- for a model with experts, the searches of the mixed index again, reranked by experts (`--route-weight`), against those
  that are not.

For a model that was trained on `python examples/mini/data.py`, `--without FOLDER` leaves out the pictures that its
training rows show or name. Prints one JSON object last. Intervals are 95%, bootstrapped over queries; differences are
paired.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from calibrate import Matrix, embed, images, titles
from numpy.typing import NDArray
from public_data import Passage, Picture, composed_queries, emoji, leads, openclipart

from tsembed_search.index import Index
from tsembed_search.items import Item
from tsembed_search.model.embedder import Embedder
from tsembed_search.ranking.similarity import similarity

K = 10
_RESAMPLES = 2000


@dataclass(frozen=True)
class Ranks:
    """For each query the 0-based rank of its answer, `miss` when it was not among the first `K`."""

    values: NDArray[np.int64]

    def hits(self, k: int) -> NDArray[np.float64]:
        """1 for each query whose answer is among the first k."""
        return (self.values < k).astype(np.float64)

    def summary(self) -> dict[str, Any]:
        """Recall@1 and recall@10 with intervals."""
        return {"n": len(self.values), **{f"recall@{k}": _interval(self.hits(k)) for k in (1, K)}}

    def against(self, other: Ranks) -> dict[str, Any]:
        """Paired differences to another system on the same queries."""
        return {f"recall@{k}": _interval(self.hits(k) - other.hits(k)) for k in (1, K)}


def _interval(values: NDArray[np.float64]) -> dict[str, float]:
    draws = np.random.default_rng(0).integers(len(values), size=(_RESAMPLES, len(values)))
    low, high = np.percentile(values[draws].mean(axis=1), [2.5, 97.5])
    return {"mean": round(float(values.mean()), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def exact_ranks(
    queries: Matrix,
    candidates: Matrix,
    answers: NDArray[np.int64] | None = None,
    without: NDArray[np.int64] | None = None,
) -> Ranks:
    """Ranks by cosine; the answer of query i is candidate i, or `answers[i]`; candidate `without[i]` is left out."""
    scores = similarity(queries, candidates)
    if without is not None:
        scores[np.arange(len(queries)), without] = -2
    columns = np.arange(len(queries)) if answers is None else answers
    return Ranks((scores > scores[np.arange(len(queries)), columns][:, None]).sum(axis=1))


def conse(embedder: Embedder, pictures: list[Picture]) -> Matrix:
    """ConSE's picture vectors `[N, 384]`: all 1,000 classes, plain softmax, first names, as published."""
    from soft_caption import class_names

    from tsembed_search.model import loading, registry
    from tsembed_search.model.backbones.mini import Mini

    backbone = loading.load(registry.resolve(embedder.info.name), "cpu")
    assert isinstance(backbone, Mini)
    names = embed(embedder, [Item(text=first) for (first, *_), _ in class_names()])
    rows = []
    with torch.inference_mode():
        for start in range(0, len(pictures), 32):
            pixels = [backbone.prepare(item).data.pixels for item in images(pictures[start : start + 32])]
            rows.append(torch.softmax(backbone.tower.logits(torch.stack(pixels)), dim=-1).numpy())
    mixed = np.concatenate(rows) @ names
    return mixed / np.linalg.norm(mixed, axis=1, keepdims=True)


def minilm(texts: list[str]) -> Matrix:
    """Plain MiniLM, by its own library."""
    from sentence_transformers import SentenceTransformer

    from tsembed_search.model.backbones import mini_spec

    model = SentenceTransformer(str(mini_spec.file_path("encoder").parent), device="cpu")
    return np.asarray(model.encode(texts, batch_size=32, normalize_embeddings=True), dtype=np.float32)


def trained_on(folder: Path) -> tuple[set[str], set[str]]:
    """The pictures, by the stem of their file, and the texts of the training rows in a folder of `mini-mmeb`."""
    shown, named = set(), set()
    for file in sorted((folder / "train").glob("*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            shown |= {Path(row[key]).stem for key in ("qry_image_path", "pos_image_path") if row[key]}
            named |= {row[key].removeprefix(row["qry_inst"]).strip().lower() for key in ("qry", "pos_text")}
    return shown, named


def build_index(model: str, folder: Path, pictures: list[Picture], passages: list[Passage]) -> None:
    """One index of both, made by the indexer from files."""
    for name in ("pictures", "passages"):
        (folder / name).mkdir()
    for number, picture in enumerate(pictures):
        shutil.copyfile(picture.path, folder / "pictures" / f"{number}{picture.path.suffix}")
    for number, passage in enumerate(passages):
        (folder / "passages" / f"{number}.txt").write_text(passage.text, encoding="utf-8")
    with Index.create("quality", embedder=Embedder.load(model)) as index:
        report = index.add(folder)
    typer.echo(f"indexed {report.items.embedded} items, skipped {report.files.skipped} files", err=True)


def index_ranks(index: Index, queries: list[Item], folder: str, kind: str | None, weight: float | None = None) -> Ranks:
    """Ranks through the real index, reranked by experts with a `weight`; the answer of query i is the file called i in
    `folder`.
    """
    where, rerank = f"kind={kind}" if kind else None, "none" if weight is None else "expert"
    found = index.search_many(queries, k=K, where=where, rerank=rerank, route_weight=weight)
    ranks = []
    for number, hits in enumerate(found):
        names = [(Path(hit.path).parent.name, Path(hit.path).stem) for hit in hits]
        ranks.append(names.index((folder, str(number))) if (folder, str(number)) in names else K)
    return Ranks(np.asarray(ranks))


def joint(embedder: Embedder, pictures: list[Picture]) -> dict[str, Any]:
    """Picture and word together, and each alone, among all labels, among all pictures, and among all pictures but the
    query's own, which a search by picture and word leaves out.
    """
    queries = composed_queries(pictures)
    places = {id(picture): place for place, picture in enumerate(pictures)}
    own = np.asarray([places[id(query.picture)] for query in queries])
    answers = np.asarray([query.answer for query in queries])
    asked = {
        "joint": [Item(text=query.word, image=query.picture.path) for query in queries],
        "picture": [Item(image=query.picture.path) for query in queries],
        "word": [Item(text=query.word) for query in queries],
    }
    vectors = {name: embed(embedder, items) for name, items in asked.items()}
    labels, seen = embed(embedder, titles(pictures)), embed(embedder, images(pictures))
    result: dict[str, Any] = {"n": len(queries)}
    for where, (rows, without) in {
        "labels": (labels, None),
        "pictures": (seen, None),
        "other_pictures": (seen, own),
    }.items():
        ranks = {name: exact_ranks(vector, rows, answers, without) for name, vector in vectors.items()}
        result[f"among_{where}"] = {name: rank.summary() for name, rank in ranks.items()} | {
            f"joint_minus_{name}": ranks["joint"].against(ranks[name]) for name in ("picture", "word")
        }
    return result


def measure(model: str, folder: Path, most: int | None, without: Path | None, weight: float) -> dict[str, Any]:
    """Everything, as one JSON-ready dictionary."""
    embedder = Embedder.load(model)
    experts = embedder.backbone.info.routes is not None
    shown, named = trained_on(without) if without else (set[str](), set[str]())
    pictures, symbols = (
        [one for one in found if one.path.stem not in shown and one.title.lower() not in named]
        for found in (openclipart(), emoji())
    )
    pictures, passages = pictures[:most], leads()
    passages = passages[len(passages) // 2 :][:most]
    build_index(model, folder, pictures, passages)
    title_items, descriptions = titles(pictures), [Item(text=passage.description) for passage in passages]
    with Index.open("quality", embedder=embedder) as index:
        ranks = {
            "picture_alone": index_ranks(index, title_items, "pictures", "image"),
            "picture_mixed": index_ranks(index, title_items, "pictures", None),
            "passage_alone": index_ranks(index, descriptions, "passages", "text"),
            "passage_mixed": index_ranks(index, descriptions, "passages", None),
        }
        if experts:
            ranks |= {
                "picture_reranked": index_ranks(index, title_items, "pictures", None, weight),
                "passage_reranked": index_ranks(index, descriptions, "passages", None, weight),
            }
    ranks["conse"] = exact_ranks(embed(embedder, title_items), conse(embedder, pictures))
    plain = minilm([one.description for one in passages]), minilm([one.text for one in passages])
    ranks["minilm"] = exact_ranks(*plain)
    reranking = {
        f"{kind}_reranked_minus_mixed": ranks[f"{kind}_reranked"].against(ranks[f"{kind}_mixed"])
        for kind in ("picture", "passage")
        if experts
    }
    kept = {
        kind: float(ranks[f"{kind}_mixed"].hits(K).mean() / ranks[f"{kind}_alone"].hits(K).mean())
        for kind in ("picture", "passage")
    }
    return {
        **{name: rank.summary() for name, rank in ranks.items()},
        "picture_minus_conse": ranks["picture_alone"].against(ranks["conse"]),
        "passage_minus_minilm": ranks["passage_alone"].against(ranks["minilm"]),
        **({"route_weight": weight} | reranking if experts else {}),
        "share_of_recall@10_kept_in_mixed_index": {kind: round(share, 4) for kind, share in kept.items()},
        "joint": joint(embedder, symbols),
    }


def main(
    model: Annotated[str, typer.Option(help="A built-in model, or a checkpoint of mini-base.")] = "mini",
    without: Annotated[Path | None, typer.Option(help="Leave out what this mini-mmeb folder trains on.")] = None,
    most: Annotated[int | None, typer.Option(help="Only so many pictures and passages, for a quick try.")] = None,
    route_weight: Annotated[float, typer.Option(help="Lambda of the searches that are reranked.")] = 0.05,
    json_only: Annotated[bool, typer.Option("--json", help="Print the JSON object only, on one line.")] = False,
) -> None:
    """Runs the benchmark; takes about ten minutes on two cores after the first download."""
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["TSEMBED_HOME"] = str(Path(scratch) / "home")
        corpus = Path(scratch) / "corpus"
        corpus.mkdir()
        result = {"model": model} | measure(model, corpus, most, without, route_weight)
    if not json_only:
        typer.echo(json.dumps(result, indent=1))
    typer.echo(json.dumps(result))


if __name__ == "__main__":
    typer.run(main)
