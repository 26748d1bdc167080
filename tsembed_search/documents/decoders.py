"""Decoding beside the model: processes that read files, each watched, so that a bad file takes down only itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, cast

from tsembed_search.documents.crawl import open_regular, unreadable
from tsembed_search.documents.document import HEAD, Unit, extension_of, formats_of
from tsembed_search.documents.worker import TooSlow, receive, send
from tsembed_search.errors import LoadError, TsembedError

if TYPE_CHECKING:
    from tsembed_search.documents.document import Format, Pixels
    from tsembed_search.items import InputSpec

WORKER = ("-P", "-m", "tsembed_search.documents.worker")
"""Arguments to Python. -P: a file in the current folder must not pass for a module."""

_STARTUP_SECONDS: Final = 120.0
_WATCH_SECONDS: Final = 0.2
# One thread each, and little memory that is reserved and never used: many of these run beside the model.
_ENVIRONMENT: Final = {
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "MALLOC_ARENA_MAX": "2",
    "PYTHONIOENCODING": "utf-8",
}  # fmt: skip


@dataclass(frozen=True)
class Request:
    """One file to decode: its path as the system spells it, and the names of its formats, the likeliest first.

    `signature` (see `crawl.py`) is what it must still have; None for any. `pages`: render its pages, too. `pixels`:
    decode picture files, not only their size. `preview`: draw that page (from 1), and nothing else. `read`: give the
    words of that page (0: of all of a file without pages), as people read them, and nothing else.
    """

    path: str
    formats: tuple[str, ...]
    signature: tuple[int, int, int] | None = None
    pages: bool = False
    pixels: bool = True
    preview: int | None = None
    read: int | None = None


class Transient(LoadError):
    """A file that cannot be read now, but may be readable the next time as it is."""


class _Crashed(LoadError):
    """The process died by itself."""


def look(path: Path) -> tuple[Format, ...]:
    """Return the formats that a file may be in, by its name and its first bytes. Raises `LoadError`."""
    try:
        with open_regular(os.fspath(path)) as file:
            return formats_of(extension_of(path.name), file.read(HEAD))
    except OSError as error:
        raise LoadError(unreadable(error)) from error


class Decoder:
    """One decoding process, started when first used and again whenever it has died.

    `units` and `preview` are called by one thread; `check` and `kill` may be called by others. `inputs`: of the model;
    previews need none. `memory`: the bytes that decoding may take. `time_limit`: seconds without a sign of life.
    `on_note(path, reason)` is told what was left out of a file.
    """

    def __init__(
        self,
        inputs: InputSpec | None,
        *,
        memory: int,
        time_limit: float,
        on_note: Callable[[str, str], None] = lambda path, reason: None,
    ) -> None:
        self._inputs = inputs
        self._memory = memory
        self._limit = time_limit
        self._on_note = on_note
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self._deadline: float | None = None
        self._late = False
        self._stopped = False
        self._lock = threading.Lock()

    def units(self, request: Request) -> Iterator[Unit]:
        """The units of a file as they are decoded. Raises `LoadError` with the reason when it cannot be read."""
        used = self._process
        given = False
        try:
            for unit in self._units(request):
                given = True
                yield unit
        except _Crashed:
            # The process may have been ill since another file; only a fresh one proves that this file is to blame.
            if given or used is None:
                raise
            yield from self._units(request)

    def preview(self, path: Path, page: int) -> Pixels:
        """A page of a file (from 1), small, uint8 RGB `[H, W, 3]`. Raises `LoadError` where it cannot be drawn."""
        names = tuple(format.name for format in look(path))
        (unit,) = self.units(Request(os.fspath(path), names, preview=page))
        return cast("Pixels", unit.pixels)

    def _units(self, request: Request) -> Iterator[Unit]:
        import numpy as np

        process = self._running()
        try:
            send(cast("Any", process.stdin), asdict(request))
        except BrokenPipeError:
            raise self._died(process) from None
        while True:
            header, body = self._next(process, self._limit)
            if header["is"] == "unit":
                del header["is"]
                shape = header.pop("shape", None)
                header["headings"] = tuple(header["headings"])
                header["lines"] = header["lines"] and tuple(header["lines"])
                yield Unit(**header, pixels=np.frombuffer(body, np.uint8).reshape(shape) if shape else None)
            elif header["is"] == "note":
                self._on_note(request.path, str(header["text"]))
            elif header["is"] == "failed":
                raise (Transient if header["again"] else LoadError)(str(header["reason"]))
            elif header["is"] == "done":
                return

    def check(self) -> None:
        """Ends the process if it has been silent for too long; `units` then says so."""
        with self._lock:
            if self._deadline is not None and time.monotonic() > self._deadline and self._process is not None:
                self._late = True
                self._process.kill()

    def kill(self) -> None:
        """Ends the process for good; a thread that is in `units` gets a `LoadError`."""
        with self._lock:
            self._stopped = True
            if self._process is not None:
                self._process.kill()

    def close(self) -> None:
        """Frees what is left after `kill`, when no thread is in `units` any more."""
        if self._process is not None:
            _close(self._process)
            self._process = None
        if self._errors is not None:
            self._errors.close()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._errors = self._errors or tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        stopped = LoadError("The run is being stopped.")
        with self._lock:
            if self._stopped:
                raise stopped
            process = self._process = subprocess.Popen(
                [sys.executable, *WORKER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=os.environ | _ENVIRONMENT,
                bufsize=1 << 16,
            )
        try:
            inputs = asdict(self._inputs) if self._inputs is not None else None
            send(cast("Any", process.stdin), {"memory": self._memory, "inputs": inputs})
            self._next(process, _STARTUP_SECONDS)
        except (BrokenPipeError, LoadError) as error:
            if self._stopped:
                raise stopped from error
            self._errors.seek(0)
            said = self._errors.read().decode("utf-8", "replace").strip().splitlines()
            raise TsembedError(
                f"A decoding process cannot start: {said[-1] if said else error}",
                "Install the package and what it needs again.",
            ) from error
        return process

    def _next(self, process: subprocess.Popen[bytes], limit: float) -> tuple[dict[str, Any], bytearray]:
        with self._lock:
            self._deadline = time.monotonic() + limit
        try:
            message = receive(cast("Any", process.stdout))
        except ValueError:
            process.kill()
            message = None
        with self._lock:
            self._deadline = None
            late = self._late
        if message is None or late:
            raise self._died(process)
        return message

    def _died(self, process: subprocess.Popen[bytes]) -> LoadError:
        with self._lock:
            late, self._late = self._late, False
            self._process = None
        code = _close(process)
        if late:
            return TooSlow(self._limit)
        if code == -signal.SIGKILL:
            return LoadError("Its decoder was killed, perhaps because memory ran out.", "Save a smaller copy of it.")
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return _Crashed(f"Its decoder crashed over it ({name}).", "The file is damaged or crafted; save it again.")


class Watch:
    """A thread that ends decoders which are silent for too long."""

    def __init__(self, decoders: list[Decoder]) -> None:
        self._decoders = decoders
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._done.wait(_WATCH_SECONDS):
            for decoder in self._decoders:
                decoder.check()

    def stop(self) -> None:
        """Ends the watch and all decoders."""
        self._done.set()
        self._thread.join()
        for decoder in self._decoders:
            decoder.kill()


def _close(process: subprocess.Popen[bytes]) -> int:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            # Something may still be on its way to a process that is gone.
            with suppress(BrokenPipeError):
                stream.close()
    return process.wait()


def text(path: Path, page: int | None = None) -> Iterator[str]:
    """The words of a page (from 1), or of a file without pages, as people read them, in pieces: line ends are `\\n`.

    A process of its own reads them, and ends with the iterator: a file may be crafted. Raises `LoadError`.
    """
    names = tuple(format.name for format in look(path) if format.text is not None)
    if not names:
        raise LoadError("There is no text to show of such a file.")
    decoder = Decoder(None, memory=_PREVIEW_MEMORY, time_limit=_READING_SECONDS)
    watch = Watch([decoder])
    try:
        for unit in decoder.units(Request(os.fspath(path), names, read=page or 0)):
            yield unit.text or ""
    finally:
        watch.stop()
        decoder.close()


Page = tuple[Path, int]
"""A file, and one of its pages, counted from 1. Most pictures have one."""

_PREVIEW_SECONDS: Final = 4.0
_PREVIEW_MEMORY: Final = 1 << 30
_READING_SECONDS: Final = 30.0


def thumbnails(pages: Iterable[Page]) -> dict[Page, Pixels]:
    """The pages that can be drawn, as uint8 RGB `[H, W, 3]`; others, and texts, are left out.

    Pages of documents are drawn by a process of its own, for a few seconds at most: a file may be crafted.
    """
    found: dict[Page, Pixels] = {}
    documents: list[Page] = []
    for path, page in dict.fromkeys(pages):
        with suppress(LoadError, OSError):
            format = look(path)[0]
            if format.pages:
                documents.append((path, page))
            elif format.preview is not None:
                with open_regular(os.fspath(path)) as file:
                    found[path, page] = format.preview(file, page)
    if documents:
        decoder = Decoder(None, memory=_PREVIEW_MEMORY, time_limit=_PREVIEW_SECONDS)
        timer = threading.Timer(_PREVIEW_SECONDS, decoder.kill)
        timer.start()
        try:
            for path, page in documents:
                with suppress(TsembedError):
                    found[path, page] = decoder.preview(path, page)
        finally:
            timer.cancel()
            decoder.kill()
            decoder.close()
    return found
