"""The browser's own words: how things are, why there is nothing, what went wrong. All of it is safe to show."""

from __future__ import annotations

from tsembed_search.cli.browse.source import HitList, Wish
from tsembed_search.cli.render.text import in_shell
from tsembed_search.errors import TsembedError, spelled
from tsembed_search.wording import brief, count_words, shown, time_words


def status_words(title: str, asked: Wish, found: HitList, marked: int, *, is_warm: bool, model: str) -> str:
    """Say how things are, in one line. `model` says what is the matter with it; nothing when it is loaded."""
    parts = [shown(title)]
    if asked.needs_model and not is_warm:
        parts.append("a picture is looked for once the model is loaded")
    elif found.by:
        first = "first " if found.has_more else ""
        good = sum(hit.good for hit in found.hits)
        count = first + count_words(len(found.hits), "hit") + (f", {good:,} good" if good else "")
        parts += [count, found.by, time_words(found.seconds), found.remark]
    parts += [f"{marked} marked" if marked else "", model]
    return " · ".join(filter(None, parts))


def nothing_words(asked: Wish, *, is_warm: bool) -> str:
    """Say why there are no hits."""
    if asked.is_open:
        return "No files match." if asked.chips() else "The index is empty.\nFill it with: tsembed index FOLDER"
    if not is_warm:
        return "No file has these words.\nThey are looked for by meaning once the model is loaded."
    return "Nothing found."


def error_words(error: Exception) -> str:
    """Return an error in one line: what happened, and what to do."""
    if isinstance(error, TsembedError):
        return shown(f"{error.message} {spelled(error.hint, in_shell)}".replace("\n", " ").strip())
    return shown(brief(error))
