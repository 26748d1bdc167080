"""Opening files with the programs that the desktop has for them. No shell is ever asked."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from tsembed_search.errors import LoadError, TsembedError
from tsembed_search.paths import file_path


def open_file(path: str) -> None:
    """Open an indexed file. Raises `LoadError` when it is gone, and `TsembedError` when nothing can open it."""
    _show(_there(path))


def reveal(path: str) -> None:
    """Show an indexed file in its folder, selected where the system can do that. Raises what `open_file` does."""
    found = _there(path)
    if sys.platform == "win32":
        # It answers 1 even when all is well, and wants the path right behind the comma.
        subprocess.run(["explorer", f"/select,{found}"], check=False)
    elif sys.platform == "darwin":
        _run(["open", "-R", str(found)], found)
    else:
        _show(found.parent)


def beside(act: Callable[[str], None], path: str, complain: Callable[[Exception], object]) -> None:
    """Do one of these in a thread; `complain` is told there what went wrong."""

    def run() -> None:
        try:
            act(path)
        except (TsembedError, OSError) as error:
            complain(error)

    threading.Thread(target=run, name="desktop", daemon=True).start()


def _there(path: str) -> Path:
    found = file_path(path)
    if not found.exists():
        raise LoadError(f"{found} is no longer there.", "Run `tsembed index` on its folder to update the index.")
    return found.absolute()


def _show(path: Path) -> None:
    if sys.platform == "win32":
        os.startfile(path)
        return
    _run(["open" if sys.platform == "darwin" else "xdg-open", str(path)], path)


def _run(command: Sequence[str], path: Path) -> None:
    """Run a program without any part in our terminal."""
    opener = command[0]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
        )
    except FileNotFoundError:
        hint = f"Install {opener}, or open it yourself."
        raise TsembedError(f"There is no program to open {path} with.", hint) from None
    if done.returncode:
        raise TsembedError(f"{opener} could not open {path} (exit code {done.returncode}).", "Open it yourself.")
