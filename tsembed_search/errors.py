"""The errors a user can meet. Each message says what happened; `hint` says what to do about it.

A hint names a setting in braces, such as `{model}`, and likewise a method of `Index` or a function, such as
`{repair()}`. Every way in has its own spelling of them: Python reads `model=` and `Index.repair()`, the command line
`--model` and `tsembed doctor --repair`, a server the field `model`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

_FUNCTIONS: Final = {
    "known_models()": "model.registry.known_models()",
    "evaluate()": "evaluation.evaluate.evaluate()",
    "train()": "trainer.loop.train()",
    "check()": "data.check.check()",
}
_SETTING: Final = re.compile(r"\{([a-z][a-z_]*(?:\(\))?)\}")


def _in_python(name: str) -> str:
    if name in _FUNCTIONS:
        return f"tsembed_search.{_FUNCTIONS[name]}"
    return f"Index.{name}" if name.endswith("()") else f"{name}="


def spelled(hint: str, spelling: Callable[[str], str] = _in_python) -> str:
    """Return a hint with its settings and methods as `spelling` writes them, by default as a program does."""
    return _SETTING.sub(lambda found: spelling(found[1]), hint)


class TsembedError(Exception):
    """Base of every error that is shown to a user without a traceback.

    `message` says what happened, `hint` what to do next. `exit_code` is the process's exit status.
    Both texts may contain file names and other data: whoever shows them escapes them.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {spelled(self.hint)}".strip()


class UsageError(TsembedError):
    """The command or call itself is wrong: a missing path, a bad `--where`, an unknown option value."""

    exit_code = 2


class LoadError(TsembedError):
    """One file cannot be read. Indexing skips it with this message as the reason and goes on."""


class ModelError(TsembedError):
    """A model cannot be found, loaded or trusted (wrong checksum, pickled checkpoint, NaN weights)."""


class TooLargeError(ModelError):
    """One item alone does not fit in the device's memory. Other items may."""


class UnsupportedModelError(ModelError):
    """A model of a kind that this program cannot use, whatever state its files are in."""

    exit_code = 2


class StoreError(TsembedError):
    """The vector store cannot be opened, reached, read or written."""


class MissingIndexError(StoreError):
    """There is no index called `name` in `store`."""

    def __init__(self, message: str, hint: str, name: str, store: str) -> None:
        super().__init__(message, hint)
        self.name = name
        self.store = store


class IndexBusyError(StoreError):
    """Another process, or another thread that changes it, uses the index."""


class DamagedIndexError(StoreError):
    """The embedded engine cannot make sense of its own files. `store.opening.salvage` keeps what can be read."""


class IndexMismatchError(TsembedError):
    """The index was made by another model (or schema) than the one now asked to read or extend it."""
