"""How long a person waits for the command line: help, and a search in a fresh process, by a text, without and with
experts, and by a picture.

Floors: `python -c "import torch"` for the search (which does without it), bare `python -c pass` for the help. Each
round times all of them one after another, and the figures are medians over rounds of ratios within a round, so that a
busy machine slows both sides. Absolute times are printed for orientation only.

    python benchmarks/startup.py [--rounds N] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

_TOPICS = ("a red bicycle in the snow", "the history of bread", "how to sail a boat", "cats that sleep all day")
# The steps of a search, timed one by one inside one process. `start` is the interpreter's own start.
_STEPS = """
import json, os, time
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
started = time.perf_counter()
steps = {}
def step(name):
    global started
    now = time.perf_counter()
    steps[name] = now - started
    started = now
from tsembed_search.cli import main
step("command line")
from tsembed_search.index import Index
index = Index.open()
step("read the index's settings")
embedder = index.embedder
step("check and load the model")
from tsembed_search import Item
embedder.embed([Item("bicycle in winter")], "query")
step("embed the query")
index.store
step("open the store")
index.search("bicycle in winter")
step("search (and load the engine for the second query)")
index.close()
step("close the store")
print(json.dumps(steps))
"""


def main() -> None:
    """Runs the rounds and prints the table; with `--json`, one object last."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        environment = prepare(Path(folder))
        rounds = [one_round(environment) for _ in range(options.rounds + 1)][1:]
        steps = [run_steps(environment) for _ in range(options.rounds)]
    result = summary(rounds, steps)
    report(result)
    if options.json:
        print(json.dumps(result))


def prepare(folder: Path) -> dict[str, str]:
    """Two indexes of a few hundred texts and a picture, made with mini and with experts on it, and the environment to
    find them.
    """
    environment = {**os.environ, "TSEMBED_HOME": str(folder / "home")}
    corpus = folder / "corpus"
    corpus.mkdir()
    for number in range(400):
        (corpus / f"{number}.txt").write_text(f"{_TOPICS[number % len(_TOPICS)]}, number {number}\n")
    Image.linear_gradient("L").save(folder / "corpus" / "picture.png")
    make = "import sys; from tsembed_search.model import loading; loading.create_checkpoint(sys.argv[1])"
    subprocess.run([sys.executable, "-c", make, str(folder / "home/models/experts")], check=True)
    for name, model in (("default", "mini"), ("experts", "experts")):
        arguments = ["index", str(corpus), "--quiet", "--index", name, "--model", model]
        subprocess.run([*command(), *arguments], env=environment, check=True)
    return environment


def command() -> list[str]:
    """The installed `tsembed` beside this interpreter."""
    return [str(Path(sys.executable).with_name("tsembed"))]


def one_round(environment: dict[str, str]) -> dict[str, float]:
    """Seconds of each whole process, one after another."""
    picture = str(Path(environment["TSEMBED_HOME"]).parent / "corpus" / "picture.png")
    commands = {
        "python": [sys.executable, "-c", "pass"],
        "help": [*command(), "--help"],
        "torch": [sys.executable, "-c", "import torch"],
        "search": [*command(), "search", "bicycle in winter", "-k", "3"],
        "search by picture": [*command(), "search", "--image", picture, "-k", "3"],
        "search with experts": [
            *(*command(), "search", "bicycle in winter", "-k", "3", "--index", "experts"),
            *("--rerank", "expert", "--route-weight", "0.2"),
        ],
    }
    return {name: timed(arguments, environment) for name, arguments in commands.items()}


def timed(arguments: list[str], environment: dict[str, str]) -> float:
    """Wall seconds of a process that must succeed."""
    started = time.perf_counter()
    subprocess.run(arguments, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def run_steps(environment: dict[str, str]) -> dict[str, float]:
    """Seconds of each step of a search inside one process."""
    done = subprocess.run([sys.executable, "-c", _STEPS], env=environment, check=True, capture_output=True, text=True)
    steps: dict[str, float] = json.loads(done.stdout)
    return steps


def summary(rounds: list[dict[str, float]], steps: list[dict[str, float]]) -> dict[str, object]:
    """Medians: of ratios within a round, of seconds, and of each step's share."""

    def median_ratio(name: str, floor: str) -> float:
        return statistics.median(one[name] / one[floor] for one in rounds)

    return {
        "search_over_import_torch": median_ratio("search", "torch"),
        "search_with_experts_over_import_torch": median_ratio("search with experts", "torch"),
        "search_by_picture_over_import_torch": median_ratio("search by picture", "torch"),
        "help_over_import_torch": median_ratio("help", "torch"),
        "help_over_python": median_ratio("help", "python"),
        "seconds": {name: statistics.median(one[name] for one in rounds) for name in rounds[0]},
        "steps": {name: statistics.median(one[name] for one in steps) for name in steps[0]},
        "rounds": len(rounds),
    }


def report(result: dict[str, object]) -> None:
    """The table for people."""
    seconds, steps = result["seconds"], result["steps"]
    assert isinstance(seconds, dict) and isinstance(steps, dict)
    print("whole processes, median seconds")
    for name, value in seconds.items():
        print(f"  {name:<32}{value:8.3f}")
    print("steps of a search in one process, median milliseconds")
    for name, value in steps.items():
        print(f"  {name:<32}{value * 1000:8.0f}")
    print(f"search / import torch: {result['search_over_import_torch']:.2f} (target: at most 0.35)")
    print(f"with experts: {result['search_with_experts_over_import_torch']:.2f} (target: at most 0.4)")
    print(f"by a picture: {result['search_by_picture_over_import_torch']:.2f}")


if __name__ == "__main__":
    main()
