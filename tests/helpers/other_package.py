"""A package that is not ours, installed beside it, and the command as it runs there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

NAME = "other_people"
_SERVER = """
import json, os, sys
sys.modules["matplotlib"] = None  # drawing the plots of a report takes many times as long as a tiny run
from typer.testing import CliRunner
from tsembed_search.cli.main import app
for line in sys.stdin:
    arguments, folder = json.loads(line)
    os.chdir(folder)
    done = CliRunner().invoke(app, arguments)
    print(json.dumps([done.exit_code, done.stdout, done.stderr]), flush=True)
"""


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """The document that it printed. The command must have done its work."""
        assert self.code == 0, self.stderr
        return json.loads(self.stdout)


def install(site: Path, modules: Mapping[str, str], entry_points: Mapping[str, Mapping[str, str]]) -> None:
    """Write the package and what `pip install` would note about it.

    `modules`: sources by the names of their files. Entry points are `group: {name: "module:object"}`, of its modules.
    """
    package, notes = site / NAME, site / f"{NAME}-1.0.dist-info"
    for folder in (package, notes):
        folder.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    for name, source in modules.items():
        (package / name).write_text(source)
    (notes / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 1.0\n")
    lines = []
    for group, entries in entry_points.items():
        lines += [f"[{group}]", *(f"{name} = {NAME}.{place}" for name, place in entries.items()), ""]
    (notes / "entry_points.txt").write_text("\n".join(lines))


class Commands:
    """One process in which the package is installed, and which runs `tsembed` commands, one after the other."""

    def __init__(self, site: Path, home: Path) -> None:
        self._folder = home.parent
        path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
        surroundings = {"PYTHONPATH": path, "TSEMBED_HOME": str(home), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | surroundings,
        )

    def __call__(self, *arguments: object, folder: Path | None = None) -> Ran:
        """Run a command in a folder, and wait for its end."""
        assert self._process.stdin is not None and self._process.stdout is not None
        request = [[str(argument) for argument in arguments], str(folder or self._folder)]
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return Ran(*json.loads(self._process.stdout.readline()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
