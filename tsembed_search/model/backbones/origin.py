"""Where a checkpoint comes from, as far as its files tell, and whether the prompt that it was tuned with is known.

An embedder is a language model and the prompt that it was tuned with. With another prompt it loads, runs, and searches
badly without a word. So well-known embedders whose prompt we do not have are refused by name, and any other tuned
checkpoint is warned of. Only JSON files, the model card and the names in Python files are read; no code is run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
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
_MANY_VECTORS = "It makes many vectors for each item, and an index keeps one."
_RERANKER = "It compares pairs; it does not make vectors."
_HEAD = 100_000  # bytes of a Python file or a model card that are looked at
_ADVICE = "Use mini, or Qwen/Qwen3-VL-Embedding-2B, or another whose prompt is known: {known_models()} lists them."


@dataclass(frozen=True)
class Foreign:
    """Models that are refused. `pattern` finds them in hub names, class names and file names, in small letters."""

    name: str
    pattern: str
    why: str = _ONE_VECTOR


# Names as their authors write them, with and without separators: `gme-Qwen2-VL`, `GmeQwen2VL`, `gme_qwen2vl`. `<` is
# where a word begins and `>` where it ends; `\b` would take an underscore for a letter.
FOREIGN: tuple[Foreign, ...] = (
    Foreign("a reranker", r"re-?rank|lamra[-_. ]?rank|monoqwen|forsequenceclassification|forranking", _RERANKER),
    Foreign(
        "a ColPali-like model",
        r"<(ops[-_. ]?)?col[-_. ]?(qwen|pali|smol|idefics|gemma|nomic|phi|intern|flor|lfm|modernvbert|embed)"
        r"|colembed|evoqwen",
        _MANY_VECTORS,
    ),
    Foreign("GME", r"<gme(>|[-_. ]?(qwen|varco|inference|embed))"),
    Foreign("GVE", r"alibaba-nlp/gve|<gve-\d"),
    Foreign("Ops-MM-embedding", r"<ops[-_. ]?mm[-_. ]?embed"),
    Foreign("RzenEmbed", r"<rzen(>|[-_. ]?embed)"),
    Foreign("VLM2Vec", r"<x?vlm2vec"),
    Foreign("LamRA", r"<lamra>|<lamra(qwen|ret)"),
    Foreign("UniME", r"<unime(?![a-z])"),
    Foreign("mmE5", r"<mm-?e5"),
    Foreign("E5-V", r"<e5-?v>|<e5-omni"),
    Foreign("BGE-VL", r"<bge[-_. ]?vl|<mmret|<megapairs"),
    Foreign("jina-embeddings", r"<jina[-_. ]?embeddings|<jina[-_. ]?clip"),
    Foreign("nomic-embed", r"<nomic[-_. ]?embed"),
    Foreign("a model of colpali-engine", r"<bi(qwen|pali|smol|idefics|gemma|modernvbert)"),
    Foreign("MM-Embed", r"<mm[-_. ]?embed"),
    Foreign("LLaVE", r"<llave(?![a-z])"),
    Foreign("B3", r"<b3(\+\+)?[-_]*qwen|raghavlite/b3"),
    Foreign("MoCa", r"<moca[-_. ]?(qwen|embed)"),
    Foreign("UNITE", r"<unite-(base|instruct)-qwen|friedrichor/unite"),
    Foreign("UME-R1", r"<ume-?r1"),
    Foreign("ABC", r"<abc-?qwen"),
    Foreign("DSE", r"<(mc|om)?dse-?(qwen|phi|\d)|-dse>|<qwenamann"),
    Foreign("vdr", r"<vdr-\d"),
    Foreign("OmniEmbed", r"<omni[-_. ]?embed|<tevatron/|<lco-?embedding"),
    Foreign("WeMM-Embedding", r"<wemm"),
    Foreign("QQMM-embed", r"<qqmm"),
    Foreign("Octen", r"<octen"),
    Foreign("Eager-Embed", r"<eager-?embed"),
    Foreign("Seed embedding", r"<seed-?1[.\d]*-?embedding"),
)


@cache
def _patterns() -> list[tuple[Foreign, re.Pattern[str]]]:
    """Compiled when a model is first looked at: most commands never do."""
    return [
        (entry, re.compile(entry.pattern.replace("<", "(?<![a-z0-9])").replace(">", "(?![a-z0-9])")))
        for entry in FOREIGN
    ]


_PUBLISHERS = ("qwen", "huggingfacetb", "huggingfacem4", "llava-hf")
_UNTUNED = (
    r"(qwen(2|2\.5|3)-vl-\d+b(-a\d+b)?(-instruct|-thinking|-base)?"
    r"|smolvlm2?(-[\d.]+[mb])?(-video)?(-base|-instruct|-synthetic)?"
    r"|idefics3-8b-llama3"
    r"|llava-onevision-qwen2-[\d.]+b(-si|-ov|-ov-chat)?-hf)"
    r"(-(awq|gptq|fp8|bf16|int[48]|unsloth|bnb|[48]bit|dynamic))*"
)
_LEFT_BY_TRAINERS = (
    "training_args.bin",
    "trainer_state.json",
    "optimizer.pt",
    "all_results.json",
    "train_results.json",
)
_LEFT_BY_SENTENCE_TRANSFORMERS = (
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "1_Pooling",
)


def refuse_name(name: str) -> None:
    """Raises `UnsupportedModelError` for the hub name of a model that is refused."""
    _refuse(name, [("its hub name", name)])


def prompt_of(name: str, folder: Path, model_class: str) -> tuple[Prompt, str]:
    """Which prompt the transformers model in `folder` is used with and, where that is not known, what tells so.

    `name` is what it was called by; `model_class` is the class that its family should name in config.json. Raises
    `UnsupportedModelError` for a model that is refused.
    """
    clues = _Clues.of(name, folder)
    _refuse(name, clues.names)
    if MADE_HERE in clues.tags:
        return "own", ""
    called = [clues.hub] if clues.hub else [folder.name, folder.resolve().name, clues.title]
    if any(_is_verified(one) for one in called) or (not clues.hub and clues.verified_prompt):
        return "own", ""
    if clues.hub:
        known = _is_untuned(clues.hub)
        return ("untuned", "") if known else ("unknown", "it is not one of the published models of its family")
    if tuned := _signs_of_tuning(folder, clues, model_class):
        return "unknown", tuned
    if clues.bases and not any(map(_is_untuned, called)):
        return "unknown", f"its model card says that it was made from {clues.bases[0]}"
    return "untuned", ""


def warning(name: str, why: str) -> str:
    """A warning, for people, of a model whose prompt is `unknown`; `why` is what `prompt_of` says."""
    return (
        f"Warning: {name} seems to be tuned ({why}), and the prompt that it was tuned with is not known. It gets that "
        "of its untuned family, and may search much worse than it could. Measure it, train it further, or take one "
        "whose prompt is known."
    )


@dataclass(frozen=True)
class _Clues:
    """The clues of a folder about its origin. `hub`: its hub name, where that is certain. `names`: (where it stands,
    name) of all that may name a model. `title`, `tags`, `bases` are the model card's. `verified_prompt`: it brings the
    prompt of a verified model.
    """

    hub: str
    names: list[tuple[str, str]]
    title: str
    tags: frozenset[str]
    bases: list[str]
    verified_prompt: bool
    config: Mapping[str, Any]

    @staticmethod
    def of(name: str, folder: Path) -> _Clues:
        card = _head(folder / "README.md")
        front = found[1] if (found := re.match(r"\s*---\n(.*?)\n---", card, re.DOTALL)) else ""
        bases = _listed(front, "base_model")
        title = _title(card.replace(front, "", 1))
        hub = _hub_name(name, folder)
        config = _json(folder / "config.json")
        names = [("its hub name", hub)] + [("its name", each) for each in (folder.name, folder.resolve().name)]
        names += [("its model card", each) for each in (*bases, *_listed(front, "name"), title)]
        names += [(f"its {file}", each) for file, each in _names_in_json(folder)]
        names += [(f"its {file}", each) for file, each in _names_in_code(folder)]
        prompts = _json(folder / "config_sentence_transformers.json").get("prompts")
        said = " ".join(str(prompt) for prompt in prompts.values()) if isinstance(prompts, dict) else ""
        verified = "Represent the user's input." in said and config.get("model_type") == "qwen3_vl"
        return _Clues(hub, names, title, frozenset(_listed(front, "tags")), bases, verified, config)


def _refuse(name: str, names: list[tuple[str, str]]) -> None:
    for where, each in names:
        for foreign, pattern in _patterns():
            if pattern.search(each.lower()):
                advice = f"{_ADVICE} If it is another model, rename its folder." if where == "its name" else _ADVICE
                raise UnsupportedModelError(
                    f"{name} is not supported: it is {foreign.name} ({where} says {each!r}). {foreign.why}", advice
                )


def _signs_of_tuning(folder: Path, clues: _Clues, model_class: str) -> str:
    """Return the sign that a folder was tuned, or nothing."""
    for file in ("adapter_config.json", *_LEFT_BY_SENTENCE_TRANSFORMERS, *_LEFT_BY_TRAINERS):
        if (folder / file).exists():
            return f"it has {file}"
    if clues.config.get("auto_map"):
        return "its config.json asks for code of its own"
    architectures = clues.config.get("architectures")
    if isinstance(architectures, list) and architectures and architectures[0] != model_class:
        return f"its config.json names the class {architectures[0]}"
    origin = str(clues.config.get("_name_or_path") or "")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", origin) and not (_is_untuned(origin) or _is_verified(origin)):
        return f"its config.json says that it was made from {origin}"
    if "sentence-transformers" in clues.tags:
        return "its model card says that it is for sentence-transformers"
    return ""


def _is_verified(name: str) -> bool:
    part = name.lower().rpartition("/")[2]
    return any(part == verified.lower().rpartition("/")[2] for verified in VERIFIED)


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


def _names_in_json(folder: Path) -> Iterator[tuple[str, str]]:
    """(file, name) of the classes, origins and processors that a folder's JSON files name."""
    keys = ("model_type", "_name_or_path", "name_or_path", "base_model_name_or_path", "processor_class")
    nested = ("architectures", "auto_map", "auto_mapping")
    for file in ("config.json", "adapter_config.json", *_PROCESSOR_FILES):
        said = _json(folder / file)
        for key in (*keys, *nested):
            for each in _strings(said.get(key)):
                yield file, each
    for each in _strings(_json(folder / "modules.json")):
        yield "modules.json", each


_PROCESSOR_FILES = ("tokenizer_config.json", "preprocessor_config.json", "processor_config.json")


def _names_in_code(folder: Path) -> Iterator[tuple[str, str]]:
    """(file, name) of a folder's Python files and of the classes in them."""
    for path in sorted(folder.glob("*.py")):
        yield path.name, path.stem
        for each in re.findall(r"^class (\w+)", _head(path), re.MULTILINE):
            yield path.name, each


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
