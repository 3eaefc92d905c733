"""The page of a slide."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from written import table_of

from breastseg_deploy.io.images import png_bytes
from breastseg_deploy.slide.writers.charts import density, histogram_svg
from breastseg_deploy.slide.writers.slide_page import write_slide_page

LABELS = np.kron(np.arange(1, 21).reshape(4, 5), np.pad(np.ones((8, 8)), 6)).astype(np.uint32)
CELLS = table_of(LABELS)
RESULT: dict[str, Any] = {
    "certificate": {"flipped_ppm": 149.25, "dice": 0.9991, "tiles": 16, "limit_ppm": 3000.0, "passed": True},
    "cells": {"count": 20, "mean_area_um2": 16.0},
    "skipped": {"tiles": 1, "boxes": [[0, 0, 20, 20]]},
    "seconds": {"network": 41.7, "writing": 2.2},
    "mpx_per_s": 0.92,
    "provenance": {"slide": {"sha256": "ab12", "channel": None}, "bundle": {"name": "<demo> & co"}},
    "said": ["PatientSex: left empty"],
}


class Tags(HTMLParser):
    """Every tag that was opened is closed in turn; what is shown of text and links."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        pass


def page(folder: Path, cells: Any = CELLS, pixel_size_um: float | None = 0.5, **changes: Any) -> str:
    folder.mkdir(exist_ok=True)
    write_slide_page(
        folder / "report.html",
        RESULT | changes,
        cells=cells,
        size_px=LABELS.shape,
        pixel_size_um=pixel_size_um,
        pictures={
            "the slide": png_bytes(np.zeros((5, 5), np.uint8)),
            "worst tile": png_bytes(np.ones((5, 5), np.uint8)),
        },
    )
    return (folder / "report.html").read_text("utf-8")


def words(text: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<[^>]+>", " ", text, flags=re.DOTALL))


def test_it_needs_no_other_file_and_closes_every_tag(tmp_path: Path) -> None:
    tags = Tags()
    tags.feed(page(tmp_path))
    assert tags.open == []
    assert len(tags.links) == 3
    assert all(link.startswith("data:image/png;base64,") for link in tags.links)


def test_every_value_of_the_result_is_shown(tmp_path: Path) -> None:
    shown = words(page(tmp_path))
    for text in (
        "passed", "149.25 ppm", "0.9991", "limit 3000 ppm", "0.92 Mpx/s", "network", "41.7 s", "mean area 16 µm²",
        "(0, 0, 20, 20)", "slide / sha256 ab12", "channel not known", "PatientSex: left empty", "worst tile",
    ):  # fmt: skip
        assert text in shown


def test_names_are_text_and_no_markup(tmp_path: Path) -> None:
    text = page(tmp_path / "<b>slide")
    assert "&lt;demo&gt; &amp; co" in text
    assert "<title>Slide: &lt;b&gt;slide</title>" in text


def test_a_missed_certificate_is_told_first(tmp_path: Path) -> None:
    shown = words(page(tmp_path, certificate=RESULT["certificate"] | {"passed": False}))
    assert shown.index("FAILED") < shown.index("Density")


def test_a_slide_without_cells_and_a_result_without_parts_have_a_page(tmp_path: Path) -> None:
    write_slide_page(tmp_path / "report.html", {}, cells=CELLS[:0], size_px=(90, 70), pixel_size_um=None, pictures={})
    assert "No cells." in (tmp_path / "report.html").read_text("utf-8")


def test_without_a_pixel_size_the_charts_count_pixels(tmp_path: Path) -> None:
    shown = words(page(tmp_path, pixel_size_um=None))
    assert "per megapixel" in shown
    assert "area, px" in shown


@pytest.mark.parametrize("size_px", [(80, 100), (4801, 3000), (33, 9000)])
def test_density_counts_every_cell_once(size_px: tuple[int, int]) -> None:
    cells = np.resize(CELLS, 500)
    random = np.random.default_rng(4)
    for name, length in zip(("centroid_y_px", "centroid_x_px"), size_px, strict=True):
        cells[name] = random.uniform(-0.5, length - 0.501, 500)
    fields = density(cells, size_px, 0.5)
    side = -(-max(size_px) // 48)
    heights, widths = (np.minimum(side, length - np.arange(0, length, side)) for length in size_px)
    assert np.sum(fields * np.outer(heights, widths)) * 0.25e-6 == pytest.approx(500)


def test_the_last_bar_of_the_histogram_holds_the_giants() -> None:
    areas = np.array([10.0] * 999 + [100_000.0])
    assert histogram_svg(areas, "px").count("<rect") == 40
    assert "the last bar: 10 and more" in histogram_svg(areas, "px")
