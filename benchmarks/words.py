"""Known items and descriptions among one's own documents, beside a full-text tool: `python benchmarks/words.py`.

Letters, invoices and logs are made up from a seed; encyclopaedia leads come with a package (see `queries.py`). A known
item is asked for as people remember one: by a number as it stands or joined otherwise, a file's name with or without
its type, a rare surname without its accents, a few words in quotes. A description is a lead's own short one, which is
not in its text. Surnames and descriptions are asked for once more with one slip of the keyboard in them, drawn by
chance: any slip at any letter of any word of five letters or more. Where `recollindex` and `recollq` are on the PATH,
Recoll is asked the same of the same files.

Prints the share of queries whose document comes first (R@1) and among the first ten (R@10), by kind of query.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
from queries import recoll, write_leads

if TYPE_CHECKING:
    from tsembed_search.index import Index

_FIRST = "Ada Bela Carla Dmitri Elena Farid Greta Hugo Irina Jonas Kira Leif Mira Nadia Oskar Petra Rosa Sven Tara Yuri"
_SURNAME = "Åkerlund Béranger Çelik Dvořák Eriksson Fernández Gößling Håkansson Ibáñez Jäger Kováč Łukasik Müller Nuñez"
_ENDS = ("", "son", "ová", "ić", "sen", "berg", "ström", "man", "ez", "ini")
_GOODS = "bearings valves gaskets hoses filters switches relays cables sensors pumps brackets fuses motors belts screws"
_PLACES = (
    "the harbour office|the old mill|the north warehouse|the workshop|the archive|the town hall|the ferry terminal"
)
_TROUBLE = "timed out|was refused|could not be parsed|ran out of memory|lost its lock|was cancelled|returned nothing"


class Asked(NamedTuple):
    """A query, the kind it is of, and the file that it means."""

    kind: str
    query: str
    file: str


def main(
    documents: Annotated[int, typer.Option(help="Documents that are made up.")] = 3000,
    leads: Annotated[int, typer.Option(help="Encyclopaedia leads beside them.")] = 2000,
    items: Annotated[int, typer.Option(help="Queries for known items.")] = 500,
    package: Annotated[Path | None, typer.Option("--leads-package", help="The folder of the package of leads.")] = None,
    work: Annotated[Path | None, typer.Option(help="Where files and indexes are kept.")] = None,
    only: Annotated[str, typer.Option(help="Ask only the kinds of queries whose name has this in it.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object last.")] = False,
) -> None:
    """Measure, and print the tables."""
    with nullcontext(str(work)) if work else tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["TSEMBED_HOME"] = str(folder / "home")
        described = write_leads(folder / "files/leads", package, leads, leads)
        known = make_documents(folder / "files/papers", documents, items)
        telling = [query.lower() for query in described if len(query.split()) >= 3]
        asked = known + [
            Asked("description", query, f"{number:05}.txt")
            for number, query in enumerate(described)
            if telling.count(query.lower()) == 1
        ]
        asked = [one for one in [*asked, *misspelt(asked)] if only in one.kind]
        from tsembed_search.index import Index
        from tsembed_search.search import respelling
        from tsembed_search.store.base import StoreSettings

        with Index.open("words", create=StoreSettings(0)) as index:
            index.add(folder / "files")
        figures: dict[str, dict[str, tuple[float, float]]] = {}
        with Index.open("words") as index:
            for words in ("auto", "only", "never"):
                figures[f"words {words}"] = measured(asked, ours(index, words))
            respelling.MOST_WORDS = 0
            figures["not respelled"] = measured(asked, ours(index, "auto"))
        if shutil.which("recollq"):
            figures["recoll"] = measured(asked, by_recoll(folder))
        report(asked, figures)
        if as_json:
            print(json.dumps(figures))


def ours(index: Index, words: str) -> Callable[[str], list[str]]:
    """Return what finds the names of the first ten in an index."""

    def find(query: str) -> list[str]:
        return [hit.path.rpartition("/")[2] for hit in index.search(query, k=10, words=words).hits]

    return find


def misspelt(asked: Sequence[Asked]) -> list[Asked]:
    """Return the queries of letters alone once more, each with one slip."""
    rng = random.Random(2)
    made = []
    for one in asked:
        places = [place for place, word in enumerate(one.query.split()) if len(word) >= 5 and word.isalpha()]
        if places and one.kind in ("surname", "description"):
            words = one.query.split()
            place = rng.choice(places)
            words[place] = _slip(rng, words[place])
            made.append(Asked(f"{one.kind} misspelt", " ".join(words), one.file))
    return made


def _slip(rng: random.Random, word: str) -> str:
    """A word with two letters swapped, a letter less, a letter more, or another letter."""
    while True:
        at, letter = rng.randrange(len(word)), rng.choice("abcdefghijklmnopqrstuvwxyz")
        swapped = word[:at] + word[at + 1 : at + 2] + word[at] + word[at + 2 :]
        head, tail = word[:at], word[at + 1 :]
        made = rng.choice((swapped, head + tail, head + letter + word[at:], head + letter + tail))
        if made.lower() != word.lower():
            return made


def make_documents(folder: Path, count: int, items: int) -> list[Asked]:
    """Write letters, invoices and logs, a file each, and return what is asked for of some of them."""
    rng = random.Random(1)
    folder.mkdir(parents=True, exist_ok=True)
    made: list[Callable[[random.Random, int], tuple[str, str, list[tuple[str, str]]]]] = [_invoice, _letter, _log]
    asked = []
    for number in range(count):
        name, text, queries = made[number % 3](rng, number)
        if not (folder / name).exists():
            (folder / name).write_text(text, "utf-8")
        asked += [Asked(kind, query, name) for kind, query in queries]
    rng.shuffle(asked)
    return asked[:items]


def _invoice(rng: random.Random, number: int) -> tuple[str, str, list[tuple[str, str]]]:
    code = f"INV-{rng.randint(2015, 2026)}-{number:05d}"
    part = f"{rng.choice('ABCDEFGH')}{rng.choice('KLMNP')}{number:04d}/{rng.randint(10, 99)}.{rng.randint(1, 9)}"
    text = (
        f"Invoice {code}\n\nTo {_person(rng, number)}, {rng.choice(_PLACES.split('|'))}.\n"
        f"{rng.randint(2, 90)} {rng.choice(_GOODS.split())}, part number {part}, at {rng.randint(1, 99)} each.\n"
        f"Payable within {rng.choice((14, 30, 60))} days. Please quote the number of this invoice.\n"
    )
    joined = rng.choice(("/", ".", " ", "_", "")).join(code.split("-"))
    return (
        f"scan_{number:05d}_{rng.choice(_GOODS.split())}.txt",
        text,
        [
            ("code", code),
            ("code in lower case", code.lower()),
            ("code joined otherwise", joined),
            ("part number", part),
        ],
    )


def _letter(rng: random.Random, number: int) -> tuple[str, str, list[tuple[str, str]]]:
    person, goods = _person(rng, number), rng.choice(_GOODS.split())
    place, day = rng.choice(_PLACES.split("|")), rng.randint(1, 28)
    phrase = f"the {goods} from {place} on day {day} of case {number}"
    text = (
        f"Dear {person},\n\nthank you for your letter about {phrase}. We have looked into it, and shall write again as "
        f"soon as {rng.choice(_FIRST.split())} is back. Until then nothing needs to be done.\n\nYours,\n"
        f"{rng.choice(_FIRST.split())}\n"
    )
    name = f"{person.split()[0]} to office {number:05d}.txt"
    return (
        name,
        text,
        [
            ("surname", person.split()[1]),
            ("surname without accents", _plain(person.split()[1])),
            ("quoted words", f'"{phrase}"'),
            ("name of a file", name),
            ("name without its type", name.removesuffix(".txt")),
        ],
    )


def _log(rng: random.Random, number: int) -> tuple[str, str, list[tuple[str, str]]]:
    error = f"0x{rng.getrandbits(20):05X}{number:03X}"
    lines = [
        f"2026-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d} {rng.randint(0, 23):02d}:{rng.randint(0, 59):02d} "
        f"{rng.choice(_GOODS.split())} worker {rng.randint(1, 99)} {rng.choice(_TROUBLE.split('|'))}"
        for _ in range(rng.randint(3, 12))
    ]
    lines.insert(rng.randrange(len(lines)), f"fatal error {error} in module {rng.choice(_GOODS.split())}")
    name = f"node-{rng.randint(1, 40)}.{number:05d}.log.txt"
    return (
        name,
        "\n".join(lines) + "\n",
        [("error code", error), ("error code", error.lower()), ("name of a file", name)],
    )


def _person(rng: random.Random, number: int) -> str:
    """A first name, and a surname that nobody else has."""
    kinds = _SURNAME.split()
    surname = kinds[number % len(kinds)] + _ENDS[number // len(kinds) % len(_ENDS)]
    return f"{rng.choice(_FIRST.split())} {surname}{_syllables(number)}"


def _syllables(number: int) -> str:
    number, text = number // 140, ""
    while number:
        text, number = text + ("ba", "do", "ki", "lu", "me", "ra", "so", "ti", "ve", "zu")[number % 10], number // 10
    return text


def _plain(name: str) -> str:
    import unicodedata

    apart = unicodedata.normalize("NFD", name.replace("ß", "ss").translate(str.maketrans("ŁłØø", "LlOo")))
    return "".join(letter for letter in apart if not unicodedata.combining(letter))


def by_recoll(folder: Path) -> Callable[[str], list[str]]:
    """Index the files with Recoll; returns what finds the names of the first ten."""
    command = recoll(folder / "recoll", folder / "files")

    def find(query: str) -> list[str]:
        found = subprocess.run([*command, query], check=False, capture_output=True, text=True).stdout
        return [line.rpartition("/")[2] for line in found.splitlines()]

    return find


def measured(asked: Sequence[Asked], find: Callable[[str], list[str]]) -> dict[str, tuple[float, float]]:
    """R@1 and R@10 of each kind of query and of all known items, and the seconds that a query takes."""
    places = defaultdict(list)
    started = time.perf_counter()
    for one in asked:
        found = find(one.query)
        place = found.index(one.file) if one.file in found else 10
        for kind in (one.kind, *(["all known items"] if _known(one.kind) else [])):
            places[kind].append(place)
    spent = (time.perf_counter() - started) / len(asked)
    shares = {
        kind: (sum(p == 0 for p in own) / len(own), sum(p < 10 for p in own) / len(own)) for kind, own in places.items()
    }
    return {**shares, "seconds": (spent, spent)}


def _known(kind: str) -> bool:
    """Tell whether a kind of query is for a known item, as it is written there."""
    return not kind.startswith("description") and not kind.endswith("misspelt")


def report(asked: Sequence[Asked], figures: dict[str, dict[str, tuple[float, float]]]) -> None:
    """Print one line for each kind of query."""
    counts = {kind: sum(one.kind == kind for one in asked) for kind in dict.fromkeys(one.kind for one in asked)}
    if any(_known(one.kind) for one in asked):
        counts["all known items"] = sum(_known(one.kind) for one in asked)
    print(f"{'R@1 / R@10':26}{'queries':>8}" + "".join(f"{side:>20}" for side in figures))
    for kind, count in counts.items():
        cells = "".join(f"{f'{own[kind][0]:.3f} / {own[kind][1]:.3f}':>20}" for own in figures.values())
        print(f"{kind:26}{count:>8}{cells}")
    print(f"{'ms a query':34}" + "".join(f"{1000 * own['seconds'][0]:>20.1f}" for own in figures.values()))


if __name__ == "__main__":
    typer.run(main)
