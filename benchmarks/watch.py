"""Does an index follow its files? `python benchmarks/watch.py --json`

Makes many small texts in many folders, and beside them as many folders that are ignored. Starts `tsembed watch` on
them, by words only (the model would be what is measured; `--model` uses `mini` instead). Then writes, renames and
removes files and folders at random, at a steady rate; meanwhile the process is killed with SIGKILL now and then and
started again. When the changes end, it says how long it took until the last run was done, and compares the index with
the files: every path, and every text. Also says what the process costs when nothing happens.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

COMMAND = [sys.executable, "-c", "from tsembed_search.cli.main import run; run()", "watch"]
STEADY = 15.0
"""Seconds without a run after which all is done."""
IDLE = 30.0


class Watching:
    """The process, and when each of its runs ended."""

    def __init__(self, files: Path, options: list[str], log: Path) -> None:
        self.runs: list[tuple[float, dict[str, Any]]] = []
        with log.open("ab") as err:
            self.process = subprocess.Popen(
                [*COMMAND, str(files), "--json", *options], stdout=subprocess.PIPE, stderr=err
            )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.endswith(b"\n"):
                self.runs.append((time.monotonic(), json.loads(line)))

    def end(self, number: int) -> None:
        """Ends it by a signal."""
        self.process.send_signal(number)
        self.process.wait()
        self._reader.join()

    def facts(self) -> dict[str, Any]:
        """What it costs: watched folders, megabytes, share of a core while nothing happens."""
        pid = self.process.pid
        watches = 0
        for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
            watches += entry.read_text().count("inotify wd")

        def ticks() -> int:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
            return int(fields[11]) + int(fields[12])

        before = ticks()
        time.sleep(IDLE)
        busy = (ticks() - before) / os.sysconf("SC_CLK_TCK") / IDLE
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return {
            "watched_folders": watches,
            "megabytes": round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6),
            "idle_share_of_a_core": round(busy, 4),
        }


class Changes:
    """Random changes of files, in folders of their own."""

    def __init__(self, files: Path, folders: int, count: int, chance: random.Random) -> None:
        self.root = files
        self.chance = chance
        self.folders = [files / f"{number % 20:02}" / f"{number:04}" for number in range(folders)]
        self.paths: list[Path] = []
        self.number = 0
        self.kinds = dict.fromkeys(("written", "changed", "renamed", "removed", "folders renamed"), 0)
        for _ in range(count):
            self.write()

    def write(self) -> None:
        """A new file."""
        self.number += 1
        path = self.chance.choice(self.folders) / f"{self.number:07}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.text(), "utf-8")
        self.paths.append(path)

    def text(self) -> str:
        """Words that no other file has."""
        return f"Note {self.number} of {self.chance.random():.9f}: the {self.number % 97}th letter of the drawer.\n"

    def change(self) -> None:
        """One change."""
        kind = self.chance.choices(list(self.kinds), [4, 2, 3, 3, 0.1])[0]
        at = self.chance.randrange(len(self.paths))
        path = self.paths[at]
        self.kinds[kind] += 1
        if kind == "written":
            self.write()
        elif kind == "changed":
            self.number += 1
            path.write_text(self.text(), "utf-8")
        elif kind == "renamed":
            self.number += 1
            new = self.chance.choice(self.folders) / f"{self.number:07}.txt"
            new.parent.mkdir(parents=True, exist_ok=True)
            path.rename(new)
            self.paths[at] = new
        elif kind == "removed":
            path.unlink()
            self.paths[at] = self.paths[-1]
            self.paths.pop()
        else:
            old = path.parent
            new = old.with_name(f"{old.name.partition('-')[0]}-{self.number}")
            old.rename(new)
            self.folders[self.folders.index(old)] = new
            self.paths = [new / one.name if one.parent == old else one for one in self.paths]


def main() -> None:
    """Runs it, and prints what came out; with `--json`, one object last."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--folders", type=int, default=500)
    parser.add_argument("--ignored", type=int, default=10_000, help="folders that are ignored")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--changes", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--model", action="store_true", help="embed with mini, too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measured(Path(folder), wanted)
    for key, value in figures.items():
        print(f"{key:>28}: {value}")
    if wanted.json:
        print(json.dumps(figures))


def measured(top: Path, wanted: argparse.Namespace) -> dict[str, Any]:
    """The figures of one round."""
    os.environ["TSEMBED_HOME"] = str(top / "home")
    chance = random.Random(wanted.seed)
    changes = Changes(top / "files", wanted.folders, wanted.files, chance)
    for number in range(wanted.ignored):
        (top / "files/node_modules" / f"{number // 100}" / f"{number}").mkdir(parents=True)
    (top / "files/.tsembedignore").write_text("node_modules/\n")
    options = [] if wanted.model else ["--words"]
    log = top / "log"
    started = time.monotonic()
    watching = Watching(top / "files", options, log)
    until(lambda: watching.runs)
    first = watching.runs[0][0] - started
    steady(watching)
    facts = watching.facts()
    runs = 0
    began = time.monotonic()
    kills = [wanted.seconds * (number + 1) / (wanted.kills + 1) for number in range(wanted.kills)]
    for number in range(wanted.changes):
        due = began + wanted.seconds * number / wanted.changes
        time.sleep(max(0.0, due - time.monotonic()))
        changes.change()
        if kills and time.monotonic() - began >= kills[0]:
            kills.pop(0)
            watching.end(signal.SIGKILL)
            runs += len(watching.runs)
            watching = Watching(top / "files", options, log)
    ended = time.monotonic()
    steady(watching)
    last = max((moment for moment, _ in watching.runs), default=ended)
    watching.end(signal.SIGINT)
    wrong = differences(changes)
    return {
        "benchmark": "watch",
        "files": wanted.files,
        "folders": wanted.folders,
        "ignored_folders": wanted.ignored,
        "model": "mini" if wanted.model else "words only",
        "first_run_seconds": round(first, 1),
        **facts,
        "changes": wanted.changes,
        "changed_for_seconds": round(ended - began, 1),
        **{f"files_{kind}".replace("files_folders", "folders"): count for kind, count in changes.kinds.items()},
        "kills": wanted.kills,
        "runs": runs + len(watching.runs),
        "seconds_until_equal": round(last - ended, 1),
        "equal": not wrong,
        "wrong": wrong[:5],
    }


def until(true: Any) -> None:
    """Waits until it is so."""
    while not true():
        time.sleep(0.05)


def steady(watching: Watching) -> None:
    """Waits until there was no run for a while."""
    begun = time.monotonic()
    until(lambda: time.monotonic() - max([begun, *(moment for moment, _ in watching.runs)]) > STEADY)


def differences(changes: Changes) -> list[str]:
    """The paths that only the index or only the disk has, and those whose text is another."""
    from tsembed_search.index import Index

    there = {str(path): path.read_text("utf-8").strip() for path in changes.root.rglob("*.txt")}
    indexed: dict[str, str] = {}
    with Index.open() as index:
        for record in index.store.scroll():
            for place in record.payload["places"]:
                indexed[place["path"]] = record.payload["text"].strip()
    return sorted(path for path in there.keys() | indexed.keys() if there.get(path) != indexed.get(path))


if __name__ == "__main__":
    main()
