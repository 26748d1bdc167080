"""Two versions of tsembed, the same files: do they make the same points and find the same? For changes that keep both.

    python benchmarks/same_points.py                               # the working tree against its last commit
    python benchmarks/same_points.py --before main --after ../other-checkout --json

`--before` and `--after` name a folder with a checkout or a commit of this repository. A checkout that has a `.venv`
runs in it, all else in the Python that runs this. The commit `HEAD` and the working tree are the defaults.

Makes random files of every format from a seed (`tests/helpers/random_files.py`: changed, cut, renamed, linked), bad
ones, long texts, documents with pictures, copies, and ignore files, and adds `examples/corpus`. Each version indexes
them with `mini` into a home of its own, then some of them are renamed, changed, copied and removed, and it indexes them
again. Compared to the last bit: reports, ids, vectors, payloads, the list of files, and hits of words, pictures, both,
items of the index, with filters and with re-ranking. Only the command line and the engine's files are looked at, so the
versions may differ in everything else. Items with the same vector may stand for one another in hits: which of them the
engine gives first is chance. Exits with 1 when something differs.

The same version gives the same vectors as long as it puts the same items into a batch. So a difference in the last bits
of vectors, and nowhere else, can be one of batches. `--batches` leaves out what such bits can change.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests"))

from helpers.bad_files import KINDS  # noqa: E402
from helpers.random_files import CHANGES, FORMATS, Made, change_file, drawn, line_of  # noqa: E402
from helpers.tiny_pdf import Page, pdf  # noqa: E402

SLOW: Final = {"bomb.png", "bomb.pdf", "huge.html", "text-bomb.png", "animated.gif", "deep.html", "nested.pdf"}
"""Bad files that take long to make or to refuse. The tests of faults have them."""
ALWAYS_DIFFERENT: Final = ("indexed_at",)
TOPICS: Final = (
    "the old harbour", "a red bicycle", "bread and salt", "the winter garden", "an invoice for repairs", "music",
    "the moon above the bay", "a dog that sleeps", "green apples", "how to mend a roof", "letters from the sea",
)  # fmt: skip
DATE: Final = 1_700_000_000
PROBE: Final = """
import json, sys
import qdrant_edge as engine
shard, offset = engine.EdgeShard.load(sys.argv[1]), None
while True:
    page, offset = shard.scroll(engine.ScrollRequest(offset=offset, limit=500, with_payload=True, with_vector=True))
    for point in page:
        vector = point.vector["dense"] if isinstance(point.vector, dict) else point.vector
        print(json.dumps({"id": str(point.id), "vector": list(vector), "payload": point.payload}))
    if offset is None:
        break
"""


@dataclass(frozen=True)
class Version:
    """One version's code, laid out to be imported; `python` runs it, `start` is the command's entry point."""

    name: str
    python: str
    path: Path
    start: str

    def run(self, arguments: Sequence[object], home: Path, *, expect: Sequence[int] = (0,)) -> tuple[int, str]:
        """Run `tsembed ARGUMENTS` and return its exit code and standard output. Exits when it fails."""
        module, _, function = self.start.partition(":")
        code = f"import sys; sys.argv[0] = 'tsembed'; from {module} import {function}; {function}()"
        done = self._python(["-c", code, *map(str, arguments)], home)
        if done.returncode not in expect:
            sys.exit(
                f"{self.name}: tsembed {' '.join(map(str, arguments))} ended with {done.returncode}:\n{done.stderr}"
            )
        return done.returncode, done.stdout

    def points(self, home: Path) -> dict[str, dict[str, Any]]:
        """Every point of the index, by id."""
        done = self._python(["-c", PROBE, str(home / "indexes" / "default" / "points")], home)
        if done.returncode:
            sys.exit(f"{self.name}: the points cannot be read:\n{done.stderr}")
        return {point["id"]: point for point in map(json.loads, done.stdout.splitlines())}

    def _python(self, arguments: Sequence[str], home: Path) -> subprocess.CompletedProcess[str]:
        surroundings = {
            "PYTHONPATH": str(self.path),
            "TSEMBED_HOME": str(home),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
        }
        return subprocess.run(
            [self.python, *arguments], capture_output=True, text=True, env=os.environ | surroundings, cwd=home.parent
        )


@dataclass
class Differences:
    """What differs, in lines for people."""

    found: list[str] = field(default_factory=list)
    compared: dict[str, int] = field(default_factory=dict)

    def compare(self, kind: str, where: str, before: Any, after: Any) -> None:
        """Note the first place where two values differ, to the last bit."""
        self.compared[kind] = self.compared.get(kind, 0) + 1
        if difference := first_difference(before, after):
            self.found.append(f"{kind}: {where}: {difference}")


def first_difference(before: Any, after: Any, at: str = "") -> str:
    """The first place where two values differ, and both; empty when they are the same."""
    if type(before) is not type(after):
        return f"{at or 'value'}: {short(before)} became {short(after)}"
    if isinstance(before, dict):
        if before.keys() != after.keys():
            gone, new = sorted(before.keys() - after.keys()), sorted(after.keys() - before.keys())
            return f"{at or 'keys'}: gone {gone[:5]}, new {new[:5]}"
        pairs = [(f"{at}.{key}".strip("."), before[key], after[key]) for key in before]
    elif isinstance(before, list):
        if len(before) != len(after):
            return f"{at or 'length'}: {len(before)} values became {len(after)}"
        pairs = [(f"{at}[{place}]", *both) for place, both in enumerate(zip(before, after, strict=True))]
    else:
        same = struct.pack("<d", before) == struct.pack("<d", after) if isinstance(before, float) else before == after
        return "" if same else f"{at or 'value'}: {short(before)} became {short(after)}"
    return next(filter(None, (first_difference(one, other, place) for place, one, other in pairs)), "")


def short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) < 100 else text[:97] + "..."


# The files


def make_files(folder: Path, seed: int, count: int) -> None:
    """Write about `count` files of every kind."""
    chance = random.Random(seed)
    folders = [folder / name for name in ("", "deep/er/and deeper", "Fotos Å", unicodedata.normalize("NFD", "Fotos Ö"))]
    for each in folders:
        each.mkdir(parents=True, exist_ok=True)
    makers, fixed = list(FORMATS.items()), []
    for number in range(count * 2 // 3):
        made = makers[number % len(makers)][1](chance)
        change = "nothing" if number < len(makers) * 3 else chance.choice(CHANGES)
        dated = [each.path for each in change_file(chance.choice(folders), number, made, change, chance)]
        fixed += [] if change == "dated" else dated
    bad = folder / "bad"
    bad.mkdir()
    for name, (content, _) in KINDS.items():
        if name not in SLOW:
            (bad / name).write_bytes(content() if callable(content) else content)
    for number in range(count // 10):
        made = long_file(chance, number)
        (chance.choice(folders) / f"long {number}.{made.format}").write_bytes(made.data)
    readable = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()]
    copies = folder / "copies"
    copies.mkdir()
    for number, path in enumerate(chance.sample(readable, count // 15)):
        shutil.copy(path, copies / f"copy {number}{path.suffix}")
    for name in ("kept", "left"):
        (folder / "ignoring" / name).mkdir(parents=True)
        for number in range(4):
            (folder / "ignoring" / name / f"{number}.txt").write_text(f"{line_of(chance)}.\n" * 9)
    (folder / "ignoring" / ".tsembedignore").write_text("# not these\nleft/\n!left/3.txt\n**/2.*\n")
    (folder / ".hidden.txt").write_text("hidden words")
    for path in [*fixed, *bad.iterdir(), *copies.iterdir(), *folder.rglob("long *"), *folder.rglob("ignoring/*/*")]:
        if path.exists():
            os.utime(path, (DATE, DATE + chance.randrange(10**7)))


def long_file(chance: random.Random, number: int) -> Made:
    """A file of many chunks, with headings, lists, tables and pictures where its format has them."""
    topic = TOPICS[number % len(TOPICS)]
    parts = [
        " ".join(sentence(chance, topic) for _ in range(chance.randint(1, 12))) for _ in range(chance.randint(3, 25))
    ]
    kind = ("txt", "md", "html", "pdf")[number % 4]
    if kind == "md":
        heads = [f"{'#' * chance.randint(1, 4)} {topic} {place}\n\n" * (place % 3 == 0) for place in range(len(parts))]
        tail = "\n\n| a | b |\n|---|---|\n| 1 | two |\n\n```python\nprint('code')\n```\n\n1. one\n2. [two](x.md)\n"
        data = ("---\ntitle: front matter\n---\n" + "\n\n".join(map(str.__add__, heads, parts)) + tail).encode()
    elif kind == "html":
        body = "".join(
            f"<h{1 + place % 4}>{topic} {place}</h{1 + place % 4}><p>{part}" for place, part in enumerate(parts)
        )
        table = (
            "<table><tr><td>one<td>two<tr><td>three</table><ul><li>first<li>second</ul><nav>menu</nav><pre>a  b</pre>"
        )
        data = f"<title>{topic}</title><body>{body}{table}&amp;&eacute;&#x1f600;".encode()
    elif kind == "pdf":
        pictures = [drawn(chance, chance.choice(["red", "blue", "green"]), (90, 70)) for _ in parts]
        cut = [[part[at : at + 80] for at in range(0, min(len(part), 2400), 80)] for part in parts[:6]]
        data = pdf([Page(lines, [pictures[at]] if at % 2 else []) for at, lines in enumerate(cut)])
    else:
        data = ("\n\n".join(parts) + "\n").encode(chance.choice(["utf-8", "utf-16", "cp1252"]))
    return Made(kind, topic, data)


def sentence(chance: random.Random, topic: str) -> str:
    words = " ".join(line_of(chance).split()[0] for _ in range(chance.randint(2, 6)))
    return f"{topic.capitalize()}, {chance.choice(['and', 'or', 'but', 'with'])} {words} {chance.randint(0, 99)}."


def change_files(folder: Path, seed: int) -> None:
    """Rename, change, copy and remove some of the files."""
    chance = random.Random(seed + 1)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()]
    for number, path in enumerate(chance.sample(files, len(files) // 8)):
        if number % 4 == 0:
            path.rename(path.with_name(f"moved {number}{path.suffix}"))
        elif number % 4 == 1:
            path.write_bytes(path.read_bytes() + b"\nmore words at the end\n")
            os.utime(path, (DATE, DATE + number))
        elif number % 4 == 2:
            shutil.copy2(path, path.with_name(f"again {number}{path.suffix}"))
        else:
            path.unlink()


def write_queries(file: Path, folder: Path, seed: int) -> None:
    """Words, pictures, and both."""
    chance = random.Random(seed + 2)
    pictures = [str(path) for path in sorted((ROOT / "examples/corpus").rglob("*.jpg"))]
    queries = [
        {"text": text}
        for text in (*TOPICS[3:9], "red", "blue and white", "äöü ÅÖ", "日本語のテキスト", "code", "\U0001f34e")
    ]
    queries += [{"image": chance.choice(pictures)} for _ in range(3)]
    queries += [{"text": text, "image": chance.choice(pictures)} for text in TOPICS[:3]]
    file.write_text("".join(json.dumps({"id": str(at)} | query) + "\n" for at, query in enumerate(queries)), "utf-8")


# Running and comparing


def searches(folder: Path, queries: Path, ids: Sequence[str], expert: str) -> Iterator[list[object]]:
    """Arguments of every search."""
    corpus = ROOT / "examples/corpus"
    many: list[object] = ["search", "--queries", queries]
    yield many
    yield [*many, "-k", "40", "--all-chunks"]
    yield [*many, "--rerank", "expert", "--route-weight", "0.3"]
    yield [*many, "--rerank", "mmr"]
    yield [*many, "--min-score", "0.4", "--where", "kind=text"]
    for where in (
        "kind=image and not ext in (jpg, png)", f"path~{corpus}", "path~copies or path~**/long*", "page>=2",
        "modified>=2023-11-20 and modified<2024-01-05", f"expert={expert}", "not (kind=text or path~bad)",
        f"path!~{folder}/bad and ext!=txt",
    ):  # fmt: skip
        yield [*many, "--where", where]
    yield ["search", "a red bicycle", "--json"]
    picture = sorted((corpus / "pictures").rglob("*.jpg"))[3]
    yield ["search", "the same in blue", "--image", picture, "--json"]
    yield ["search", "--like", picture, "--json"]
    yield ["search", "--like", ROOT / "README.md", "--json"]
    for point in ids:
        yield ["search", "--like", point, "--json"]
    yield ["ls", "--json"]


def timeless(value: Any) -> Any:
    """The JSON of an answer without what depends on the moment: durations, and which process was done first."""
    if isinstance(value, dict):
        kept = {key: timeless(part) for key, part in value.items() if key not in ("seconds", "items_per_second")}
        if "skipped" in kept and isinstance(kept["skipped"], list):
            kept["skipped"].sort(key=lambda one: one["path"])
        return kept
    return [timeless(part) for part in value] if isinstance(value, list) else value


def read_json(output: str) -> Any:
    """The JSON of one document, or of one document per line."""
    try:
        return timeless(json.loads(output))
    except json.JSONDecodeError:
        return [timeless(json.loads(line)) for line in output.splitlines()]


@dataclass
class Pair:
    """Both versions at work, side by side."""

    sides: tuple[tuple[Version, Path], tuple[Version, Path]]
    """The versions and their homes."""
    ignored: frozenset[str]
    batches: bool
    differences: Differences = field(default_factory=Differences)
    twins: dict[str, str] = field(default_factory=dict)
    """Of each item whose vector others have, too: the first of them."""

    def both(self, arguments: Sequence[object], expect: Sequence[int] = (0,)) -> list[tuple[int, Any]]:
        """The exit codes and answers of a command."""
        with ThreadPoolExecutor() as pool:
            runs = [pool.submit(one.run, arguments, home, expect=expect) for one, home in self.sides]
            answers = [run.result() for run in runs]
        return [(code, read_json(output)) for code, output in answers]

    def index(self, stage: str, *paths: Path) -> None:
        """Index, and compare the reports and all points."""
        (_, before), (_, after) = self.both(["index", *paths, "--json", "--model", "mini", "--workers", "1"])
        print(f"indexed: {before['files']} {before['items']}", file=sys.stderr)
        for key in before.keys() | after.keys():
            self.differences.compare("report", f"{stage} run, {key}", before.get(key), after.get(key))
        was, now = (one.points(home) for one, home in self.sides)
        for kind, ids in (("gone", was.keys() - now.keys()), ("new", now.keys() - was.keys())):
            for point in sorted(ids):
                rel = (was | now)[point]["payload"].get("rel")
                self.differences.found.append(f"points: {stage} run: {kind}: {point} of {short(rel)}")
        for point in sorted(was.keys() & now.keys()):
            where = f"{stage} run: {point} of {short(was[point]['payload'].get('rel'))}"
            self._compare_point(where, was[point], now[point])

    def _compare_point(self, where: str, before: dict[str, Any], after: dict[str, Any]) -> None:
        if self.batches:
            cosine = sum(one * other for one, other in zip(before["vector"], after["vector"], strict=True))
            if cosine < 0.9999:
                self.differences.found.append(f"vectors: {where}: their cosine is {cosine:.6f}")
        else:
            self.differences.compare("vectors", where, before["vector"], after["vector"])
        ignored = self.ignored | ({"route", "packed_route"} if self.batches else set())
        kept = [{key: part for key, part in one["payload"].items() if key not in ignored} for one in (before, after)]
        self.differences.compare("payloads", where, *kept)

    def without_twins(self, answer: Any) -> Any:
        """The answer with each hit that has twins reduced to what they share."""
        if isinstance(answer, list):
            return [self.without_twins(one) for one in answer]
        if not isinstance(answer, dict) or "hits" not in answer:
            return answer
        shared = ("score", "similarity", "route_similarity", "kind", "top_experts")
        hits = [
            {key: hit.get(key) for key in shared} | {"twin": self.twins[hit["id"]]} if hit["id"] in self.twins else hit
            for hit in answer["hits"]
        ]
        return answer | {"hits": hits}

    def search(self, arguments: Sequence[object]) -> None:
        """Ask both, and compare the answers."""
        (code, before), (other, after) = self.both(arguments, expect=(0, 1))
        before, after = self.without_twins(before), self.without_twins(after)
        asked = " ".join(map(str, arguments))
        print(asked, file=sys.stderr)
        self.differences.compare("exit codes", asked, code, other)
        rows = zip(before, after, strict=False) if isinstance(before, list) else [(before, after)]
        for place, (one, two) in enumerate(rows):
            if self.batches:
                one, two = rounded(one), rounded(two)
            self.differences.compare("answers", f"{asked}, row {place}", one, two)


def twins_of(points: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The first item with the same vector, for each item that has such a twin."""
    alike: dict[tuple[float, ...], list[str]] = {}
    for point in sorted(points):
        alike.setdefault(tuple(points[point]["vector"]), []).append(point)
    return {point: group[0] for group in alike.values() if len(group) > 1 for point in group}


def rounded(value: Any) -> Any:
    """The JSON of an answer with numbers that do not depend on the last bits of vectors."""
    if isinstance(value, float):
        return 0.0 if math.isnan(value) else round(value, 3) + 0.0
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    return [rounded(part) for part in value] if isinstance(value, list) else value


def version(named: str, scratch: Path) -> Version:
    """Lay out the code of a checkout or a commit in `scratch` so that Python can import it."""
    if (Path(named) / "pyproject.toml").is_file():
        tree = Path(named).resolve()
    else:
        packed = subprocess.run(["git", "-C", str(ROOT), "archive", named], capture_output=True)
        if packed.returncode:
            sys.exit(f"{named} is neither a folder with a checkout nor a commit:\n{packed.stderr.decode()}")
        tree = scratch / "tree"
        with tarfile.open(fileobj=BytesIO(packed.stdout)) as archive:
            archive.extractall(tree, filter="data")
    project = tomllib.loads((tree / "pyproject.toml").read_text("utf-8"))
    for package, folder in sorted(project["tool"]["setuptools"]["package-dir"].items()):
        # Copies: somebody may go on working in the checkout meanwhile.
        place = scratch / "path" / Path(*package.split("."))
        shutil.copytree(tree / folder, place, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    python = tree / ".venv/bin/python"
    start = project["project"]["scripts"]["tsembed"]
    return Version(named, str(python) if python.exists() else sys.executable, scratch / "path", start)


def main() -> None:
    """Compare, print what differs, and with `--json` one object last."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", default="HEAD", metavar="CHECKOUT|COMMIT")
    parser.add_argument("--after", default=str(ROOT), metavar="CHECKOUT|COMMIT")
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--seed", type=int, default=15)
    parser.add_argument("--ignore-payload", action="append", default=[], metavar="KEY", help="a key that was dropped")
    parser.add_argument("--batches", action="store_true", help="batches may differ, so the last bits of vectors may")
    parser.add_argument("--show", type=int, default=40, metavar="N", help="how many differences to print")
    parser.add_argument("--json", action="store_true")
    wanted = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        versions = version(wanted.before, folder / "before"), version(wanted.after, folder / "after")
        homes = folder / "home-before", folder / "home-after"
        for home in homes:
            home.mkdir()
        files, queries = folder / "made" / "files", folder / "queries.jsonl"
        make_files(files, wanted.seed, wanted.files)
        write_queries(queries, files, wanted.seed)
        sides = (versions[0], homes[0]), (versions[1], homes[1])
        pair = Pair(sides, frozenset({*ALWAYS_DIFFERENT, *wanted.ignore_payload}), wanted.batches)
        pair.index("first", ROOT / "examples/corpus", files)
        change_files(files, wanted.seed)
        pair.index("second", ROOT / "examples/corpus", files)
        points = versions[0].points(homes[0])
        pair.twins = twins_of(points)
        ids = random.Random(wanted.seed).sample(sorted(points), 4)
        experts = sorted({expert for point in points.values() for expert in point["payload"].get("top_experts", [])})
        for arguments in searches(files, queries, ids, experts[0] if experts else "none"):
            pair.search(arguments)
        differences, seconds = pair.differences, time.monotonic() - started
    for line in differences.found[: wanted.show]:
        print(line)
    if len(differences.found) > wanted.show:
        print(f"and {len(differences.found) - wanted.show} more")
    counts = ", ".join(f"{count} {kind}" for kind, count in differences.compared.items())
    print(f"{len(differences.found)} differences in {seconds:.0f} s; compared {counts}")
    if wanted.json:
        facts = {"points": len(points), "compared": differences.compared, "differences": differences.found}
        print(json.dumps({"benchmark": "same_points", "before": wanted.before, "after": wanted.after, **facts}))
    sys.exit(1 if differences.found else 0)


if __name__ == "__main__":
    main()
