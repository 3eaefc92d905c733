"""A slide from the first tile to its certificate and files."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from array_slide import GRID, ArraySlide, BrightPixels, GridShows, discs, made_up_bundle

from breastseg_deploy.bundle import Bundle
from breastseg_deploy.errors import ArgumentError, BackendError, OutputError, SlideError
from breastseg_deploy.instances import DEFAULTS
from breastseg_deploy.io.open_slide import open_slide
from breastseg_deploy.slide.pipeline import StageSeconds, TilePipeline
from breastseg_deploy.slide.record import RESULT, UNFINISHED
from breastseg_deploy.slide.result import SlideResult
from breastseg_deploy.slide.run import Request, check_pixel_size, segment_slide
from breastseg_deploy.tiling import Grid, Plan

SIZE_PX = (330, 500)
TIMES = ("seconds", "mpx_per_s")
"""Of result.json: measured, and so never the same twice."""


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return made_up_bundle(tmp_path / "bundle")


@pytest.fixture
def slide() -> ArraySlide:
    return ArraySlide(discs(SIZE_PX, 60))


def expected_mask(slide: ArraySlide) -> np.ndarray:
    bright = (slide.rgb[:, :, 0] / 255 - 0.485) / 0.229
    return (bright >= 0).astype(np.uint8)


def run(slide: ArraySlide, bundle: Bundle, place: Path, network: BrightPixels | None = None) -> SlideResult:
    return segment_slide(slide, bundle, network or BrightPixels(), Request(place, skip_empty=False))


def everything(place: Path) -> dict[str, bytes]:
    """All files of a result; of result.json all but times, and without the page, which shows them."""
    files = {path.relative_to(place).as_posix(): path.read_bytes() for path in place.rglob("*") if path.is_file()}
    result = json.loads(files[RESULT])
    files[RESULT] = json.dumps({name: value for name, value in result.items() if name not in TIMES}).encode()
    del files["report.html"]
    return files


def test_the_mask_of_all_tiles_is_that_of_the_whole_slide(slide: ArraySlide, bundle: Bundle, tmp_path: Path) -> None:
    import tifffile

    run(slide, bundle, tmp_path / "out")
    mask = tifffile.imread(tmp_path / "out" / "mask.ome.tif")
    assert np.array_equal(mask > 0, expected_mask(slide) > 0)


@pytest.mark.parametrize("size_px", [(32, 32), (33, 500), (192, 192), (193, 77)])
def test_slides_of_any_size_from_32_px_on_are_segmented(
    size_px: tuple[int, int], bundle: Bundle, tmp_path: Path
) -> None:
    import tifffile

    slide = ArraySlide(discs(size_px, 20))
    run(slide, bundle, tmp_path / "out")
    mask = tifffile.imread(tmp_path / "out" / "mask.ome.tif")
    assert np.array_equal(mask > 0, expected_mask(slide) > 0)


def test_a_network_that_looks_at_each_pixel_alone_is_certified_with_no_pixel_flipped(
    slide: ArraySlide, bundle: Bundle, tmp_path: Path
) -> None:
    result = run(slide, bundle, tmp_path / "out")
    held = result.content["certificate"]
    assert result.certified
    assert (held["flipped_ppm"], held["dice"], held["cells_difference"]) == (0, 1, 0)
    assert held["tiles"] == min(16, len(Plan(SIZE_PX, GRID, moved=True)))


def test_a_mask_that_depends_on_the_grid_is_written_and_not_certified(bundle: Bundle, tmp_path: Path) -> None:
    slide = ArraySlide(np.random.default_rng(0).integers(0, 256, (*SIZE_PX, 3), dtype=np.uint8))
    result = run(slide, bundle, tmp_path / "out", GridShows())
    held = result.content["certificate"]
    assert held["flipped_ppm"] > held["limit_ppm"]
    assert not result.certified
    assert held["worst_tile"]["flipped_ppm"] >= held["flipped_ppm"]
    assert (tmp_path / "out" / "certificate.png").is_file()
    assert (tmp_path / "out" / "mask.ome.tif").is_file()


def test_which_tiles_are_certified_depends_on_the_slide_alone(bundle: Bundle, tmp_path: Path) -> None:
    slide = ArraySlide(discs((800, 1000), 60))
    first, again = (run(slide, bundle, tmp_path / name).content["certificate"] for name in "ab")
    assert first == again
    assert first["tiles"] == 16 < len(Plan(slide.size_px, GRID, moved=True))


def test_a_slide_of_one_tile_has_no_grid_to_move(bundle: Bundle, tmp_path: Path) -> None:
    network = BrightPixels()
    result = run(ArraySlide(discs((150, 190), 9)), bundle, tmp_path / "out", network)
    assert (result.content["certificate"]["tiles"], result.certified, network.calls) == (0, True, 1)


def test_tiles_of_background_are_skipped_counted_and_certified(bundle: Bundle, tmp_path: Path) -> None:
    rgb = discs((1000, 1000), 0)
    rgb[:200, :200] = discs((200, 200), 20)
    network = BrightPixels()
    result = segment_slide(ArraySlide(rgb), bundle, network, Request(tmp_path / "out"))
    held, skipped = result.content["certificate"], result.content["skipped"]["tiles"]
    assert skipped > 100
    assert skipped + 10 >= result.content["tiles"] > skipped
    assert held["skipped_tiles"] == 16
    assert result.certified
    assert network.calls < 60


def test_cells_in_skipped_tiles_miss_the_certificate(bundle: Bundle, tmp_path: Path) -> None:
    """The picture that tiles are skipped by does not show them."""
    slide = ArraySlide(discs((1000, 1000), 400))
    black = ArraySlide(np.zeros_like(slide.rgb))
    black.read_rgb = slide.read_rgb  # type: ignore[method-assign]
    result = segment_slide(black, bundle, BrightPixels(), Request(tmp_path / "out"))
    assert result.content["certificate"]["skipped_flipped_ppm"] > 100
    assert not result.certified


def test_a_second_run_finds_the_first_one_done(slide: ArraySlide, bundle: Bundle, tmp_path: Path) -> None:
    first, network = run(slide, bundle, tmp_path / "out"), BrightPixels()
    again = run(slide, bundle, tmp_path / "out", network)
    assert (again.resumed, again.content, network.calls) == ("done", first.content, 0)


def another_slide(slide: ArraySlide, bundle: Bundle) -> tuple[ArraySlide, Bundle]:
    return ArraySlide(255 - slide.rgb), bundle


def another_conversion(slide: ArraySlide, bundle: Bundle) -> tuple[ArraySlide, Bundle]:
    slide.conversion["window"] = [0, 100]
    return slide, bundle


def another_bundle(slide: ArraySlide, bundle: Bundle) -> tuple[ArraySlide, Bundle]:
    return slide, made_up_bundle(bundle.path, limit_ppm=7)


@pytest.mark.parametrize("other", [another_slide, another_conversion, another_bundle])
@pytest.mark.parametrize("stage", ["unfinished work", "the result"])
def test_a_run_with_another_slide_conversion_or_bundle_is_refused(
    slide: ArraySlide,
    bundle: Bundle,
    tmp_path: Path,
    stage: str,
    other: Callable[[ArraySlide, Bundle], tuple[ArraySlide, Bundle]],
) -> None:
    if stage == "the result":
        run(slide, bundle, tmp_path / "out")
    else:
        with pytest.raises(BackendError, match="no more"):
            run(slide, bundle, tmp_path / "out", failing(2))
    before = set((tmp_path / "out").rglob("*"))
    with pytest.raises(OutputError, match=f"holds {stage} of another run"):
        run(*other(slide, bundle), tmp_path / "out")
    assert set((tmp_path / "out").rglob("*")) == before


def failing(call: int) -> BrightPixels:
    def fail(calls: int) -> None:
        if calls == call:
            raise BackendError("no more")

    return BrightPixels(fail)


@pytest.mark.parametrize("call", [0, 3, 12, 15])
def test_a_run_that_failed_goes_on_where_it_was_and_ends_with_the_same_bytes(
    slide: ArraySlide, bundle: Bundle, tmp_path: Path, call: int
) -> None:
    run(slide, bundle, tmp_path / "a" / "out")
    with pytest.raises(BackendError, match="no more"):
        run(slide, bundle, tmp_path / "b" / "out", failing(call))
    network = BrightPixels()
    result = run(slide, bundle, tmp_path / "b" / "out", network)
    assert everything(tmp_path / "b" / "out") == everything(tmp_path / "a" / "out")
    assert result.resumed == ("resumed" if call > 2 else result.resumed)
    assert not (tmp_path / "b" / "out" / UNFINISHED).exists()


def test_two_runs_into_one_folder_are_refused(slide: ArraySlide, bundle: Bundle, tmp_path: Path) -> None:
    def second(calls: int) -> None:
        if calls == 1:
            run(slide, bundle, tmp_path / "out")

    with pytest.raises(OutputError, match="another run works in"):
        run(slide, bundle, tmp_path / "out", BrightPixels(second))


def test_a_folder_of_something_else_is_left_alone(slide: ArraySlide, bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(OutputError, match="holds files of something else"):
        run(slide, bundle, tmp_path)
    assert not (tmp_path / UNFINISHED).exists()


def test_a_slide_that_cannot_be_read_keeps_what_was_done(slide: ArraySlide, bundle: Bundle, tmp_path: Path) -> None:
    whole = slide.read_rgb

    def broken(top: int, left: int, height: int, width: int) -> np.ndarray:
        if left > 250:
            raise SlideError("the tile at row 0, column 256 does not decode")
        return whole(top, left, height, width)

    slide.read_rgb = broken  # type: ignore[method-assign]
    with pytest.raises(SlideError, match="column 256 does not decode"):
        run(slide, bundle, tmp_path / "out")
    slide.read_rgb = whole  # type: ignore[method-assign]
    assert run(slide, bundle, tmp_path / "out").resumed == "resumed"


def test_another_pixel_size_than_the_bundles_is_refused_before_any_work(slide: ArraySlide, tmp_path: Path) -> None:
    slide.pixel_size_um = 0.25
    bundle, network = made_up_bundle(tmp_path / "bundle", pixel_size_um=0.5), BrightPixels()
    with pytest.raises(SlideError, match=r"pixels of 0\.25 um and the bundle was made for 0\.5 um.*--rescale"):
        run(slide, bundle, tmp_path / "out", network)
    assert network.calls == 0


def test_a_kind_of_file_that_nobody_knows_is_refused(slide: ArraySlide, bundle: Bundle, tmp_path: Path) -> None:
    request = Request(tmp_path / "out", write=("ome-tiff", "zarr"))
    with pytest.raises(ArgumentError, match="no file 'zarr' is known to write; choose from ome-tiff, geojson"):
        segment_slide(slide, bundle, BrightPixels(), request)
    assert not (tmp_path / "out").exists()


def test_the_result_says_what_it_is_made_of(slide: ArraySlide, bundle: Bundle, tmp_path: Path) -> None:
    run(slide, bundle, tmp_path / "out")
    result = json.loads((tmp_path / "out" / RESULT).read_text())
    assert set(result) == {"certificate", "cells", "tiles", "skipped", "seconds", "mpx_per_s", "provenance"}
    assert result["provenance"]["slide"]["sha256"] == slide.sha256()
    assert result["cells"]["count"] > 20
    assert {"tiles", "network", "certificate", "cells", "files", "total"} <= set(result["seconds"])


def test_a_skipped_slide_of_one_tile_is_computed_for_its_certificate(bundle: Bundle, tmp_path: Path) -> None:
    slide = ArraySlide(np.full((100, 120, 3), 200, np.uint8))  # bright to the network, and empty by the rule
    result = segment_slide(slide, bundle, BrightPixels(), Request(tmp_path / "out"))
    assert result.content["skipped"]["tiles"] == 1
    assert result.content["certificate"]["skipped_tiles"] == 1
    assert result.content["certificate"]["skipped_flipped_ppm"] == 1e6
    assert not result.certified


def test_what_both_grids_compute_alike_is_no_evidence(tmp_path: Path) -> None:
    """At the slide's borders the grids have tiles in common, and a tile agrees with itself."""
    size_px = (230, 230)
    slide, bundle = ArraySlide(discs(size_px, 30)), made_up_bundle(tmp_path / "bundle")
    certificate = run(slide, bundle, tmp_path / "out").content["certificate"]
    plan, moved = Plan(size_px, GRID), Plan(size_px, GRID, moved=True)
    alike = sum(
        max(0, min(one.core.bottom, other.core.bottom) - max(one.core.top, other.core.top))
        * max(0, min(one.core.right, other.core.right) - max(one.core.left, other.core.left))
        for one in plan
        for other in moved
        if one.seen == other.seen
    )
    assert alike > 0
    assert certificate["pixels"] == size_px[0] * size_px[1] - alike


def test_a_name_that_no_result_can_state_is_refused_before_any_work(bundle: Bundle, tmp_path: Path) -> None:
    slide, network = ArraySlide(discs(SIZE_PX, 10), name="M\udcfcller"), BrightPixels()
    with pytest.raises(SlideError, match="the slide's name is not UTF-8"):
        run(slide, bundle, tmp_path / "out", network)
    assert network.calls == 0
    assert not (tmp_path / "out").exists()


def test_cells_in_micrometres_need_a_pixel_size_before_any_work(tmp_path: Path) -> None:
    bundle, network = made_up_bundle(tmp_path / "bundle", cells=DEFAULTS.in_unit("um", 0.5)), BrightPixels()
    with pytest.raises(ArgumentError, match="the cells' parameters are in um and the image states no pixel size"):
        run(ArraySlide(discs(SIZE_PX, 10)), bundle, tmp_path / "out", network)
    assert network.calls == 0
    assert not (tmp_path / "out").exists()


def test_few_tiles_wait_for_the_network_however_many_cores_there_are(slide: ArraySlide, bundle: Bundle) -> None:
    waiting: list[int] = []
    tiles = list(Plan(SIZE_PX, Grid(128, 32)))

    class Counted(ArraySlide):
        reads = 0

        def read_rgb(self, top: int, left: int, height: int, width: int) -> np.ndarray:
            Counted.reads += 1
            return super().read_rgb(top, left, height, width)

    def look(call: int) -> None:
        time.sleep(0.05)  # long enough for all that may be prepared
        waiting.append(Counted.reads - call)

    pipeline = TilePipeline(
        Counted(slide.rgb), BrightPixels(look), bundle.manifest.gabor.parameters(), 64, StageSeconds()
    )
    pipeline.run(tiles, lambda tile, probability: None, "counting")
    assert len(tiles) > 30
    assert max(waiting) <= 10


@pytest.mark.parametrize(("own_um", "bundle_um"), [(0.2525, 0.25), (0.2526, 0.25), (0.5, 0.505), (0.4949, 0.5)])
def test_a_slide_that_was_rescaled_as_it_was_told_has_the_bundles_pixel_size(own_um: float, bundle_um: float) -> None:
    """About one per cent apart: what rescaling takes for the same size, the run must take for the same."""
    with open_slide(discs((200, 200), 5), pixel_size_um=own_um, rescale_to_um=bundle_um) as slide:
        check_pixel_size(bundle_um, slide)
