"""The words that a misspelt one may mean."""

from __future__ import annotations

import pytest

from tsembed_search.ranking.spelling import may_be_misspelt, respellings


@pytest.mark.parametrize(
    ("typed", "meant", "group"),
    [
        ("recieve", "receive", 0),
        ("adress", "address", 0),
        ("harrbour", "harbour", 0),
        ("harbur", "harbour", 1),
        ("harbxour", "harbour", 1),
        ("harbpur", "harbour", 1),
        ("garbour", "harbour", 2),
        ("arbour", "harbour", 2),
        ("xharbour", "harbour", 2),
        ("ахрив", "архив", 0),
        ("договр", "договор", 1),
        ("τιμολογο", "τιμολογιο", 1),
        ("bycicle", "bicycle", 3),
        ("tommorow", "tomorrow", 3),
        ("acommodate", "accommodate", 0),
        ("accomodatte", "accommodate", 3),
    ],
)
def test_the_meant_word_is_in_its_group(typed: str, meant: str, group: int) -> None:
    groups = respellings(typed)
    assert meant in groups[group]
    assert sum(own.count(meant) for own in groups) == 1
    assert all(typed not in own for own in groups)


def test_any_two_slips_are_too_many() -> None:
    assert not any("harbour" in own for own in respellings("habur"))
    assert not any("bicycle" in own for own in respellings("bycikle"))


def test_a_wrong_figure_is_another_number() -> None:
    assert may_be_misspelt("recieve")
    assert not any(map(may_be_misspelt, ("01013", "b2b4c", "0x80f7a5", "the", "東京の駅", "")))


def test_no_word_twice() -> None:
    words = [one for own in respellings("bookkeeper") for one in own]
    assert len(words) == len(set(words)) > 500
