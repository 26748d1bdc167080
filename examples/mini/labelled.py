"""Pictures and texts whose right queries are known: what the limits of good matches are found by, and tried on.

Every source is cut in two halves: one to fit by, one to report on. A third of each half is in no index: its queries ask
for what is not there. Files have names that say nothing.

A hit is right when it is what the query was made for, or has all words of the query in its label or text. A picture is
right for another when the words of one label are all in the other, or both end with the same word ("a grey cat").
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from mini_mmeb import clipart, gcompris, small_sets
from public_data import PACKAGES, leads

from tsembed_search.index import Index
from tsembed_search.items import Item, Kind, Modality
from tsembed_search.ranking.words import EMPTY_WORDS, terms_of
from tsembed_search.search.results import WordsUse
from tsembed_search.search.where import selection

PICTURES: Final = ("photographs", "cartoons", "cut-outs", "clip art")
TEXTS: Final = ("leads", "docstrings")
NOTES: Final = ("captions",)
"""Texts that only picture queries are asked of."""
SIZES: Final = (30, 100, 300)
"""How many items of a source are in the smallest folders; the last folder has the rest."""
FIT, REPORT = "fit", "report"
_TITLED: Final = "  "
_MODULES: Final = (
    "argparse ast asyncio collections configparser copy csv ctypes datetime decimal difflib email enum fractions "
    "ftplib functools gettext heapq html http imaplib inspect io ipaddress itertools json locale logging mailbox math "
    "multiprocessing operator optparse os pathlib pdb pickle platform plistlib poplib random re shelve shutil smtplib "
    "socket socketserver sqlite3 ssl statistics string subprocess tarfile tempfile textwrap threading timeit tkinter "
    "tokenize traceback turtle types typing unittest urllib.parse urllib.request uuid weakref xml.dom xmlrpc.client "
    "zipfile numpy numpy.linalg numpy.fft numpy.random"
).split()


@dataclass(frozen=True)
class Labelled:
    """A picture or a text. `query` asks for it, or nothing does; `half` it is in; `size` is the number of its folder,
    None for what is in no index.
    """

    source: str
    content: bytes | str
    label: str
    query: str
    half: str
    size: int | None

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The terms of the label, in order."""
        return terms(self.label)

    @cached_property
    def asked(self) -> frozenset[str]:
        """The terms of the query."""
        return frozenset(terms(self.query))

    @property
    def picture(self) -> bool:
        """Whether it is a picture."""
        return self.source in PICTURES

    def path(self, folder: Path) -> Path:
        """Where it lies in the folder of all."""
        name = hashlib.sha256(self.content if isinstance(self.content, bytes) else self.content.encode()).hexdigest()
        place = folder / "outside" if self.size is None else folder / self.half / self.source / str(self.size)
        return place / (name[:12] + (".webp" if self.picture else ".txt"))


def terms(text: str) -> tuple[str, ...]:
    """The terms of a text, without words that say nothing."""
    words = [word for word in text.lower().replace(".", " ").split() if word not in EMPTY_WORDS]
    return tuple(terms_of(" ".join(words))[0])


def everything(halves: Iterable[str] = (FIT, REPORT)) -> list[Labelled]:
    """All of it. Clip art is there to report on only: of that kind, fitting sees nothing."""
    passages, unpacked = leads()[:1500], PACKAGES.cache / "gcompris"
    photographs = gcompris.photographs(PACKAGES, unpacked / "photographs")
    cartoons = gcompris.cartoons(PACKAGES, unpacked / "cartoons")
    stamps = small_sets.stamps(PACKAGES)
    food = [one for one in clipart.clips(PACKAGES) if one.title and one.folders[:1] == (clipart.UNSEEN_FOLDER,)]
    sources: dict[str, list[tuple[bytes | str, str, str]]] = {
        "photographs": [(one.file.read_bytes(), one.name, one.name) for one in photographs],
        "cartoons": [(one.file.read_bytes(), one.name, one.name) for one in cartoons],
        "cut-outs": [(one.picture.read_bytes(), one.caption, one.caption) for one in stamps],
        "clip art": [(one.path.read_bytes(), one.title, one.title) for one in food],
        "leads": [
            (one.text, f"{one.text}{_TITLED}{one.title}", one.description if number % 3 else one.title)
            for number, one in enumerate(passages)
        ],
        "docstrings": [(text, text, first) for first, text in docstrings().items()],
        "captions": [(one.caption, one.caption, "") for one in stamps],
    }
    found = []
    for source, rows in sources.items():
        random.Random(source).shuffle(rows)
        parts = {REPORT: rows} if source == "clip art" else {FIT: rows[::2], REPORT: rows[1::2]}
        for half in set(halves) & set(parts):
            out = len(parts[half]) // 3 if source not in NOTES else 0
            for number, row in enumerate(parts[half]):
                size = None if number < out else sum(number - out >= size for size in SIZES)
                found.append(Labelled(source, *row, half, size))
    return found


def docstrings(most: int = 1000) -> dict[str, str]:
    """What functions of Python's library and of numpy do: the rest of their docstrings by the first paragraph."""
    found: dict[str, str] = {}
    for name in _MODULES:
        module = (
            importlib.import_module(name) if name.partition(".")[0] in {*sys.stdlib_module_names, "numpy"} else None
        )
        for thing in list(vars(module).values()) if module else ():
            for one in (thing, *(vars(thing).values() if inspect.isclass(thing) else ())):
                text = inspect.getdoc(one) if callable(one) else None
                first, _, rest = (text or "").partition("\n\n")
                if len(rest) > 150 and 4 <= len(first.split()) <= 20:
                    found.setdefault(" ".join(first.split()), rest.strip()[:1500])
    order = sorted(found)
    random.Random(0).shuffle(order)
    return {first: found[first] for first in order[:most]}


def written(items: Iterable[Labelled], folder: Path) -> list[Path]:
    """Write all items into files; returns the folders that are to be indexed."""
    found = set()
    for one in items:
        path = one.path(folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(one.content if isinstance(one.content, bytes) else one.content.encode())
        if one.size is not None:
            found.add(folder / one.half)
    return sorted(found)


@dataclass(frozen=True)
class Found:
    """A hit of a query: what is known of it, and whether it is right."""

    query: int
    modality: Modality
    source: str
    kind: Kind
    items: int
    present: bool
    right: bool
    rank: int
    score: float
    similarity: float
    words: float
    good: bool
    by_words: bool


class Asking:
    """Asks an index of written items, in the folders of one half."""

    def __init__(self, index: Index, folder: Path, items: Sequence[Labelled], half: str) -> None:
        self._index = index
        self._folder = folder
        self._items = [one for one in items if one.half == half]
        self._placed = {str(one.path(folder)): one for one in self._items if one.size is not None}
        self._half = half
        self._queries = 0

    def asked_by(self, sources: Sequence[str], pictures: bool = False) -> list[Labelled]:
        """The items of these sources that can be asked for, in a random order."""
        asked = [one for one in self._items if one.source in sources and (one.picture if pictures else one.asked)]
        random.Random(0).shuffle(asked)
        return asked

    def found(
        self,
        queries: Sequence[Labelled],
        sources: Sequence[str],
        size: int = len(SIZES),
        pictures: bool = False,
        kind: Kind | None = None,
        words: WordsUse = "auto",
        k: int = 10,
    ) -> Iterator[Found]:
        """The hits of queries among the items of some sources, in the first folders of each; with `pictures`, the
        pictures of the items are the queries, and each leaves itself out.
        """
        folders = [self._folder / self._half / source / str(one) for source in sources for one in range(size + 1)]
        there = {path: one for path, one in self._placed.items() if Path(path).parent in folders}
        where = selection(folders, [f"kind={kind}"] if kind else [])
        asked = [Item(image=one.path(self._folder)) if pictures else Item(one.query) for one in queries]
        for query, hits in zip(queries, self._index.search_many(asked, where=where, k=k, words=words), strict=True):
            self._queries += 1
            present = any(right(query, one, pictures) for one in there.values())
            for hit in hits:
                one = there.get(hit.path)
                if one is not None and not (pictures and one is query):
                    yield Found(
                        self._queries, "image" if pictures else "text", query.source, hit.kind, len(there), present,
                        right(query, one, pictures), hit.rank, hit.score, hit.similarity, hit.words, hit.good,
                        words == "only",
                    )  # fmt: skip


def right(query: Labelled, one: Labelled, picture: bool) -> bool:
    """Whether an item is a right answer."""
    if not picture:
        return one is query or query.asked <= set(one.words)
    if one is query or one.source == "docstrings":
        return False
    mine, its = query.words, terms(one.label.rpartition(_TITLED)[2]) if one.source == "leads" else one.words
    return bool(mine and its) and (set(mine) <= set(its) or set(its) <= set(mine) or mine[-1] == its[-1])
