"""Building the search graph on a copy of the shard, in a process of its own, while the shard goes on to be searched.

Qdrant Edge holds Python's interpreter lock while it optimises: in the same process, searches would wait for minutes.
`build` is what the parent calls, `main` the child. The engine uses all cores, and keeps what was built before: points
that are new since then get a graph of their own, and graphs that are small are merged.
"""

from __future__ import annotations

import ctypes
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tsembed_search import private
from tsembed_search.errors import StoreError

_PR_SET_PDEATHSIG: Final = 1
_TICK: Final = 1.0  # seconds between two reports
_TRIAL: Final = 4000
"""Points of a small graph that is built first, to tell how long a large one will take."""

_LONG: Final = 12 * _TRIAL
"""For so many points it is worth telling."""


def build(points: Path, target: Path, dim: int, waiting: int, tell: Callable[[float | None], None]) -> None:
    """Copy a shard that nobody changes to `target`, and build the graph of the copy. `waiting`: points that have none.

    `tell` hears every second how many seconds are left, None while that is not known; what it raises stops the child.
    Raises `StoreError` when the child fails.
    """
    shutil.rmtree(target, ignore_errors=True)
    facts = [os.fspath(points), os.fspath(target), str(dim), str(waiting), str(os.getpid())]
    # A session of its own keeps the terminal's Ctrl-C from the child: the parent decides what it means.
    child = subprocess.Popen(
        [sys.executable, "-m", __name__, *facts],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
        errors="replace",
    )
    said: list[str] = []
    listener = threading.Thread(target=_listen, args=(child, said), daemon=True)
    listener.start()
    try:
        expected = None
        while True:
            try:
                child.wait(_TICK)
                break
            except subprocess.TimeoutExpired:
                if expected is None and said and said[0].startswith("seconds "):
                    expected = time.monotonic() + float(said[0].split()[1])
                tell(None if expected is None else max(0.0, expected - time.monotonic()))
        listener.join()
        if child.returncode:
            raise StoreError(
                f"Building the search graph of {points} failed: "
                f"{said[-1] if said else f'exit status {child.returncode}'}.",
                "Nothing is lost, searches are only slower. Free memory and disk space, then index again.",
            )
    except BaseException:
        child.kill()
        child.wait()
        raise


def _listen(child: subprocess.Popen[str], said: list[str]) -> None:
    assert child.stdout is not None
    for line in child.stdout:
        if line.strip():
            said.append(line.strip())


def main() -> None:
    """Run the child: `python -m tsembed_search.store.edge.graph SHARD TARGET DIM WAITING PARENT_PID`."""
    import qdrant_edge

    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    dim, waiting, parent = map(int, sys.argv[3:])
    if sys.platform == "linux":
        # A killed parent must not leave behind a child that fills the disk.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            return
    os.umask(0o077)
    private.copy(source, target)
    shard = qdrant_edge.EdgeShard.load(os.fspath(target))
    if waiting >= _LONG:
        sys.stdout.write(f"seconds {_expected(waiting, dim)}\n")
        sys.stdout.flush()
    shard.optimize()
    shard.flush()
    shard.close()
    _sync(target)


def _expected(points: int, dim: int) -> float:
    """Seconds that the graph of so many points will take, by those of a small one: `n log n`."""
    import numpy as np
    import qdrant_edge as engine

    from tsembed_search.store.base import StoreSettings
    from tsembed_search.store.edge.shard import config
    from tsembed_search.store.schema import VECTOR_NAME

    vectors = np.random.default_rng(0).standard_normal((_TRIAL, dim)).tolist()
    with tempfile.TemporaryDirectory() as folder:
        trial = engine.EdgeShard.create(folder, config(StoreSettings(dim), graph_from_kb=1))
        made: list[Any] = [engine.Point(number, {VECTOR_NAME: vector}) for number, vector in enumerate(vectors)]
        trial.update(engine.UpdateOperation.upsert_points(made))
        began = time.monotonic()
        trial.optimize()
        seconds = time.monotonic() - began
        trial.close()
    return seconds * points * math.log(points) / (_TRIAL * math.log(_TRIAL))


def _sync(folder: Path) -> None:
    """See to it that a copy is on the disk before it takes the place of what it was made of."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())


if __name__ == "__main__":
    main()
