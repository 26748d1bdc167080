"""Building HNSW in a process of its own.

Qdrant Edge holds Python's interpreter lock while it optimises, half a minute or more at 100,000 points: in the same
process the progress display would freeze and Ctrl-C do nothing. `run` is what the parent calls, `main` the child.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

from tsembed_search.errors import StoreError

_PR_SET_PDEATHSIG = 1


def run(shard: Path) -> None:
    """Optimise a shard that nobody has open. Interrupted, it stops the child: the shard stays as good as it was.

    Raises `StoreError` when the child fails.
    """
    command = [sys.executable, "-m", __name__, os.fspath(shard), str(os.getpid())]
    # A session of its own keeps the terminal's Ctrl-C from the child: the parent decides what it means.
    child = subprocess.Popen(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        _, errors = child.communicate()
    except BaseException:
        child.kill()
        child.wait()
        raise
    if child.returncode:
        last = errors.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise StoreError(
            f"Building the search graph of {shard} failed: {last or f'exit status {child.returncode}'}.",
            "Nothing is lost, searches are only slower. Free memory and disk space, then index again.",
        )


def main() -> None:
    """Run the child: `python -m tsembed_search.store.edge.graph SHARD PARENT_PID`."""
    import qdrant_edge

    if sys.platform == "linux":
        # A killed parent must not leave behind a child that owns the index.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(sys.argv[2]):
            return
    shard = qdrant_edge.EdgeShard.load(sys.argv[1])
    shard.optimize()
    shard.flush()
    shard.close()


if __name__ == "__main__":
    main()
