"""Recipes: what files say, what single keys change, and words for what they cannot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tsembed_search.errors import UsageError
from tsembed_search.trainer import recipe
from tsembed_search.trainer.preparation import dry_run, shrunk
from tsembed_search.trainer.settings import TABLES, Recipe

FULL_SCALE = ("mmeb-qwen2vl-2b", "mmeb-qwen2vl-2b-lora", "mmeb-qwen3vl-emb-2b", "pdf-qwen2vl-2b")


@pytest.mark.parametrize("name", recipe.RECIPES.names())
def test_each_recipe(name: str) -> None:
    found = recipe.load(name)
    assert found.name == name and found.about.endswith(".")
    assert recipe.from_json(json.loads(json.dumps(recipe.to_json(found)))) == found
    full = {"memory", "time_one_gpu", "time_eight_gpus", "command_one_gpu", "command_eight_gpus"}
    assert set(found.expected) == (full if name in FULL_SCALE else set())
    for key, value in found.expected.items():
        wanted = [f"--recipe {name} "] if key.startswith("command") else ["estimated", "computed"]
        assert any(words in value for words in wanted)


def test_the_six_of_the_comparison_differ_in_what_they_are_named_for() -> None:
    found = {name: recipe.load(name) for name in ("lora", "moe", "moe-eans", "tsembed", "shuffled", "similarity")}
    whole = found["tsembed"]
    assert whole == Recipe(about=whole.about), "the whole method is the defaults"
    for name, one in found.items():
        for table in ("data", "model", "optimizer", "batch", "run"):
            assert getattr(one, table) == getattr(whole, table), f"{name} trains otherwise, too"
    adapter = found["lora"].adapter
    assert adapter.experts * adapter.rank == whole.adapter.experts * whole.adapter.rank
    assert adapter.alpha / adapter.rank == whole.adapter.alpha / whole.adapter.rank
    weightings = {name: one.negatives.weighting for name, one in found.items()}
    assert (weightings["shuffled"], weightings["similarity"]) == ("shuffled", "llave")
    assert {weightings[name] for name in ("tsembed", "moe-eans")} == {"eans"}
    assert {weightings[name] for name in ("lora", "moe")} == {"none"}
    switches = {name: one.stages.switch for name, one in found.items()}
    assert switches["moe"] == switches["lora"] == 1 and switches["moe-eans"] == 0 and switches["shuffled"] == 0.3


def test_files_extend_files(tmp_path: Path) -> None:
    (tmp_path / "parent.toml").write_text('extends = "moe"\n[run]\nsteps = 7\n[loss]\nmargin = 0.5\n')
    child = tmp_path / "child.toml"
    child.write_text('extends = "parent.toml"\nabout = "mine"\n[data.weights]\n"emoji_*" = 2\n[run]\nseed = 3\n')
    found = recipe.load(str(child), ["loss.margin=none", "dimensions=[64, 128]", "switch=auto"])
    assert (found.run.steps, found.run.seed, found.loss.margin) == (7, 3, None)
    assert found.loss.dimensions == (64, 128) and found.stages.switch == "auto"
    assert found.negatives.weighting == "none" and found.data.weights == {"emoji_*": 2.0}
    assert (found.name, found.about) == ("child", "mine")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[adaptr]\nrank = 1", "unknown key, adaptr"),
        ("[adapter]\nrnak = 1", "unknown key, adapter.rnak. Did you mean rank"),
        ("rank = 1", "unknown key, rank. Did you mean adapter.rank"),
        ("[adapter]\nrank = 1.5", "adapter.rank cannot be 1.5. It takes a whole number"),
        ("[adapter]\nrank = true", "adapter.rank cannot be True"),
        ("[adapter]\nlevel = 'word'", "It takes token, sequence"),
        ("[stages]\nswitch = 'soon'", "a number or auto"),
        ("[loss]\ndimensions = 64", "It takes a list"),
        ("[loss]\ntemperature = 0", "loss.temperature cannot be 0. Use 0.0001 or more"),
        ("[data]\nweights = 3", "a table of names"),
        ("adapter = 3", "adapter is not a table"),
        ("[adapter", "is not TOML"),
        ('extends = "mine.toml"', "extends itself"),
        ('extends = "nowhere.toml"', "no recipe 'nowhere.toml'"),
    ],
)
def test_refusals(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=words):
        recipe.load(str(file))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("steps", "sets nothing"),
        ("=3", "sets nothing"),
        ("stepz=3", "no key stepz. Did you mean run.steps"),
        ("run.stepz=3", "Did you mean steps?"),
        ("ran.steps=3", "no table ran. Did you mean run.steps"),
        ("temperature=3", "adapter.temperature or loss.temperature"),
        ("steps=many", "run.steps cannot be 'many'"),
    ],
)
def test_overrides_that_are_refused(override: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        recipe.load("tsembed", [override])


def test_every_key_is_documented() -> None:
    """`docs/training.md` lists each key with its default."""
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text("utf-8")
    for table in TABLES:
        for key, value in recipe.to_json(Recipe())[table].items():
            shown = "[]" if value in ((), {}) else json.dumps(value).strip('"').replace("null", "none")
            assert f"| `{table}.{key}` | {shown} |" in page


@pytest.mark.usefixtures("one_block")
def test_walking_through_a_recipe() -> None:
    """On mini; a test of the command walks through a full-scale one."""
    walked, report = dry_run(recipe.load("tsembed"))
    assert (report.steps, report.stage_switch, report.reason) == (4, 3, "finished")
    assert report.validation is not None and report.before is not None and report.route_weight is not None
    assert walked.negatives == recipe.load("tsembed").negatives
    assert shrunk(recipe.load("lora")).stages.switch == 1
