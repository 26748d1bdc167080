"""The report of a run: whole, self-contained, and safe to open."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest

from helpers.run_records import records, write_log
from tsembed_search.trainer import report
from tsembed_search.trainer.plots import Line, heat_map, lines, number

SVG = "{http://www.w3.org/2000/svg}"


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


def test_report_has_every_plot_and_table(tmp_path: Path) -> None:
    path = report.write(write_log(tmp_path / "run", records()))
    assert path == tmp_path / "run/report.html"
    html = path.read_text("utf-8")
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
    text = " ".join(Page(html).words)
    for words in (
        "finished",
        "hit@1 0.625 at step 4",
        "+0.250",
        "3 rows could not be used",
        "routing entropy has settled",
    ):
        assert words in text, words


def test_report_needs_nothing_and_runs_nothing(tmp_path: Path) -> None:
    html = report.write(write_log(tmp_path, records())).read_text("utf-8")
    page = Page(html)
    assert {"script", "link", "img", "iframe", "object", "image", "use", "foreignobject"}.isdisjoint(
        tag for tag, _ in page.tags
    )
    assert not [attributes for _, attributes in page.tags if {"src", "href", "onload"} & attributes.keys()]
    assert "url(" not in html and "@import" not in html
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
    write_log(tmp_path, records())
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"kind": "note", "mess')
    assert "</html>" in report.write(tmp_path).read_text("utf-8")


def test_lines_are_where_the_values_are() -> None:
    svg = ElementTree.fromstring(lines("t", [Line("a", [(0.0, 1.0), (10.0, 3.0)]), Line("b", [(5.0, 2.0)])]))
    points = [element.attrib["points"] for element in svg.iter(f"{SVG}polyline")]
    (x1, y1), (x2, y2) = [tuple(map(float, pair.split(","))) for pair in points[0].split()]
    (x3, y3) = map(float, points[1].split(","))
    assert x1 < x3 < x2 and y1 > y3 > y2  # up is smaller in SVG
    assert abs((x1 + x2) / 2 - x3) < 0.2 and abs((y1 + y2) / 2 - y3) < 0.2
    assert lines("nothing", [Line("a", [])]) == ""


def test_long_lines_are_drawn_as_means() -> None:
    svg = ElementTree.fromstring(lines("t", [Line("a", [(float(x), float(x % 2)) for x in range(5000)])]))
    (line,) = svg.iter(f"{SVG}polyline")
    assert len(line.attrib["points"].split()) == 300


@pytest.mark.parametrize("value", [0.0, 5.0, -3.0, 1e-9, 1e12])
def test_a_constant_can_be_drawn(value: float) -> None:
    ElementTree.fromstring(lines("t", [Line("a", [(1.0, value), (2.0, value)])]))
    assert number(value)


def test_heat_maps_have_a_cell_for_each_value() -> None:
    svg = ElementTree.fromstring(
        heat_map("t", ["a", "b"], ["x", "y", "z"], [[0, 0.5, 1], [-1, None, 1]], low=-1, high=1, signed=True)
    )
    cells = list(svg.iter(f"{SVG}rect"))
    assert len(cells) == 6
    colours = [cell.attrib["fill"] for cell in cells]
    # column by column
    assert colours[0] == "#ffffff" and colours[4] == colours[5] != colours[1]
    assert [cell[0].text for cell in cells][3] == "b, y: not measured"
    wide = heat_map("t", ["a"], [str(n) for n in range(400)], [[0.5] * 400], low=0, high=1, groups=8)
    assert float(ElementTree.fromstring(wide).attrib["width"]) < 1300


def test_many_rows_stay_on_a_screen_and_are_not_all_labelled() -> None:
    svg = ElementTree.fromstring(heat_map("t", [f"r{n}" for n in range(224)], ["x"], [[0.5]] * 224, low=0, high=1))
    assert float(svg.attrib["height"]) < 1000
    labels = [element for element in svg.iter(f"{SVG}text") if (element.text or "").startswith("r")]
    assert 50 < len(labels) < 100
