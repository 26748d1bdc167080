"""Index runs that kill themselves at a chosen moment, as `kill -9` would.

`python -m helpers.killable` imports everything once and then forks a process for each request, a JSON object per line:
`files`, `home`, `options` of the run, the `disk` that the files seem to be on (null: as it is), and how to `kill` it
(null, `{"spot", "call", "after"}` or `{"seconds"}`). It answers with the exit `status` (negative: the signal) and, if
it was not killed, how often each spot was passed (`calls`), the `report`, the `notes` that it told, and the most
`memory` that the run and its decoder had.
"""

from __future__ import annotations

import functools
import gc
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any, Self

from helpers.indexing import Indexing, new_store
from helpers.warm_decoders import forked

SPOTS = {
    "crawl": ("tsembed_search.indexer.changes", "Changes", "compare"),
    "vanished": ("tsembed_search.indexer.changes", "Changes", "find_vanished"),
    "hash": ("tsembed_search.indexer.intake", "Intake", "examine"),
    "place": ("tsembed_search.indexer.manifest", "Manifest", "place"),
    "decode": ("tsembed_search.documents.decoders", "Decoder", "_next"),
    "embed": ("tsembed_search.model.embedder", "Embedder", "embed_stream"),
    "generation": ("tsembed_search.store.edge.store", "EdgeStore", "write_metadata"),
    "begin": ("tsembed_search.indexer.manifest", "Manifest", "begin"),
    "upsert": ("tsembed_search.store.edge.store", "EdgeStore", "upsert"),
    "commit": ("tsembed_search.indexer.manifest", "Manifest", "finish"),
    "forget": ("tsembed_search.indexer.manifest", "Manifest", "forget"),
    "delete": ("tsembed_search.store.edge.store", "EdgeStore", "delete"),
    "drop": ("tsembed_search.indexer.manifest", "Manifest", "drop"),
    "places": ("tsembed_search.store.edge.store", "EdgeStore", "set_payloads"),
    "settle": ("tsembed_search.indexer.manifest", "Manifest", "settle_places"),
    "optimize": ("tsembed_search.store.edge.store", "EdgeStore", "optimize"),
    "close": ("tsembed_search.store.edge.store", "EdgeStore", "close"),
}


class Killable:
    """The process of runs, from the test's side."""

    def __init__(self) -> None:
        new_store()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "helpers.killable"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"},
        )

    def run(
        self,
        files: Path,
        home: Path,
        kill: dict[str, Any] | None = None,
        options: dict[str, Any] | None = None,
        disk: str | None = None,
    ) -> dict[str, Any]:
        """One run. A run that is not killed must end well."""
        assert self._process.stdin is not None and self._process.stdout is not None
        request = {"files": str(files), "home": str(home), "kill": kill, "options": options or {}, "disk": disk}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert answer["status"] == 0 or (kill and answer["status"] == -signal.SIGKILL), "see the output above"
        return dict(answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def main() -> None:
    """Serves requests until the other side closes. Only forks: nothing here may start a thread or open an engine."""
    import qdrant_edge
    import torch

    from tsembed_search.documents.document import formats

    assert torch is not None and qdrant_edge is not None and formats()
    gc.collect()
    gc.freeze()  # else each child looks at all of torch, and so copies it
    for line in sys.stdin:
        request = json.loads(line)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            status = 1
            try:
                _run(request, writing)
                status = 0
            finally:
                traceback.print_exc()
                os._exit(status)
        os.close(writing)
        with os.fdopen(reading) as told:
            answer = json.loads(told.read() or "{}")
        _, code = os.waitpid(child, 0)
        print(json.dumps(answer | {"status": os.waitstatus_to_exitcode(code)}), flush=True)


def _run(request: dict[str, Any], writing: int) -> None:
    calls: dict[str, int] = dict.fromkeys(SPOTS, 0)
    kill = request["kill"] or {}
    for spot in SPOTS:
        _watch(spot, kill, calls)
    if "seconds" in kill:
        threading.Thread(target=_kill_after, args=(kill["seconds"],), daemon=True).start()
    from tsembed_search.documents import crawl
    from tsembed_search.indexer import changes

    if disk := request["disk"]:
        crawl.disk_of = changes.disk_of = lambda folder: disk  # type: ignore[assignment]
    home = Path(request["home"])
    run = Indexing(home.parent, home.name)
    run.optimizes = True
    # Fewer files in a write make more moments to be killed at.
    with forked():
        report = run.run(Path(request["files"]), **({"points_per_write": 3} | request["options"]))
    own, decoder = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    answer = {
        "calls": calls,
        "report": report.to_json(),
        "notes": run.sink.notes,
        "memory": (own + decoder) * 1024,
    }
    with os.fdopen(writing, "w") as told:
        json.dump(answer, told)


def _watch(spot: str, kill: dict[str, Any], calls: dict[str, int]) -> None:
    module, owner, name = SPOTS[spot]
    holder = getattr(__import__(module, fromlist=[owner]), owner)
    plain = getattr(holder, name)

    @functools.wraps(plain)
    def watched(*values: Any, **options: Any) -> Any:
        calls[spot] += 1
        fatal = kill.get("spot") == spot and kill["call"] == calls[spot]
        if fatal and not kill["after"]:
            os.kill(os.getpid(), signal.SIGKILL)
        result = plain(*values, **options)
        if fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(holder, name, watched)


def _kill_after(seconds: float) -> None:
    time.sleep(seconds)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
