"""Where a checkpoint comes from, as far as its files tell, and whether the prompt that it was tuned with is known.

An embedder is a language model and the prompt that it was tuned with. With another prompt it loads, runs, and searches
badly without a word. So well-known embedders whose prompt we do not have are refused by name, and any other tuned
checkpoint is warned of. Only JSON files, the model card and the names in Python files are read; no code is run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from tsembed_search.errors import UnsupportedModelError
from tsembed_search.hub import snapshot_of

Prompt = Literal["own", "untuned", "unknown"]
"""With which prompt a model is used: the one that it was tuned with; the family's, because it was never tuned to embed;
or the family's, although it was tuned with one that is not known."""

VERIFIED: tuple[str, ...] = ("Qwen/Qwen3-VL-Embedding-2B", "Qwen/Qwen3-VL-Embedding-8B")
"""Embedders whose prompt, pooling and limits are those of their authors."""

MADE_HERE = "tsembed"
"""The tag in the model card of what this program made: it was trained with the prompt that it is used with."""

_ONE_VECTOR = "It was tuned with a prompt of its own, which is not known here: with another one it would search badly."
_HEAD = 100_000  # bytes of a Python file or a model card that are looked at
_ADVICE = "Use mini, or Qwen/Qwen3-VL-Embedding-2B, or another whose prompt is known: {known_models()} lists them."
# Models that are refused, and what finds them in hub names, class names and file names, in small letters: names as
# their authors write them, with and without separators, such as `gme-Qwen2-VL`, `GmeQwen2VL`, `gme_qwen2vl`. `<` is
# where a word begins and `>` where it ends; `\b` would take an underscore for a letter.
_REFUSED = {
    "a reranker": r"re-?rank|lamra[-_. ]?rank|monoqwen|forsequenceclassification|forranking",
    "a ColPali-like model": (
        r"<(ops[-_. ]?)?col[-_. ]?(qwen|pali|smol|idefics|gemma|nomic|phi|intern|flor|lfm|modernvbert|embed)"
        r"|colembed|evoqwen"
    ),
    "GME": r"<gme(>|[-_. ]?(qwen|varco|inference|embed))",
    "GVE": r"alibaba-nlp/gve|<gve-\d",
    "Ops-MM-embedding": r"<ops[-_. ]?mm[-_. ]?embed",
    "RzenEmbed": r"<rzen(>|[-_. ]?embed)",
    "VLM2Vec": r"<x?vlm2vec",
    "LamRA": r"<lamra>|<lamra(qwen|ret)",
    "UniME": r"<unime(?![a-z])",
    "mmE5": r"<mm-?e5",
    "E5-V": r"<e5-?v>|<e5-omni",
    "BGE-VL": r"<bge[-_. ]?vl|<mmret|<megapairs",
    "jina-embeddings": r"<jina[-_. ]?embeddings|<jina[-_. ]?clip",
    "nomic-embed": r"<nomic[-_. ]?embed",
    "a model of colpali-engine": r"<bi(qwen|pali|smol|idefics|gemma|modernvbert)",
    "MM-Embed": r"<mm[-_. ]?embed",
    "LLaVE": r"<llave(?![a-z])",
    "B3": r"<b3(\+\+)?[-_]*qwen|raghavlite/b3",
    "MoCa": r"<moca[-_. ]?(qwen|embed)",
    "UNITE": r"<unite-(base|instruct)-qwen|friedrichor/unite",
    "UME-R1": r"<ume-?r1",
    "ABC": r"<abc-?qwen",
    "DSE": r"<(mc|om)?dse-?(qwen|phi|\d)|-dse>|<qwenamann",
    "vdr": r"<vdr-\d",
    "OmniEmbed": r"<omni[-_. ]?embed|<tevatron/|<lco-?embedding",
    "WeMM-Embedding": r"<wemm",
    "QQMM-embed": r"<qqmm",
    "Octen": r"<octen",
    "Eager-Embed": r"<eager-?embed",
    "Seed embedding": r"<seed-?1[.\d]*-?embedding",
}
_OTHER_REASONS = {
    "a reranker": "It compares pairs; it does not make vectors.",
    "a ColPali-like model": "It makes many vectors for each item, and an index keeps one.",
}
_NAMING = (
    *("config.json", "adapter_config.json", "tokenizer_config.json", "preprocessor_config.json"),
    *("processor_config.json", "modules.json"),
)
_NAMING_KEYS = (
    *("model_type", "_name_or_path", "name_or_path", "base_model_name_or_path", "processor_class"),
    *("architectures", "auto_map", "auto_mapping"),
)
_PUBLISHERS = ("qwen", "huggingfacetb", "huggingfacem4", "llava-hf")
_UNTUNED = (
    r"(qwen(2|2\.5|3)-vl-\d+b(-a\d+b)?(-instruct|-thinking|-base)?"
    r"|smolvlm2?(-[\d.]+[mb])?(-video)?(-base|-instruct|-synthetic)?"
    r"|idefics3-8b-llama3"
    r"|llava-onevision-qwen2-[\d.]+b(-si|-ov|-ov-chat)?-hf)"
    r"(-(awq|gptq|fp8|bf16|int[48]|unsloth|bnb|[48]bit|dynamic))*"
)
_LEFT_BY_TUNING = (
    "adapter_config.json",
    *("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json", "1_Pooling"),
    *("training_args.bin", "trainer_state.json", "optimizer.pt", "all_results.json", "train_results.json"),
)


@cache
def _patterns() -> dict[str, re.Pattern[str]]:
    """Compiled when a model is first looked at: most commands never do."""
    ends = str.maketrans({"<": "(?<![a-z0-9])", ">": "(?![a-z0-9])"})
    return {name: re.compile(pattern.translate(ends)) for name, pattern in _REFUSED.items()}


def refuse_name(name: str, where: str = "its hub name", says: str | None = None) -> None:
    """Raise `UnsupportedModelError` for a model that is refused: its hub name says so, or what else `says` its name."""
    says = name if says is None else says
    for refused, pattern in _patterns().items():
        if pattern.search(says.lower()):
            advice = f"{_ADVICE} If it is another model, rename its folder." if where == "its name" else _ADVICE
            why = _OTHER_REASONS.get(refused, _ONE_VECTOR)
            message = f"{name} is not supported: it is {refused} ({where} says {says!r}). {why}"
            raise UnsupportedModelError(message, advice)


def prompt_of(name: str, folder: Path, model_class: str) -> tuple[Prompt, str]:
    """Which prompt the transformers model in `folder` is used with and, where that is not known, what tells so.

    `name` is what it was called by; `model_class` is the class that its family should name in config.json. Raises
    `UnsupportedModelError` for a model that is refused.
    """
    hub, card, config = _hub_name(name, folder), _Card.of(folder), _json(folder / "config.json")
    own_names = (folder.name, folder.resolve().name)
    named = [("its hub name", hub), *(("its name", own) for own in own_names)]
    named += [("its model card", each) for each in (*card.bases, *card.names, card.title)]
    for where, each in (*named, *_names_in_files(folder)):
        refuse_name(name, where, each)
    called = [hub] if hub else [*own_names, card.title]
    if MADE_HERE in card.tags or any(map(_is_verified, called)) or (not hub and _has_verified_prompt(folder, config)):
        return "own", ""
    if hub:
        known = _is_untuned(hub)
        return ("untuned", "") if known else ("unknown", "it is not one of the published models of its family")
    if tuned := _sign_of_tuning(folder, config, card.tags, model_class):
        return "unknown", tuned
    if card.bases and not any(map(_is_untuned, called)):
        return "unknown", f"its model card says that it was made from {card.bases[0]}"
    return "untuned", ""


@dataclass(frozen=True)
class _Card:
    """A folder's model card, as far as it tells of an origin."""

    title: str
    names: list[str]
    bases: list[str]
    tags: list[str]

    @staticmethod
    def of(folder: Path) -> _Card:
        text = _head(folder / "README.md")
        front = found[1] if (found := re.match(r"\s*---\n(.*?)\n---", text, re.DOTALL)) else ""
        return _Card(
            _title(text.replace(front, "", 1)), *(_listed(front, key) for key in ("name", "base_model", "tags"))
        )


def _has_verified_prompt(folder: Path, config: Mapping[str, Any]) -> bool:
    prompts = _json(folder / "config_sentence_transformers.json").get("prompts")
    said = " ".join(map(str, prompts.values())) if isinstance(prompts, dict) else ""
    return "Represent the user's input." in said and config.get("model_type") == "qwen3_vl"


def _sign_of_tuning(folder: Path, config: Mapping[str, Any], tags: Sequence[str], model_class: str) -> str:
    """Return the sign that a folder was tuned, or nothing."""
    for file in _LEFT_BY_TUNING:
        if (folder / file).exists():
            return f"it has {file}"
    if config.get("auto_map"):
        return "its config.json asks for code of its own"
    architectures = config.get("architectures")
    if isinstance(architectures, list) and architectures and architectures[0] != model_class:
        return f"its config.json names the class {architectures[0]}"
    origin = str(config.get("_name_or_path") or "")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", origin) and not (_is_untuned(origin) or _is_verified(origin)):
        return f"its config.json says that it was made from {origin}"
    return "its model card says that it is for sentence-transformers" if "sentence-transformers" in tags else ""


def _is_verified(name: str) -> bool:
    return name.rpartition("/")[2].lower() in (verified.rpartition("/")[2].lower() for verified in VERIFIED)


def _is_untuned(name: str) -> bool:
    """Tell whether a hub name, or its last part, is that of a model as its makers published it."""
    owner, _, part = name.lower().rpartition("/")
    return owner in _PUBLISHERS or re.fullmatch(_UNTUNED, part) is not None


def _hub_name(name: str, folder: Path) -> str:
    """`owner/name` of a folder that was found by its hub name, lies in the hub's cache or was cloned; else nothing."""
    for place in (folder, folder.resolve()):
        if snapshot := snapshot_of(place):
            return snapshot.name
    remote = _head(folder / ".git" / "config")
    if cloned := re.search(
        r"url\s*=\s*\S*?\b(?:huggingface|hf)\.co[/:]([\w.-]+/[\w.-]+?)(?:\.git)?/?\s*$", remote, re.M
    ):
        return cloned[1]
    found = re.fullmatch(r"([\w.-]+/[\w.-]+)(@.*)?", name)
    return found[1] if found and Path(name).absolute() != folder.absolute() else ""


def _names_in_files(folder: Path) -> Iterator[tuple[str, str]]:
    """(file, name) of what JSON files name (classes, origins, processors), and of Python files and their classes."""
    for file in _NAMING:
        said = _json(folder / file)
        for each in _strings([said.get(key) for key in _NAMING_KEYS] if file != "modules.json" else said):
            yield f"its {file}", each
    for path in sorted(folder.glob("*.py")):
        for each in (path.stem, *re.findall(r"^class (\w+)", _head(path), re.MULTILINE)):
            yield f"its {path.name}", each


def _strings(value: Any) -> Iterator[str]:
    """All strings in a value of JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _strings(each)


def _listed(front: str, key: str) -> list[str]:
    """The value of a key of a model card's front matter, or its values where they are a list."""
    found = re.search(rf"^[ -]*{key}:[ \t]*(.*(?:\n[ \t]*-[ \t].*)*)", front, re.MULTILINE)
    pieces = re.split(r"[\n,\[\]]", found[1]) if found else []
    return [text for piece in pieces if (text := re.sub(r"^\s*-\s", "", piece).strip().strip("'\""))]


def _title(text: str) -> str:
    """The name in the first heading of a model card; nothing for a heading that is a sentence."""
    found = re.search(r"^#+[ \t]+(.+)$|<(?:h1|b)\b[^>]*>([^<]+)<", text, re.MULTILINE)
    name = re.split(r"[:,|(]", found[1] or found[2])[0].strip() if found else ""
    return name if len(name.split()) <= 3 else ""


def _json(path: Path) -> dict[str, Any]:
    """Read a JSON file, as far as it tells of an origin: nothing when it cannot be read."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {"": said}


def _head(path: Path) -> str:
    """The beginning of a text file; nothing when it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_HEAD).decode("utf-8", errors="replace").replace("\r\n", "\n")
    except OSError:
        return ""
