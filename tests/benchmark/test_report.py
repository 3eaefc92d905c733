from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest
from made_up import NO_GPU_ROW, growth, results, row

from breastseg_benchmark.budgets import Budget, judge
from breastseg_benchmark.report import report_html
from breastseg_benchmark.svg import WIDTH, Bar, Series, Strip, bar_plot, line_plot, strip_plot, ticks
from breastseg_benchmark.tables import as_text, contestants_text, growth_tables, stage_table

SVG = "{http://www.w3.org/2000/svg}"
PLOTS = {
    "line": line_plot("t <&>", "x", "y", [Series("a", [(1, 2.0), (8, 3.5)]), Series("b & c", [(1, 1.0)])], [1, 8]),
    "flat": line_plot("t", "x", "y", [Series("", [(0, 0.0)])]),
    "strip": strip_plot("t", "ms", [Strip("a <b>", [1.0, 2.0], [("p50", 1.5)]), Strip("c", [9.0], [])]),
    "bar": bar_plot("t", "ms", [Bar("a", [("network", 3.0), ("mask", 0.1)], "3.1"), Bar("b", [("network", 2.0)])], 2.5),
}


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_is_well_formed_and_stays_inside_its_frame(name: str) -> None:
    root = ET.fromstring(PLOTS[name])
    _, _, width, height = (float(part) for part in root.attrib["viewBox"].split())
    for element in root.iter():
        for attribute, most in {"x": width, "x1": width, "cx": width, "y": height, "y2": height, "cy": height}.items():
            if attribute in element.attrib:
                assert 0 <= float(element.attrib[attribute]) <= most


def test_points_lie_where_their_values_say() -> None:
    root = ET.fromstring(line_plot("t", "x", "y", [Series("", [(0, 0), (1, 1), (2, 2)])], [0, 1, 2]))
    (line,) = root.iter(f"{SVG}polyline")
    points = [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]
    across, up = [x for x, _ in points], [y for _, y in points]
    assert across[1] - across[0] == pytest.approx(across[2] - across[1], abs=0.2)
    assert up[0] > up[1] > up[2]  # SVG counts from the top


def test_the_last_number_of_an_axis_stays_inside_the_plot() -> None:
    plot = line_plot("growth", "frames", "MB", [Series("memory", ((0.0, 1.0), (2000.0, 1.0)))])
    texts = {text.text: float(text.attrib["x"]) for text in ET.fromstring(plot).iter(f"{SVG}text")}
    assert texts["2,000"] + 0.5 * 7 * len("2,000") <= WIDTH  # 7 units a digit


@pytest.mark.parametrize("high", [0.003, 0.7, 1.0, 4.2, 28.0, 99.9, 3517.4, 1e9])
def test_ticks_are_few_round_and_reach_the_end(high: float) -> None:
    found = ticks(0, high)
    assert found[0] == 0
    assert found[-1] >= high * (1 - 1e-9)
    assert 2 <= len(found) <= 6
    step = found[1] / 10 ** math.floor(math.log10(found[1]))
    assert min(abs(step - nice) for nice in (1, 2, 2.5, 5, 10)) < 1e-9


class Tags(HTMLParser):
    """Checks that every tag is closed by its own."""

    VOID = ("meta", "br", "img")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_is_one_whole_page_without_scripts_or_other_files() -> None:
    page = report_html(results())
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert not tags.seen & {"script", "link", "img", "iframe"}
    assert not re.search(r"(?:src|href)=|url\(|@import", page)
    assert "prefers-color-scheme: dark" in page


def test_what_others_wrote_is_escaped() -> None:
    page = report_html(results(row("<script>alert(1)</script>", "peer")))
    assert "<script>" not in page
    assert "breastseg benchmark bundle &lt;&amp;&gt;" in page


def test_the_report_says_what_was_not_run_and_what_was_missed() -> None:
    found = results(NO_GPU_ROW, row("onnxruntime"))
    budgets = [
        Budget(name="rate", of="gpu", figure="frames_per_s", at_least=28),
        Budget(name="rate", of="cpu", figure="frames_per_s", at_least=28),
    ]
    page = report_html(found.model_copy(update={"verdicts": judge(found, budgets)}))
    assert "not run: no GPU" in page
    assert '<span class="pill missed">1 missed</span>' in page
    assert "passed</span>" not in page


def test_a_run_without_anything_still_gives_a_page() -> None:
    page = report_html(results(NO_GPU_ROW, runtime=None, decode=None, growth=None))
    assert "tensorrt: not run: no GPU" in page
    assert "<svg" not in page


def test_the_stage_table_keeps_backends_and_stages_apart() -> None:
    gpu = row("tensorrt", on_gpu=True, stages_s={"upload": 0.001, "preprocess": 0.002, "network": 0.02, "mask": 0.003})
    text = as_text(stage_table(results(gpu, row("onnxruntime"))))
    lines = {line[:26].strip(): line[26:].split() for line in text.splitlines()}
    assert lines["network"] == ["20.0", "ms", "98.0", "ms"]
    assert lines["host to device"] == ["1.00", "ms", "-"]
    assert lines["kernels, by CUDA events"] == ["25.0", "ms", "-"]
    assert lines["decode the file"] == ["20.0", "ms", "20.0", "ms"]
    assert "total" not in lines


def test_who_was_not_run_stands_below_the_figures() -> None:
    *figures, last = contestants_text(results()).splitlines()
    assert last == "tensorrt: not run: no GPU (no NVIDIA driver on this machine)"
    assert figures[1].startswith("onnxruntime (the runtime's choice)")
    assert not any("GPU memory" in line for line in figures)
    assert not any(line.startswith("tensorrt") for line in figures)


def test_a_ratio_stands_with_its_range() -> None:
    text = contestants_text(results())
    assert "0.38 (0.25 to 0.50)" in text


def test_growth_tables_are_per_frame_and_per_megapixel() -> None:
    tables = growth_tables(results(growth=growth()))
    assert tables["batch"][3] == ("4", "400 ms", "100 ms", "4 MB")
    assert tables["size"][1][:2] == ("256 x 256", "256 ms")
    assert growth_tables(results(growth=None)) == {}
