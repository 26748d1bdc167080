"""How much of the model's speed reaches the index: `python benchmarks/indexing.py --json`.

The floor is the model alone: the same items, prepared beforehand, in batches of the same budget. The pipeline does that
and all the rest: crawl, hash, decode, prepare, write to the engine and the manifest, tidy up. Rounds of both alternate;
the figures are medians over rounds of ratios within a round, so that a busy machine slows both alike. Where decoding
and the model share the cores, no pipeline reaches more than the best possible ratio: the model's computing over that
and what it takes to decode and prepare an item. `--base NAME`
indexes with another model in each round, too, and compares the two.

Texts are embedded by sentence-transformers in each round, too, if that is installed: MiniLM, as its `encode` does it.
Leads of an encyclopaedia are indexed if their package is installed: see `queries.py`. `--only texts --only leads` does
without pictures.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command does; NumPy looks at it once

import numpy as np
import typer
from PIL import Image
from queries import PACKAGE, write_leads

from tsembed_search.documents.chunking import Chunker, paragraphs
from tsembed_search.documents.pictures import open_image
from tsembed_search.index import Index
from tsembed_search.indexer.report import IndexReport
from tsembed_search.indexer.stages import Pool
from tsembed_search.items import Item
from tsembed_search.model.backbone import Prepared
from tsembed_search.model.backbones import mini_spec
from tsembed_search.model.embedder import Embedder

WORDS = (
    "the of and a in to is was on for with that by it from at as are which river mountain village century music "
    "church painting railway station player season album family species water house king war battle school"
).split()


def photographs(folder: Path, count: int, size: tuple[int, int]) -> None:
    """JPEGs like photographs: smooth shapes, some texture, a few hundred kilobytes at 1600 x 1200."""
    numbers = np.random.default_rng(0)
    for index in range(count):
        coarse = numbers.integers(0, 256, (12, 16, 3), np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC), np.int16)
        fine = numbers.normal(0, 5, (size[1] // 2, size[0] // 2, 1)).astype(np.int16).repeat(2, 0).repeat(2, 1)
        pixels = np.clip(smooth[: fine.shape[0], : fine.shape[1]] + fine, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:05}.jpg", quality=85)


def articles(folder: Path, count: int) -> None:
    """Texts of a few paragraphs."""
    chance = random.Random(0)
    for index in range(count):
        sentences = [" ".join(chance.choices(WORDS, k=chance.randint(6, 24))).capitalize() + "." for _ in range(60)]
        text = "\n\n".join(" ".join(sentences[at : at + 6]) for at in range(0, 60, 6))
        (folder / f"{index:05}.txt").write_text(text, "utf-8")


def prepared_pictures(embedder: Embedder, folder: Path) -> list[Prepared]:
    """What the model gets of each picture."""
    spec = embedder.inputs.image
    return [embedder.prepare(Item(image=open_image(path, spec).pixels)) for path in sorted(folder.iterdir())]


def chunks(embedder: Embedder, folder: Path) -> list[str]:
    """All chunks of the texts in a folder."""
    chunker = Chunker(embedder.inputs.text)
    texts = (path.read_text("utf-8") for path in sorted(folder.iterdir()))
    return [chunk.text for text in texts for chunk in chunker.chunks(paragraphs([text]))]


def sentence_transformers() -> Callable[[list[str]], object] | None:
    """Return what embeds texts with MiniLM as people do it, if that package is installed."""
    if importlib.util.find_spec("sentence_transformers") is None:
        return None
    from sentence_transformers import SentenceTransformer

    peer = SentenceTransformer(str(mini_spec.file_path("encoder").parent), device="cpu")
    return lambda texts: peer.encode(texts)


def model_alone(embedder: Embedder, prepared: list[Prepared]) -> float:
    """Items per second of nothing but the model."""
    pool: Pool[None] = Pool(embedder.batch_tokens)
    batches = [batch for one in prepared for batch in pool.add(None, one)] + list(pool.rest())
    started = time.perf_counter()
    for batch in batches:
        embedder.encode([one for _, one in batch])
    return len(prepared) / (time.perf_counter() - started)


def pipeline(embedder: Embedder, folder: Path) -> IndexReport:
    """A whole run into a new index."""
    home = Path(tempfile.mkdtemp())
    try:
        with Index.create("benchmark", store=f"edge:{home}", embedder=embedder) as index:
            return index.add(folder)
    finally:
        shutil.rmtree(home)


def measure(
    embedder: Embedder,
    base: Embedder | None,
    folder: Path,
    peer: Callable[[list[str]], object] | None,
    rounds: int,
) -> dict[str, float]:
    """Medians over `rounds`."""
    pictures = any(path.suffix == ".jpg" for path in folder.iterdir())
    texts = [] if pictures else chunks(embedder, folder)
    begun = time.process_time()
    prepared = prepared_pictures(embedder, folder) if pictures else [embedder.prepare(Item(text)) for text in texts]
    preparing = (time.process_time() - begun) / len(prepared)
    some = prepared[: len(prepared) // 4 + 1]
    model_alone(embedder, some[:16])
    begun = time.process_time()
    model_alone(embedder, some)
    computing = (time.process_time() - begun) / len(some)
    alone, whole, embedding, of_base, of_peer = [], [], [], [], []
    for turn in range(rounds):
        alone.append(model_alone(embedder, prepared))
        if peer and texts:
            started = time.perf_counter()
            peer(texts)
            of_peer.append(len(texts) / (time.perf_counter() - started))
        if base and turn % 2:
            of_base.append(_speed(pipeline(base, folder)))
        report = pipeline(embedder, folder)
        if base and not turn % 2:
            of_base.append(_speed(pipeline(base, folder)))
        assert report.items.embedded == len(prepared), "both must embed the same items"
        whole.append(_speed(report))
        embedding.append(report.items_per_second)
    compared = [one / other for one, other in zip(whole, of_base, strict=True)] if base else []
    return {
        "items": len(prepared),
        "ratio": statistics.median(b / a for a, b in zip(alone, whole, strict=True)),
        "ratio_of_the_embedding_stage": statistics.median(b / a for a, b in zip(alone, embedding, strict=True)),
        "best_possible_ratio": computing / (computing + preparing),
        "model_alone_items_per_second": statistics.median(alone),
        "pipeline_items_per_second": statistics.median(whole),
        **_spread("over_base", compared),
        **_spread("model_over_sentence_transformers", [a / b for a, b in zip(alone, of_peer, strict=False)]),
        **_spread("pipeline_over_sentence_transformers", [a / b for a, b in zip(whole, of_peer, strict=False)]),
    }


def _spread(name: str, ratios: list[float]) -> dict[str, float]:
    """Median, least and most; nothing of nothing."""
    if not ratios:
        return {}
    return {name: statistics.median(ratios), f"{name}_least": min(ratios), f"{name}_most": max(ratios)}


def _speed(report: IndexReport) -> float:
    """Items per second."""
    return report.items.embedded / report.seconds


def main(
    model: Annotated[str, typer.Option(help="Which model.")] = "mini",
    base: Annotated[str | None, typer.Option(help="A model to compare it with.")] = None,
    scale: Annotated[float, typer.Option(help="Of the number of items.")] = 1.0,
    rounds: Annotated[int, typer.Option(help="Of both.")] = 5,
    only: Annotated[list[str] | None, typer.Option(help="Of these alone.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object last.")] = False,
) -> None:
    """Measures pictures of two sizes and texts."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does
    subject = Embedder.load(model)
    other = Embedder.load(base) if base else None
    peer = sentence_transformers()
    results: dict[str, dict[str, float]] = {}
    corpora: dict[str, Callable[[Path], object]] = {
        "pictures_1600x1200": lambda at: photographs(at, round(400 * scale), (1600, 1200)),
        "pictures_640x480": lambda at: photographs(at, round(400 * scale), (640, 480)),
        "texts": lambda at: articles(at, round(200 * scale)),
    }
    if importlib.util.find_spec(PACKAGE):
        corpora["leads"] = lambda at: write_leads(at, None, round(2000 * scale), 0)
    for name in only or corpora:
        with tempfile.TemporaryDirectory() as folder:
            files = Path(folder) / name
            if name != "leads":
                files.mkdir()
            corpora[name](files)
            results[name] = measure(subject, other, files, peer, rounds)
        print(f"{name:>20}: " + ", ".join(f"{key} {value:.3g}" for key, value in results[name].items()))
    if as_json:
        print(json.dumps({"benchmark": "indexing", "model": model, "base": base, "floor": 0.85, **results}))


if __name__ == "__main__":
    typer.run(main)
