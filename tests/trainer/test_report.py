"""The report of a run: whole, self-contained, and safe to open."""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest

from helpers.run_records import records, write_log
from tsembed_search.trainer import report
from tsembed_search.trainer.plots import COLOURS, Line, Mark, heat_map, installed, lines

SVG = "{http://www.w3.org/2000/svg}"
pytestmark = pytest.mark.usefixtures("plots")
needs_matplotlib = pytest.mark.skipif(not installed(), reason="needs matplotlib")


class Page(HTMLParser):
    """Tags with attributes, text, and drawings of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def drawings(html: str) -> list[ElementTree.Element]:
    """The drawings, each as XML, which is stricter than HTML."""
    return [ElementTree.fromstring("<svg" + part.split("</svg>")[0] + "</svg>") for part in html.split("<svg")[1:]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run with all that can be drawn."""
    return report.write(write_log(tmp_path_factory.mktemp("runs") / "run", records()))


@needs_matplotlib
def test_report_has_every_plot_and_table(whole: Path) -> None:
    assert whole.parts[-2:] == ("run", "report.html")
    html = whole.read_text("utf-8")
    titles = [svg.attrib["aria-label"] for svg in drawings(html)]
    for title in (
        "Loss",
        "Loss: balance",
        "Validation, mean over tasks",
        "Validation hit@1 per task, over steps",
        "Load of each expert over steps",
        "Use of experts per task (bBeE: expert E of block B)",
        "Cosine between the tasks' gradients of shared weights (below zero: conflict)",
        "Cosines",
        "Learning rates",
        "Expert reranking: MRR by lambda",
        "Memory at its peak, GB",
    ):
        assert title in titles, title
    assert "Loss: z" not in titles  # was never measured
    text = " ".join(" ".join(Page(html).words).split())
    for words in (
        "finished",
        "hit@1 0.625 at step 4",
        "seed 0",
        "+0.250",
        "3 rows could not be used",
        "routing entropy has settled",
    ):
        assert words in text, words


def test_report_needs_nothing_and_runs_nothing(whole: Path) -> None:
    html = whole.read_text("utf-8")
    page = Page(html)
    assert {"script", "link", "img", "iframe", "object", "image", "foreignobject"}.isdisjoint(
        tag for tag, _ in page.tags
    )
    assert not [attributes for _, attributes in page.tags if {"src", "href", "onload"} & attributes.keys()]
    assert all(attributes["xlink:href"].startswith("#") for tag, attributes in page.tags if "xlink:href" in attributes)
    assert html.count("url(") == html.count("url(#") and "@import" not in html and "<metadata" not in html
    assert "<script" not in html and "<!DOCTYPE svg" not in html
    assert "default-src 'none'" in html
    # what the data says is shown, and is not markup
    assert "<script>alert(1)</script>" in " ".join(page.words)
    assert "\x1b" not in html and "\u202e" not in html


def test_a_run_that_has_hardly_begun_has_a_report(tmp_path: Path) -> None:
    for count in range(4):
        html = report.write(write_log(tmp_path / str(count), records()[:count])).read_text("utf-8")
        assert "</html>" in html
        assert "not finished" in html
    bare = [
        {"kind": "step", "step": 1, "loss": None, "expert_load": None},
        {"kind": "validation", "step": 1, "tasks": {}},
    ]
    report.write(write_log(tmp_path / "bare", bare))


def test_a_last_line_cut_short_is_left_out(tmp_path: Path) -> None:
    write_log(tmp_path, records()[:4])
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"kind": "note", "mess')
    assert "</html>" in report.write(tmp_path).read_text("utf-8")


def test_without_matplotlib_the_page_has_its_tables_and_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)
    html = report.write(write_log(tmp_path, records())).read_text("utf-8")
    text = " ".join(Page(html).words)
    assert "<svg" not in html and "pip install 'tsembed-search[report]'" in text
    assert "+0.250" in text and "routing entropy has settled" in text and "3 rows could not be used" in text
    assert "Negatives" not in text  # would be plots only


def test_a_page_is_the_same_each_time_whatever_the_user_set(whole: Path) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    first = whole.read_bytes()
    with matplotlib.rc_context({"svg.hashsalt": None, "svg.fonttype": "path", "font.size": 30, "lines.linewidth": 9}):
        assert report.write(whole.parent).read_bytes() == first
        assert matplotlib.rcParams["font.size"] == 30


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def strokes(svg: str, colour: str) -> list[list[tuple[float, float]]]:
    """The points of each line of that colour."""
    return [
        [(float(x), float(y)) for x, y in re.findall(r"[ML] (\S+) (\S+)", element.attrib["d"])]
        for element in ElementTree.fromstring(svg).iter(f"{SVG}path")
        if f"stroke: {colour}" in element.attrib.get("style", "")
    ]


def fills(svg: str) -> list[str]:
    """The colour of each cell."""
    styles = [element.attrib.get("style", "") for element in ElementTree.fromstring(svg).iter(f"{SVG}path")]
    return [found[1] for style in styles if (found := re.fullmatch(r"fill: (#\w{6})", style))]


@needs_matplotlib
def test_lines_are_where_the_values_are() -> None:
    svg = lines("t", [Line("a", [(0.0, 1.0), (10.0, 3.0)]), Line("b", [(4.0, 2.0), (5.0, 2.0)])])
    (x1, y1), (x2, y2) = strokes(svg, COLOURS[0])[0]
    x3, y3 = strokes(svg, COLOURS[1])[0][-1]
    assert x1 < x3 < x2 and y1 > y3 > y2  # up is smaller in SVG
    assert abs((x1 + x2) / 2 - x3) < 0.2 and abs((y1 + y2) / 2 - y3) < 0.2
    assert {"a", "b", "t", "step"} <= set(texts(svg))
    assert lines("nothing", [Line("a", [])]) == ""


@needs_matplotlib
def test_long_lines_are_drawn_as_means() -> None:
    (line, *_) = strokes(lines("t", [Line("a", [(float(x), float(x % 2)) for x in range(5000)])]), COLOURS[0])
    assert 100 < len(line) <= 300
    heights = [y for _, y in line]
    single = strokes(lines("t", [Line("a", [(0.0, 0.0), (1.0, 1.0)])]), COLOURS[0])[0]
    assert max(heights) - min(heights) <= abs(single[0][1] - single[1][1])


@needs_matplotlib
@pytest.mark.parametrize("value", [0.0, 5.0, -3.0, 1e-9, 1e12])
def test_a_constant_can_be_drawn(value: float) -> None:
    ((_, left), (_, right)) = strokes(lines("t", [Line("a", [(1.0, value), (2.0, value)])]), COLOURS[0])[0]
    assert left == right


@needs_matplotlib
def test_heat_maps_have_a_cell_for_each_value() -> None:
    svg = heat_map("t", ["a", "b"], ["x", "y", "z"], [[0, 0.5, 1], [-1, None, 1]], low=-1, high=1, signed=True)
    cells = fills(svg)[:6]
    assert cells[0] == "#ffffff" and cells[2] == cells[5] != cells[1] and cells[4] == "#999999"
    assert [text for text in texts(svg) if re.fullmatch(r"-?\d\.\d\d", text)] == [
        "0.00",
        "0.50",
        "1.00",
        "-1.00",
        "1.00",
    ]
    assert "nan" not in svg
    wide = heat_map("t", ["a"], [str(n) for n in range(400)], [[0.5] * 400], low=0, high=1, groups=8)
    assert width_and_height(wide)[0] < 850


@needs_matplotlib
def test_many_rows_stay_on_a_screen_and_are_not_all_labelled() -> None:
    svg = heat_map("t", [f"r{n}" for n in range(224)], ["x"], [[0.5]] * 224, low=0, high=1)
    assert width_and_height(svg)[1] < 1000
    assert 50 < sum(text.startswith("r") for text in texts(svg)) < 100


@needs_matplotlib
def test_names_are_text_and_not_formulas() -> None:
    svg = lines("$x^2$ & <b>", [Line("$a_1$ <i>", [(1.0, 1.0)]), Line("_hidden", [(1.0, 2.0)])], [Mark(1.0, "$$ \x1b")])
    assert {"$x^2$ & <b>", "$a_1$ <i>", "_hidden", "$$ \\x1b"} <= set(texts(svg))


def width_and_height(svg: str) -> tuple[float, float]:
    """In points, of which four make three of the browser's pixels."""
    _, _, width, height = map(float, ElementTree.fromstring(svg).attrib["viewBox"].split())
    return width, height
