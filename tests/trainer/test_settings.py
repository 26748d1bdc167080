"""Every number that a recipe can set has a range, and what is set in vain is said."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from types import UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

import pytest
from annotated_types import Interval

from tsembed_search.errors import ModelError, UsageError
from tsembed_search.trainer import recipe, settings
from tsembed_search.trainer.settings import TABLES, Recipe, Situation, without_effect


def bare(hint: Any) -> bool:
    """Whether a type holds numbers without bounds."""
    origin = get_origin(hint)
    if origin is Annotated:
        return get_args(hint)[0] is not str and not isinstance(get_args(hint)[1], Interval)
    return hint in (int, float) or (origin is not Literal and any(bare(one) for one in get_args(hint)))


def allowed(hint: Any) -> Iterator[tuple[Interval, type, Any]]:
    """The bounds within a type, the kind of number, and how to wrap a number so that it suits the setting."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        if inner[0] is not str:
            yield inner[1], inner[0], lambda value: value
    elif origin is tuple:
        yield from ((span, kind, lambda value: [value]) for span, kind, _ in allowed(inner[0]))
    elif origin is Mapping:
        yield from ((span, kind, lambda value: {"some*": value}) for span, kind, _ in allowed(inner[1]))
    elif origin in (Union, UnionType):
        for one in inner:
            yield from allowed(one)


SETTINGS = [
    (f"{table}.{name}", hint)
    for table in TABLES
    for name, hint in get_type_hints(type(getattr(Recipe(), table)), include_extras=True).items()
]
NUMBERS = [(key, found) for key, hint in SETTINGS for found in allowed(hint)]


def set_to(key: str, value: Any) -> Recipe:
    table, _, name = key.partition(".")
    return recipe.apply(Recipe(), {table: {name: value}})


def test_no_number_without_a_range() -> None:
    assert [key for key, hint in SETTINGS if bare(hint)] == []
    assert len(NUMBERS) > 40
    assert {field.name for field in fields(Recipe)} == {"name", "about", "expected", *TABLES}


@pytest.mark.parametrize(("key", "found"), NUMBERS, ids=[key for key, _ in NUMBERS])
def test_beyond_its_range_a_number_is_refused(key: str, found: tuple[Interval, type, Any]) -> None:
    """Too small, too large, not a number, and what only looks like one: each names the key and what to use."""
    span, kind, wrapped = found
    least = cast(float, span.ge if span.gt is None else span.gt)
    most = cast(float, span.le if span.lt is None else span.lt)
    smaller = [-1, -(10**400)] if least == 0 else [0, -1, least / 2]
    larger: list[Any] = [] if math.isinf(most) else [10**400, most * 2, math.inf]
    for value in [*smaller, *larger, -math.inf, math.nan, True, "many", "", [], {"a": 1}]:
        if wrapped(value) in ({"some*": []}, [[]]):
            continue
        given = int(value) if kind is int and isinstance(value, float) and math.isfinite(value) else value
        with pytest.raises(UsageError, match=key.replace(".", r"\.")) as caught:
            set_to(key, wrapped(given))
        assert caught.value.exit_code == 2 and caught.value.hint


@pytest.mark.parametrize(("key", "found"), NUMBERS, ids=[key for key, _ in NUMBERS])
def test_made_by_hand_it_is_refused_as_well(key: str, found: tuple[Interval, type, Any]) -> None:
    table, _, name = key.partition(".")
    wrapped = found[2](math.nan)
    with pytest.raises((UsageError, ModelError), match=name):  # the model's own settings refuse some at once
        part = replace(getattr(Recipe(), table), **{name: tuple(wrapped) if isinstance(wrapped, list) else wrapped})
        settings.check(replace(Recipe(), **{table: part}))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.validation=1.5"], "data.validation.*a share below 1, or a whole number of rows"),
        (["warmup=2.5"], "optimizer.warmup.*whole number of steps"),
        (["adapter.top_k=9"], "The table adapter.*A gate cannot choose 9 of 4 experts.*top_k.*from 1 to 4"),
        (["projections=[]"], "adapter.*no projections"),
        (["blocks=[]"], "adapter.*no blocks"),
        (["dimensions=[64, 64]"], "loss.dimensions.*once"),
        (["loss.scope=task", "sub_batch=1"], "batch.sub_batch.*2 or more"),
        (["learn_temperature=true", "loss.temperature=0.005"], "loss.temperature.*0.01 or more"),
        (["optimizer.learning_rate=0.01", "weight_decay=150"], "weight_decay.*100 or less"),
        (["spike=1"], "run.spike.*above 1, or 0"),
        (["base="], "model.base"),
        (["data.only=['']"], "data.only"),
    ],
)
def test_values_that_do_not_go_together(overrides: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        recipe.load("tsembed", overrides)


@pytest.mark.parametrize(
    "override", ["task_temperature=inf", "spike=0", "loss.temperature=0.005", "validation=0.5", "clip=0"]
)
def test_values_at_the_edge_are_taken(override: str) -> None:
    assert recipe.load("tsembed", [override])


class TestIdle:
    met = Situation(experts=4, projector=False, dim=384, most=100, measured=True)

    @pytest.mark.parametrize(
        ("name", "overrides", "met", "words"),
        [
            ("lora", ["beta=2"], {}, "negatives.beta has no effect: stage 2 never begins"),
            ("moe", ["switch=0.5", "beta=2"], {}, "negatives.beta has no effect: negatives.weighting is none"),
            ("tsembed", ["negatives.top_k=3"], {}, "negatives.top_k has no effect: negatives.mode = weight"),
            ("tsembed", ["mode=sample", "beta=3"], {}, "negatives.beta has no effect"),
            ("tsembed", ["experts=1", "noise=0.2"], {"experts": 1}, "adapter.noise has no effect: there is one expert"),
            ("tsembed", ["latest=0.2"], {}, "stages.latest has no effect"),
            ("tsembed", ["projector_learning_rate=1"], {}, "optimizer.projector_learning_rate has no effect"),
            ("tsembed", ["sub_batch=128"], {}, "batch.sub_batch has no effect: a batch has 64 rows"),
            ("tsembed", ["batch.size=256"], {}, "batch.size has no effect: no more than 100"),
            ("tsembed", ["patience=3"], {"measured": False}, "run.patience has no effect: nothing is measured"),
            ("tsembed", ["patience=3", "validate_every=0"], {}, "run.patience has no effect: it validates at the end"),
            ("tsembed", ["dimensions=[384]"], {}, "loss.dimensions has no effect: 384 is the whole vector"),
            ("tsembed", ["steps=5", "warmup=9"], {}, "optimizer.warmup has no effect: there are 5 steps"),
        ],
    )
    def test_said(self, name: str, overrides: list[str], met: dict[str, Any], words: str) -> None:
        found = without_effect(recipe.load(name, overrides), recipe.chosen(name, overrides), replace(self.met, **met))
        assert len(found) == 1 and found[0].startswith(words)

    def test_not_said_of_what_a_recipe_brings_along(self) -> None:
        for name in recipe.RECIPES.names():
            assert without_effect(recipe.load(name), recipe.chosen(name), self.met) == []

    def test_said_of_a_recipe_of_ones_own(self, tmp_path: Any) -> None:
        file = tmp_path / "mine.toml"
        file.write_text('extends = "lora"\n[negatives]\nbeta = 5\n')
        assert recipe.chosen(str(file), ["run.steps=3"]) == {"negatives.beta", "run.steps"}
