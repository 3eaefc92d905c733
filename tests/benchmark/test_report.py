from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest
from made_up import NO_GPU_ROW, growth, results, row

from breastseg_benchmark.budgets import Budget, judge
from breastseg_benchmark.plots import plots
from breastseg_benchmark.report import report_html
from breastseg_benchmark.results import Ratio
from breastseg_benchmark.tables import as_text, growth_tables, implementations_text, stage_table

SVG = "{http://www.w3.org/2000/svg}"
PEER = row("a peer <&>", "peer", stages_s={}, ratio_to_runtime=Ratio.of([3.0], [1.0]))
WITH_A_PEER = results(row("onnxruntime"), PEER)


def texts(svg: str) -> list[str]:
    return ["".join(text.itertext()) for text in ET.fromstring(svg).iter(f"{SVG}text")]


def test_every_part_of_a_run_has_its_plots() -> None:
    captions = {section: [caption for caption, _ in found] for section, found in plots(WITH_A_PEER).items()}
    assert captions == {
        "latency": ["Every call"],
        "peers": ["Against the runtime (the line at 1)"],
        "stages": ["Where the time goes"],
        "growth": [
            "Time against batch",
            "Memory against batch",
            "Time against side of the frame, px",
            "Memory against side of the frame, px",
            "Memory over frames",
        ],
    }


@pytest.mark.parametrize("section", ["latency", "peers", "stages", "growth"])
def test_a_plot_is_one_svg_that_reads_as_text(section: str) -> None:
    for caption, svg in plots(WITH_A_PEER)[section]:
        root = ET.fromstring(svg)
        assert root.tag == f"{SVG}svg"
        assert root.find(f"{SVG}title").text == caption  # type: ignore[union-attr]
        assert len(texts(svg)) > 3


def test_a_peers_bar_says_its_ratio() -> None:
    ((_, svg),) = plots(WITH_A_PEER)["peers"]
    assert {"a peer <&>", "3.00"} <= set(texts(svg))
    assert "onnxruntime" not in texts(svg)


def test_batches_are_named_and_nothing_between_them() -> None:
    by_batch = dict(plots(WITH_A_PEER)["growth"])["Time against batch"]
    assert {"1", "2", "4"} <= set(texts(by_batch))
    assert not {"0.5", "1.5", "3"} & set(texts(by_batch))


def test_what_was_not_measured_has_no_plot() -> None:
    assert plots(results(NO_GPU_ROW, growth=None)) == {"latency": [], "peers": [], "stages": [], "growth": []}


def test_the_same_run_gives_the_same_page_to_the_byte() -> None:
    page = report_html(WITH_A_PEER)
    assert page == report_html(WITH_A_PEER)
    assert "<dc:date>" not in page


def test_nothing_on_the_page_is_named_twice_and_means_two_things() -> None:
    named: dict[str, set[str]] = {}
    for found in plots(WITH_A_PEER).values():
        for _, svg in found:
            for element in ET.fromstring(svg).iter(f"{SVG}defs"):
                for one in element:
                    if "id" in one.attrib:
                        named.setdefault(one.attrib["id"], set()).add(ET.tostring(one, encoding="unicode"))
    assert all(len(meanings) == 1 for meanings in named.values())


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
    assert not re.search(r"src=|href=\"(?!#)|url\((?!#)|@import", page)  # a plot may refer to itself


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
    *figures, last = implementations_text(results()).splitlines()
    assert last == "tensorrt: not run: no GPU (no NVIDIA driver on this machine)"
    assert figures[1].startswith("onnxruntime (the runtime's choice)")
    assert not any("GPU memory" in line for line in figures)
    assert not any(line.startswith("tensorrt") for line in figures)


def test_a_ratio_stands_with_its_range() -> None:
    text = implementations_text(results())
    assert "0.38 (0.25 to 0.50)" in text


def test_growth_tables_are_per_frame_and_per_megapixel() -> None:
    tables = growth_tables(results(growth=growth()))
    assert tables["batch"][3] == ("4", "400 ms", "100 ms", "4 MB")
    assert tables["size"][1][:2] == ("256 x 256", "256 ms")
    assert growth_tables(results(growth=None)) == {}
