"""The filter language: what is read, what it means, and how mistakes are explained."""

from __future__ import annotations

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsembed_search.errors import UsageError
from tsembed_search.search.where import parse_where
from tsembed_search.store.filters import (
    And,
    Condition,
    Filter,
    Not,
    Or,
    all_of,
    lookup,
    matches,
    path_keys,
    path_matches,
)

NOW = datetime(2024, 3, 15, 12, 0).astimezone()


def local(*when: int) -> float:
    return datetime(*when).timestamp()  # type: ignore[arg-type]


def picture(*paths: str, mtime: float = 0.0, **more: object) -> dict[str, object]:
    places = [{"path": path, "ext": path.rpartition(".")[2], "mtime": mtime} for path in paths]
    return {"kind": "image", "places": places, "page": None, **more}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kind=image", Condition("kind", "=", "image")),
        ("KIND == Image", Condition("kind", "=", "image")),
        ("kind!=text", Condition("kind", "!=", "text")),
        ("kind in (image, page)", Condition("kind", "in", ("image", "page"))),
        ("kind not in (image,page)", Not(Condition("kind", "in", ("image", "page")))),
        ('path~"holiday/*.jpg"', Condition("path", "~", "holiday/*.jpg")),
        ("path!~*.tmp", Not(Condition("path", "~", "*.tmp"))),
        ('path="/say ""hi"".txt"', Condition("path", "=", '/say "hi".txt')),
        ("path='/it''s.txt'", Condition("path", "=", "/it's.txt")),
        ("ext=.PDF", Condition("ext", "=", "pdf")),
        ("page<=3", Condition("page", "<=", 3)),
        ("expert in (b3e5)", Condition("expert", "in", ("b3e5",))),
        ("modified>=30d", Condition("modified", ">=", NOW.timestamp() - 30 * 86400)),
        ("modified<@1706659200", Condition("modified", "<", 1706659200.0)),
        ("modified<2024-01-31", Condition("modified", "<", local(2024, 1, 31))),
        ("modified<=2024-01-31", Condition("modified", "<", local(2024, 2, 1))),
        ("modified>2023", Condition("modified", ">=", local(2024, 1, 1))),
        ("modified>2024-12", Condition("modified", ">=", local(2025, 1, 1))),
        ("modified>2024-01-31T10:30", Condition("modified", ">=", local(2024, 1, 31, 10, 31))),
        ("modified>2024-01-31T10:30:05Z", Condition("modified", ">=", 1706697006.0)),
        ("modified>=yesterday", Condition("modified", ">=", local(2024, 3, 14))),
        (
            "modified=today",
            And((Condition("modified", ">=", local(2024, 3, 15)), Condition("modified", "<", local(2024, 3, 16)))),
        ),
        (
            "kind=image and not (page=1 or page=2) and ext=png",
            And(
                (
                    Condition("kind", "=", "image"),
                    Not(Or((Condition("page", "=", 1), Condition("page", "=", 2)))),
                    Condition("ext", "=", "png"),
                )
            ),
        ),
        (
            "page=1 or page=2 and kind=page",
            Or((Condition("page", "=", 1), And((Condition("page", "=", 2), Condition("kind", "=", "page"))))),
        ),
    ],
)
def test_reads(text: str, expected: Filter) -> None:
    assert parse_where(text, NOW) == expected


@pytest.mark.parametrize(
    ("text", "position", "words"),
    [
        ("", 1, "expected a field"),
        ("kidn=image", 1, "Did you mean kind"),
        ("mtime>3d", 1, "Did you mean modified"),
        ("kind=imgae", 6, "did you mean image"),
        ("kind<image", 5, "kind does not take <"),
        ("ext~jp*", 4, "ext does not take ~"),
        ("page>=first", 7, "not a page number"),
        ("page=99999999999999999999", 6, "not a page number"),
        ("modified>soon", 10, "not a date"),
        ("modified>monday", 10, "not a date"),
        ("modified>2024-13-01", 10, "not a date"),
        ("modified>9999-12-31", 10, "not a date"),
        ("modified>@1e400", 10, "not a date"),
        ("kind=image ext=png", 12, "`and` or `or`"),
        ("(kind=image", 12, "character 1 is not closed"),
        ("kind=image)", 11, "a ) too many"),
        ("kind in image", 9, "expected ("),
        ("kind in (image page)", 16, "expected , or )"),
        ("path='/a b", 6, "closing quote"),
        ("path=''", 6, "a path cannot be empty"),
        ("kind=image and", 15, "expected a field"),
        ("kind", 5, "expected =, != or in"),
        ("not " * 1000 + "page=1", 161, "inside each other"),
    ],
)
def test_mistakes_are_explained(text: str, position: int, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_where(text)
    assert words in str(caught.value)
    assert f"at character {position}:" in caught.value.message
    assert caught.value.hint


def test_home_and_current_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.chdir("/")
    assert parse_where("path~~/pics/*.png") == Condition("path", "~", "/home/me/pics/*.png")
    assert parse_where("path~./tmp/") == Condition("path", "~", "/tmp/")


def test_bytes_that_are_no_text_are_spelled_as_in_the_index() -> None:
    assert parse_where("path=/a\udcff.txt") == Condition("path", "=", "/a\\udcff.txt")


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("holiday/*.jpg", "/pics/holiday/a.jpg", True),
        ("holiday/*.jpg", "/pics/holiday/2019/a.jpg", False),
        ("holiday/*.jpg", "/pics/my-holiday/a.jpg", False),
        ("holiday/**/*.jpg", "/pics/holiday/2019/05/a.jpg", True),
        ("holiday/**/*.jpg", "/pics/holiday/a.jpg", True),
        ("**/holiday", "/pics/holiday/a.jpg", True),
        ("holiday", "/pics/holiday/2019/a.jpg", True),
        ("holiday", "/pics/holidays/a.jpg", False),
        ("holiday/", "/pics/holiday", False),
        ("holiday/**", "/pics/holiday", False),
        ("*holiday*", "/pics/my-holidays/a.jpg", True),
        ("*.jpg", "/pics/a.jpg", True),
        ("*.jpg", "/pics/a.JPG", False),
        ("a.jpg", "/pics/a.jpg", True),
        ("/pics", "/pics/a.jpg", True),
        ("/pics/*", "/pics/holiday/a.jpg", True),
        ("/holiday", "/pics/holiday/a.jpg", False),
        ("/**/a.jpg", "/pics/holiday/a.jpg", True),
        ("/", "/pics/a.jpg", True),
        ("**", "/pics/a.jpg", True),
        ("C:/pics/*.png", "C:/pics/a.png", True),
        ("img_[0-9]?.png", "/img_12.png", True),
        ("img_[!0-9].png", "/img_1.png", False),
        ("what[?].txt", "/what?.txt", True),
        ("new\nline*", "/new\nline.txt", True),
    ],
)
def test_path_patterns(pattern: str, path: str, expected: bool) -> None:
    assert path_matches(pattern, path) is expected
    if expected:
        assert all(text in path for text in lookup(pattern).texts)


@given(pattern=st.text(alphabet="ab/*?[]!.-", min_size=1, max_size=12), path=st.text(alphabet="ab/.-", max_size=12))
def test_an_index_finds_every_path_that_a_pattern_matches(pattern: str, path: str) -> None:
    keys, wanted = path_keys(f"/{path}"), lookup(pattern)
    found = all(keys.intersection(choice) for choice in wanted.keys)
    found = found and all(any(text in key for key in keys) for text in wanted.texts)
    if path_matches(pattern, f"/{path}"):
        assert found
    elif wanted.exact:
        assert not found


@given(text=st.text(alphabet="ab/.-*", min_size=1, max_size=4), path=st.text(alphabet="ab/.-*", max_size=12))
def test_what_a_path_contains_one_of_its_keys_contains(text: str, path: str) -> None:
    assert (text in f"/{path}") == any(text in key for key in path_keys(f"/{path}"))


def test_keys_of_paths_and_patterns() -> None:
    assert path_keys("/pics/2019/a.jpg") == {
        *("/", "/pics/", "/pics/2019/", "pics/", "2019/", "a.jpg", "/pics/2019/a.jpg"),
    }
    assert path_keys("C:/a.jpg") == {"C:/", "a.jpg", "C:/a.jpg"}
    assert lookup("holiday") == ([["holiday", "holiday/"]], [], True)
    assert lookup("holiday/") == lookup("holiday/**") == ([["holiday/"]], [], True)
    assert lookup("/pics/2019") == ([["/pics/2019", "/pics/2019/"]], [], True)
    assert lookup("/") == ([["/"]], [], True)
    assert lookup("*holiday*") == ([], ["holiday"], True)
    assert lookup("2019/*.jpg") == ([["2019/"]], [".jpg"], False)
    assert lookup("/pics/2019/*.jpg") == ([["/pics/2019/"]], [".jpg"], False)
    assert lookup("/pics/holiday/**/a.jpg") == ([["/pics/holiday/"], ["a.jpg", "a.jpg/"]], [], False)
    assert lookup("/*/b/c?/") == ([["b/"]], [], False)
    assert lookup("*.jpg") == ([], [".jpg"], False)


def test_one_place_is_enough() -> None:
    twice = picture("/pics/a.jpg", "/backup/a.jpeg", mtime=100.0)
    assert matches(parse_where("path~backup"), twice)
    assert matches(parse_where("ext=jpg and ext=jpeg"), twice)
    assert not matches(parse_where("ext!=jpg"), twice), "`!=` is `not =`: one of its places is a jpg"
    assert matches(parse_where("modified<=@100"), twice)


def test_a_relative_path_is_a_tail() -> None:
    assert matches(parse_where("path=holiday/a.jpg"), picture("/pics/holiday/a.jpg"))
    assert not matches(parse_where("path=day/a.jpg"), picture("/pics/holiday/a.jpg"))
    assert not matches(parse_where("path=/holiday/a.jpg"), picture("/pics/holiday/a.jpg"))


def test_what_is_missing_satisfies_nothing_but_a_negation() -> None:
    without_page = picture("/a.jpg")
    assert not matches(parse_where("page<100"), without_page)
    assert matches(parse_where("page!=3"), without_page)
    assert not matches(parse_where("expert=b1e1"), without_page)
    assert matches(parse_where("expert=b1e1"), picture("/a.jpg", top_experts=["b0e2", "b1e1"]))


def test_nothing_and_everything() -> None:
    assert matches(None, {})
    assert matches(And(()), {})
    assert not matches(Or(()), {})
    assert all_of([]) is None
    assert all_of([None, Condition("page", "=", 1)]) == Condition("page", "=", 1)
    assert (
        str(all_of([parse_where("page=1 and kind=page"), parse_where("ext=pdf")])) == "page=1 and kind=page and ext=pdf"
    )


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        where = parse_where(text)
    except UsageError:
        return
    assert parse_where(str(where)) == where


WORDS = st.sampled_from(
    ["kind", "path", "ext", "page", "modified", "expert", "and", "or", "not", "in", "(", ")", ",", "=", "!=", "<", ">=",
     "~", "image", "text", "3", "30d", "2024-01", "@1e5", "'a b'", '"', "*.jpg", "\x00", "\udc80", "9" * 30]
)  # fmt: skip


@given(st.lists(WORDS, max_size=12), st.sampled_from([" ", ""]))
def test_any_words_are_read_or_refused(words: list[str], between: str) -> None:
    test_any_text_is_read_or_refused.hypothesis.inner_test(between.join(words))  # type: ignore[attr-defined]


VALUES = st.text(min_size=1, max_size=8).filter(lambda value: "\ud800" not in value and value.strip("/"))
CONDITIONS: st.SearchStrategy[Filter] = st.one_of(
    st.builds(Condition, st.just("kind"), st.sampled_from(["=", "!="]), st.sampled_from(["image", "text", "page"])),
    st.builds(Condition, st.just("expert"), st.just("="), VALUES),
    st.builds(Condition, st.just("sha"), st.just("in"), st.lists(VALUES, min_size=1, max_size=3).map(tuple)),
    st.builds(Condition, st.just("path"), st.just("~"), VALUES.map(lambda value: "/" + value)),
    st.builds(Condition, st.just("page"), st.sampled_from(["<", "<=", ">", ">=", "="]), st.integers(0, 10**8)),
    st.builds(Condition, st.just("modified"), st.sampled_from(["<", ">="]), st.floats(0, 1e11)),
)


def _join(filters: st.SearchStrategy[Filter]) -> st.SearchStrategy[Filter]:
    several = st.lists(filters, min_size=2, max_size=3)
    either = several.map(
        lambda parts: Or(tuple(p for part in parts for p in (part.parts if isinstance(part, Or) else (part,))))
    )
    return st.one_of(several.map(all_of), either, filters.map(Not))


@given(st.recursive(CONDITIONS, _join, max_leaves=8))
def test_a_filter_is_read_back_from_its_text(where: Filter) -> None:
    assert parse_where(str(where)) == where
