"""Decoding processes that are forked from one which has imported all that they need, as starting one takes longer than
most files of tests take to be read.

What they do is the same: each is a process of its own with its own pipes, limits and end. Tests of how a real one
starts ask for the fixture `cold_decoders`.

`python -m helpers.warm_decoders SOCKET` serves: each connection brings the three standard streams, the environment and
the current folder of one process; what goes back is its id, and when it has ended, its status.
"""

from __future__ import annotations

import array
import gc
import io
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any
from unittest import mock

from helpers import ill_worker
from tsembed_search.documents import decoders

ADDRESS = "TSEMBED_TEST_DECODERS"
"""The variable with the socket's path: processes that tests start find it there, too."""
_MODULES = {decoders.WORKER: decoders.WORKER[-1], (str(ill_worker.__file__),): ill_worker.__name__}
"""What is forked, by the arguments that Python would be started with."""


@contextmanager
def serving(folder: Path) -> Iterator[None]:
    """Decoders are forked meanwhile, in this process and in those that a test starts with `forked`."""
    if not hasattr(os, "pidfd_open"):
        yield
        return
    address = str(folder / "decoders")
    environment = {**os.environ, **decoders._ENVIRONMENT, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", __name__, address]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as server,
        mock.patch.dict(os.environ, {ADDRESS: address}),
        forked(),
    ):
        assert server.stdin is not None and server.stdout is not None
        assert server.stdout.readline() == b"serving\n"
        yield
        server.stdin.close()


@contextmanager
def forked() -> Iterator[None]:
    """Decoders of this process are forked meanwhile, if a server is at the address."""
    if address := os.environ.get(ADDRESS):
        own = SimpleNamespace(**{**vars(subprocess), "Popen": lambda *given, **more: _popen(address, *given, **more)})
        with mock.patch.object(decoders, "subprocess", own):
            yield
    else:
        yield


def _popen(address: str, command: Sequence[str], **more: Any) -> Any:
    module = _MODULES.get(tuple(command[1:]))
    return subprocess.Popen(command, **more) if module is None else Forked(address, module, more["env"], more["stderr"])


class Forked:
    """What decoders need of `subprocess.Popen`."""

    def __init__(self, address: str, module: str, environment: Mapping[str, str], errors: IO[bytes]) -> None:
        self._line = socket.socket(socket.AF_UNIX)
        self._line.connect(address)
        asked, write = os.pipe()
        read, answers = os.pipe()
        try:
            folder = os.getcwd()  # noqa: PTH109
        except FileNotFoundError:
            folder = "/"
        given = json.dumps({"module": module, "environment": dict(environment), "folder": folder}).encode()
        self._line.sendmsg([b"%08d" % len(given)], _rights(asked, answers, errors.fileno()))
        self._line.sendall(given)
        os.close(asked)
        os.close(answers)
        self.stdin, self.stdout = open(write, "wb", 1 << 16), open(read, "rb", 1 << 16)  # noqa: PTH123, SIM115
        self.pid = int(self._line.recv(8))
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit status, None while it runs."""
        return self.wait() if self.returncode is not None or select.select([self._line], [], [], 0)[0] else None

    def wait(self) -> int:
        """The exit status when it has ended."""
        if self.returncode is None:
            self.returncode = int(self._line.recv(8))
            self._line.close()
        return self.returncode

    def kill(self) -> None:
        """As `kill -9` does."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def _rights(*files: int) -> list[tuple[int, int, array.array[int]]]:
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))]


def main() -> None:
    """Serves until standard input is closed."""
    _import_all()
    lines = socket.socket(socket.AF_UNIX)
    lines.bind(sys.argv[1])
    lines.listen(64)
    print("serving", flush=True)
    gc.collect()
    gc.freeze()
    running: dict[int, tuple[int, socket.socket]] = {}
    while True:
        ready, *_ = select.select([0, lines, *running], [], [])
        for one in ready:
            if one == 0:
                return
            if one is lines:
                line, _ = lines.accept()
                if (pid := _start(line, lines)) is None:
                    line.close()
                else:
                    running[os.pidfd_open(pid)] = pid, line
            else:
                pid, line = running.pop(one)
                os.close(one)
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                with suppress(OSError):
                    line.sendall(b"%8d" % status)
                line.close()


def _import_all() -> None:
    """Reads a file of each kind, so that all is imported and made that reading others takes."""
    from dataclasses import asdict
    from functools import partial

    from PIL import Image
    from tokenizers import Tokenizer

    from helpers.tiny_pdf import Page, pdf
    from tsembed_search.documents.document import Document
    from tsembed_search.documents.worker import _answer
    from tsembed_search.model.backbones import mini_spec

    read, known = Tokenizer.from_file, str(mini_spec.file_path("tokenizer"))
    shared = read(known)
    Tokenizer.from_file = lambda path: shared if path == known else read(path)  # type: ignore[method-assign, assignment]
    Image.init()
    decode = partial(Document, inputs=mini_spec.inputs(), memory=1 << 28, note=lambda text: None, alive=lambda: None)
    with tempfile.TemporaryDirectory() as folder:
        for name in ("text", "markdown", "html", "pdf", "image"):
            path = Path(folder) / name
            if name == "image":
                Image.new("RGB", (300, 300)).save(path, "PNG")
            elif name == "pdf":
                path.write_bytes(pdf([Page(["Some words"])]))
            else:
                path.write_text("# Some words\n\n<p>and others")
            asked = asdict(decoders.Request(str(path), (name,)))
            told = _answer(asked, decode, io.BytesIO())
            assert told == {"is": "done"}, told


def _start(line: socket.socket, lines: socket.socket) -> int | None:
    """Fork what a process asks for; None where that was killed while it asked."""
    files, given = array.array("i"), b""
    try:
        size, rights, *_ = line.recvmsg(8, socket.CMSG_SPACE(3 * 4))
        if rights:
            files.frombytes(rights[0][2])
        while rights and len(given) < int(size) and (more := line.recv(1 << 20)):
            given += more
        whole = bool(rights) and len(given) == int(size)
    except OSError:
        whole = False
    pid = os.fork() if whole else None
    if pid != 0:
        for file in files:
            os.close(file)
        with suppress(OSError):
            line.sendall(b"%8d" % (pid or 0))
        return pid
    status = 1
    try:
        for number, file in enumerate(files):
            os.dup2(file, number)
        os.closerange(3, max(*files, line.fileno(), lines.fileno()) + 64)
        _decode(json.loads(given))
        status = 0
    finally:
        sys.stderr.flush()
        os._exit(status)


def _decode(given: dict[str, Any]) -> None:
    os.environ.clear()
    os.environ.update(given["environment"])
    with suppress(OSError):
        os.chdir(given["folder"])
    sys.modules[given["module"]].main()


if __name__ == "__main__":
    main()
