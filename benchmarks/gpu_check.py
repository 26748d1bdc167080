"""Prove on one GPU, in about ten minutes, that indexing and training work on it as they do on a CPU.

    python benchmarks/gpu_check.py [--device cuda] [--only vectors,steps] [--quick] [--json gpu-check.json]

One line per check: its name, what was found, what was wanted, and ok or FAILED; ends with 1 when one has failed. All
figures go into a JSON file as well. Nothing is downloaded. Runs on a CPU, too, without what needs a GPU's memory.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Line:
    """One thing that was looked at: `found` and `wanted` in words, `figures` as numbers. `ok` None: no judgement."""

    check: str
    name: str
    found: str
    wanted: str = ""
    ok: bool | None = None
    figures: dict[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        """As it is printed."""
        verdict = {True: "ok", False: "FAILED", None: ""}[self.ok]
        return f"{self.check:12} {self.name:34} {self.found:44} {self.wanted:28} {verdict}".rstrip()


@dataclass(frozen=True)
class Setting:
    """What the checks work with: the `device`'s name, a `folder` of their own, and whether to be `quick`."""

    device: str
    folder: Path
    quick: bool = False

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a CUDA GPU."""
        return self.device.startswith("cuda")


Check = Callable[[Setting], Iterator[Line]]


def run(checks: dict[str, Check], setting: Setting, tell: Callable[[Line], None]) -> list[Line]:
    """Runs checks in their order; one that breaks is a failed line, and the others go on."""
    lines: list[Line] = []

    def take(line: Line) -> None:
        lines.append(line)
        tell(line)

    for name, check in checks.items():
        started = time.perf_counter()
        try:
            for line in check(setting):
                take(line)
        except Exception as error:  # noqa: BLE001  whatever it is, it is what the check is for
            where = traceback.extract_tb(error.__traceback__)[-1]
            said = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            take(Line(name, "ran to its end", f"{said} ({Path(where.filename).name}:{where.lineno})", "", False))
        took = time.perf_counter() - started
        take(Line(name, "time", f"{took:.0f} s", figures={"seconds": took}))
    return lines


def document(lines: Sequence[Line], setting: Setting) -> dict[str, Any]:
    """Everything, as JSON has it."""
    failed = [f"{line.check}: {line.name}" for line in lines if line.ok is False]
    return {"device": setting.device, "ok": not failed, "failed": failed, "lines": [asdict(line) for line in lines]}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what is asked for; gives the exit code."""
    from gpu_checks import CHECKS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    parser.add_argument("--only", default="", help=f"some of {', '.join(CHECKS)}, with commas between")
    parser.add_argument("--quick", action="store_true", help="smaller models and fewer of them")
    parser.add_argument("--json", type=Path, default=Path("gpu-check.json"), help="where all figures go")
    asked = parser.parse_args(arguments)
    chosen = asked.only.split(",") if asked.only else list(CHECKS)
    if unknown := [name for name in chosen if name not in CHECKS]:
        parser.error(f"there is no check called {unknown[0]}; there are {', '.join(CHECKS)}")
    from tsembed_search.model.backbone import pick

    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(str(pick(asked.device)), Path(folder), asked.quick)
        lines = run({name: CHECKS[name] for name in chosen}, setting, lambda line: print(line.text(), flush=True))
    asked.json.write_text(json.dumps(document(lines, setting), indent=2) + "\n", encoding="utf-8")
    failed = sum(line.ok is False for line in lines)
    print(f"{failed} of {sum(line.ok is not None for line in lines)} checks failed; figures in {asked.json}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
