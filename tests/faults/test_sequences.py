"""Any sequence of edits, copies, renames, deletions, lost disks, runs and kills leaves the index of what is there at
last, and while a disk is away nothing of it is lost.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, rule

from helpers.indexing import Indexing, fast_folder
from helpers.killable import SPOTS, Killable

EXAMPLES = int(os.environ.get("TSEMBED_SEQUENCES", "6"))
NAMES = st.sampled_from(["a", "b", "c", "sub/a", "sub/b", "sub/deep/c"])
COLOURS = st.sampled_from(["red", "green", "blue", "yellow"])
WORDS = st.sampled_from(["sea", "hill", "snow", "coal"])
KILLS = st.one_of(
    st.builds(lambda spot, call, after: {"spot": spot, "call": call, "after": after},
              st.sampled_from(sorted(SPOTS)), st.integers(1, 4), st.booleans()),
    st.builds(lambda seconds: {"seconds": seconds}, st.floats(0.0, 0.4)),
)  # fmt: skip


LOSSES = st.sampled_from(["unmounted", "renamed", "another disk", "half gone"])


class Sequences(RuleBasedStateMachine):
    """The index is compared with one made from scratch at the end. `lost` are the points of each file that is away."""

    killable: ClassVar[Killable]
    paths: Bundle[str] = Bundle("paths")

    @initialize()
    def begin(self) -> None:
        self.stack = contextlib.ExitStack()
        self.indexing = Indexing(self.stack.enter_context(fast_folder()))
        self.clock = time.time() - 1e6
        self.disk = "the first"
        self.lost: dict[Path, set[str]] = {}

    @property
    def away(self) -> Path:
        return self.indexing.files.with_name("away")

    def _written(self, path: Path) -> str:
        # Real edits are seldom within one tick of the clock; those that are have a test of their own.
        self.clock += 10
        os.utime(path, (self.clock, self.clock))
        self.lost.pop(path, None)
        return str(path.relative_to(self.indexing.files))

    @rule(target=paths, name=NAMES, colour=COLOURS)
    def picture(self, name: str, colour: str) -> str:
        return self._written(self.indexing.picture(f"{name}.png", colour))

    @rule(target=paths, name=NAMES, word=WORDS, count=st.integers(1, 40))
    def text(self, name: str, word: str, count: int) -> str:
        return self._written(self.indexing.write(f"{name}.md", f"# {word}\n\n" + f"Much about the {word}. " * count))

    @rule(target=paths, name=NAMES)
    def broken(self, name: str) -> str:
        return self._written(self.indexing.write(f"{name}.png", b"broken"))

    @rule(target=paths, old=consumes(paths), name=NAMES)
    def rename(self, old: str, name: str) -> str:
        return self._moved(old, name, keep=False)

    @rule(target=paths, old=paths, name=NAMES)
    def copy(self, old: str, name: str) -> str:
        return self._moved(old, name, keep=True)

    def _moved(self, old: str, name: str, *, keep: bool) -> str:
        source = self.indexing.files / old
        target = self.indexing.files / f"{name}{source.suffix}"
        if not source.exists() or source == target:
            return old
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target) if keep else source.rename(target)
        self.lost.pop(target, None)
        return str(target.relative_to(self.indexing.files))

    @rule(path=consumes(paths))
    def delete(self, path: str) -> None:
        (self.indexing.files / path).unlink(missing_ok=True)

    @rule()
    def delete_folder(self) -> None:
        shutil.rmtree(self.indexing.files / "sub", ignore_errors=True)

    @rule()
    def index(self) -> None:
        self._run()

    @rule(kill=KILLS)
    def index_and_kill(self, kill: dict[str, object]) -> None:
        self._run(kill)

    @rule(loss=LOSSES)
    def lose(self, loss: str) -> None:
        """Takes away what was indexed; in its place there is nothing, or other files.

        There is enough of it: where up to three files are replaced by others, that is an everyday change.
        """
        if self.lost:
            return
        for number in range(6):
            self._written(self.indexing.write(f"more/{number}.md", f"Text {number} about the wind. "))
        self._run(prune_empty=True)
        points = self._points_by_path()
        paths = sorted(points)[: len(points) // 2 + 1] if loss == "half gone" else sorted(points)
        self.lost = {path: points[path] for path in paths}
        if loss == "renamed":
            self.indexing.files.rename(self.away)
            return
        everything = [path for path in self.indexing.files.rglob("*") if path.is_file()]
        for path in paths if loss == "half gone" else everything:
            target = self.away / path.relative_to(self.indexing.files)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
        if loss == "another disk":
            self.disk = "another"
            self.indexing.write("elsewhere.txt", "what only the other disk has")

    @rule()
    def find(self) -> None:
        """Brings back what was lost: nothing of it has to be embedded."""
        if not self.lost:
            return
        if self.indexing.files.exists():
            self._run()
        self.disk = "the first"
        for path in [path for path in self.away.rglob("*") if path.is_file()]:
            target = self.indexing.files / path.relative_to(self.away)
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                path.rename(target)
        shutil.rmtree(self.away)
        self.lost = {}
        assert self._run()["calls"]["embed"] == 0

    def _points_by_path(self) -> dict[Path, set[str]]:
        points: dict[Path, set[str]] = {}
        for record in self.indexing.records():
            for place in record.payload["places"]:
                points.setdefault(Path(place["path"]), set()).add(record.id)
        return points

    def _run(self, kill: dict[str, object] | None = None, **options: object) -> dict[str, Any]:
        answer = self.killable.run(self.indexing.files, self.indexing.home, kill, options, self.disk)
        if self.lost:
            there = {record.id for record in self.indexing.records()}
            for path, points in self.lost.items():
                assert points <= there, f"{path} is away, and its items are gone"
        return answer

    def teardown(self) -> None:
        if not hasattr(self, "indexing"):
            return
        with self.stack:
            self.find()
            self._run(prune_empty=True)
            assert self.indexing.points() == self.indexing.scratch()
            manifest = self.indexing.manifest()
            assert manifest.unsettled() == manifest.moved(1) == manifest.homeless(1) == []
            manifest.close()


@pytest.fixture(scope="module")
def killable() -> Iterator[Killable]:
    with Killable() as process:
        yield process


def test_any_sequence(killable: Killable) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    Sequences.killable = killable
    run_state_machine_as_test(
        Sequences,
        settings=settings(
            max_examples=EXAMPLES, stateful_step_count=12, deadline=None, derandomize=EXAMPLES < 20,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
