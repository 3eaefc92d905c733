"""The comparison itself, with engines whose answers are known."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from breastseg_deploy.artefacts import HalfPrecision, IslandTrial
from breastseg_deploy.errors import ParityError
from breastseg_export.named_frames import NamedFrame, NamedFrames
from breastseg_export.parity import FP16_LIMITS, FP32_LIMITS, Compared, ParityRun, check, compare, failures, stricter
from breastseg_export.precision.ranges import SAFE_MAGNITUDE
from breastseg_export.precision.sums import PRODUCTS
from breastseg_export.report import difference, rendered, report_html, write_pictures
from breastseg_export.runners import Engine

SIZE = (64, 64)


class Discs(NamedFrames):
    """Frames with a bright square of known size; numbers 1 and 4 are empty."""

    def __init__(self) -> None:
        self._sides = [20, 0, 40, 30, 0]

    @property
    def description(self) -> str:
        return "5 squares"

    def __len__(self) -> int:
        return len(self._sides)

    def __iter__(self) -> Iterator[NamedFrame]:
        for number, side in enumerate(self._sides):
            truth = np.zeros(SIZE, np.uint8)
            truth[:side, :side] = 1
            yield NamedFrame(f"square-{number}", np.repeat(truth[:, :, None] * 200, 3, 2), truth)


def perfect(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    return (frame[:, :, 0] / 255).astype(np.float32)


def flipping(pixels: int) -> Engine:
    """An engine that misses the first pixels of every frame with cells."""

    def run(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
        probability = perfect(frame)
        if probability.any():
            probability[0, :pixels] = 0
        return probability

    return run


def not_finite(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.where(perfect(frame) > 0, np.float32("nan"), np.float32(0))


def run_with(engine: Engine) -> ParityRun:
    return compare(perfect, [Compared("model", "engine", engine, FP16_LIMITS)], Discs(), 0.5)


def test_an_identical_artefact_passes_with_perfect_figures() -> None:
    run = run_with(perfect)
    summary = run.summaries["model in engine"]
    check(run.summaries)
    assert (summary.frames, summary.frames_with_cells) == (5, 3)
    assert (summary.mean_dice, summary.worst_dice, summary.mean_dice_with_cells) == (1, 1, 1)
    assert (summary.worst_flipped_ppm, summary.largest_probability_error, summary.dice_change) == (0, 0, 0)


def test_figures_of_flipped_pixels_are_the_hand_worked_ones() -> None:
    summary = run_with(flipping(8)).summaries["model in engine"]
    expected = [2 * (side**2 - 8) / (2 * side**2 - 8) for side in (20, 40, 30)]
    assert summary.worst_dice == pytest.approx(expected[0])
    assert summary.mean_dice_with_cells == pytest.approx(np.mean(expected))
    assert summary.mean_dice == pytest.approx((sum(expected) + 2) / 5)
    assert summary.worst_flipped_ppm == pytest.approx(8 / 64**2 * 1e6)
    assert summary.largest_probability_error == pytest.approx(200 / 255, abs=1e-6)
    assert summary.dice_change == pytest.approx((sum(expected) - 3) / 5)


def test_empty_frames_do_not_dilute_the_mean_that_gates() -> None:
    run = run_with(flipping(2))  # the mean over all frames, 0.99915, would pass; over frames with cells it is 0.99859
    assert run.summaries["model in engine"].mean_dice >= FP16_LIMITS.mean_dice
    with pytest.raises(ParityError, match=r"model in engine: mean Dice of frames with cells 0\.998\d+ is under 0\.999"):
        check(run.summaries)


def test_empty_frames_do_not_dilute_the_change_against_the_truth() -> None:
    summary = run_with(flipping(1)).summaries["model in engine"]
    assert summary.dice_change is not None
    assert summary.dice_change_with_cells == pytest.approx(summary.dice_change * 5 / 3)
    limits = FP16_LIMITS.model_copy(update={"dice_change": 1.2 * abs(summary.dice_change), "mean_dice": 0.99})
    (missed,) = failures({"model": summary.model_copy(update={"limits": limits})})
    assert re.fullmatch(r"model: Dice against the ground truth changed by -0\.\d+ on frames with cells", missed)


def test_every_missed_limit_is_named() -> None:
    with pytest.raises(ParityError) as caught:
        check(run_with(flipping(16)).summaries)
    for words in (
        "worst frame Dice",
        "mean Dice 0.",
        "mean Dice of frames with cells",
        "Dice against the ground truth",
    ):
        assert words in str(caught.value)


def test_an_artefact_that_runs_on_some_frames_alone_is_held_to_its_limits_there() -> None:
    few = {"square-0", "square-1"}
    compared = [
        Compared("model", "engine", perfect, FP16_LIMITS),
        Compared("model", "careless", flipping(16), FP16_LIMITS, few),
    ]
    run = compare(perfect, compared, Discs(), 0.5)
    assert {figures.name for figures in run.figures["model in careless"]} == few
    assert [run.summaries[title].frames for title in ("model in engine", "model in careless")] == [5, 2]
    (missed,) = {failure.split(":")[0] for failure in failures(run.summaries)}
    assert missed == "model in careless"
    page = report_html("toy", run, "5 squares", [], 0.5)
    assert "<td>model in engine</td>" in page
    assert "<td>model in careless, 2 hardest frames</td>" in page


def test_an_answer_that_is_not_finite_fails() -> None:
    run = run_with(not_finite)
    assert run.summaries["model in engine"].worst_dice == 0
    with pytest.raises(ParityError, match=r"worst frame Dice 0\.000000"):
        check(run.summaries)


def test_a_reference_that_is_not_finite_ends_the_comparison() -> None:
    with pytest.raises(ParityError, match="the float32 reference itself gives NaN on square-0; no bundle was written"):
        compare(not_finite, [], Discs(), 0.5)


def test_a_pixel_found_in_an_empty_frame_fails_as_the_worst_frame() -> None:
    def imagining(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
        probability = perfect(frame)
        probability[5, 5] = 0.9
        return probability

    run = run_with(imagining)
    assert run.pictures["model in engine"][0].figures.name == "square-1"
    with pytest.raises(ParityError, match=r"worst frame Dice 0\.000000"):
        check(run.summaries)


def test_pictures_are_the_worst_frames_worst_first() -> None:
    run = run_with(flipping(8))
    assert [picture.figures.name for picture in run.pictures["model in engine"]] == ["square-0", "square-3", "square-2"]


def test_goldens_are_two_frames_with_cells_and_an_empty_one() -> None:
    assert [golden.name for golden in run_with(perfect).goldens] == ["square-0", "square-1", "square-2"]


def test_a_dice_that_is_asked_for_only_ever_tightens_the_limits() -> None:
    assert stricter(FP16_LIMITS, None) == stricter(FP16_LIMITS, 0.0) == FP16_LIMITS
    assert stricter(FP16_LIMITS, 0.995).worst_dice == 0.995
    assert stricter(FP16_LIMITS, 0.995).mean_dice == FP16_LIMITS.mean_dice
    assert stricter(FP16_LIMITS, 1.0).mean_dice == 1.0


def test_float32_limits_are_stricter_than_float16_limits() -> None:
    assert FP32_LIMITS.worst_dice == 0.9999
    assert (FP16_LIMITS.worst_dice, FP16_LIMITS.mean_dice, FP16_LIMITS.dice_change) == (0.99, 0.999, 0.001)


def test_difference_colours_say_who_found_the_pixel() -> None:
    reference, artefact = np.array([[True, True, False, False]]), np.array([[True, False, True, False]])
    (both, missed, imagined, neither) = difference(reference, artefact)[0]
    assert both[0] == both[1] == both[2] > 0
    assert missed[2] == max(missed)
    assert imagined[0] == max(imagined)
    assert not neither.any()


def test_report_shows_the_verdict_every_frame_and_the_pictures() -> None:
    run = run_with(flipping(16))
    page = report_html("toy <b>", run, "5 squares", [("encoder", "none")], 0.5)
    assert "FAILED" in page
    assert "toy &lt;b&gt;" in page
    assert page.count("data:image/png;base64,") == 3 * 4
    for number in range(5):
        assert f"square-{number}" in page


def test_report_shows_which_layers_are_float32_and_what_was_tried() -> None:
    trials = [
        IslandTrial(
            groups=groups,
            float32_share=share,
            worst_dice=dice,
            mean_dice=dice,
            largest_probability_error=0.01,
            accepted=dice > 0.9995,
        )
        for groups, share, dice in (((), 0.001, 0.99876), (("stem",), 0.0312, 0.99987))
    ]
    half = HalfPrecision(
        fp32_islands=("node_a", "node_b", "node_c"),
        largest_activation=113.9,
        largest_activation_layer="unet.decoder",
        layers=7,
        activations={"unet.decoder": 113.9},
        necessary={"plane sums over 8188": 2},
        groups=("stem",),
        search=tuple(trials),
        search_frames=("square-0", "square-2"),
    )
    section = rendered("islands.html.j2", half=half, safe_magnitude=SAFE_MAGNITUDE, products=PRODUCTS)
    page = report_html("toy", run_with(perfect), "5 squares", [], 0.5, [section])
    words = " ".join(page.split())
    assert "3 nodes of the float16 network compute in float32. 2 of them must: plane sums over 8188." in words
    assert "For the Dice: stem." in words
    assert "<td>none</td><td>0.1 %</td> <td>0.998760</td>" in words
    assert "<td>stem</td><td>3.1 %</td> <td>0.999870</td>" in words
    assert words.index("exceeded") < words.index("kept")
    assert "<td>unet.decoder</td><td>113.90</td>" in words
    assert "Layers in float32" not in report_html("toy", run_with(perfect), "5 squares", [], 0.5)


def test_worst_frames_become_files(tmp_path: Path) -> None:
    write_pictures(run_with(flipping(16)), tmp_path, 0.5)
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")}
    expected = {"frame", "reference", "artefact", "difference"}
    assert names == {f"artefact-1/square-{n}/{picture}.png" for n in (0, 2, 3) for picture in expected}


def test_frames_without_a_single_cell_prove_nothing() -> None:
    def nothing(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.zeros(frame.shape[:2], np.float32)

    run = compare(nothing, [Compared("model", "engine", nothing, FP32_LIMITS)], Discs(), 0.5)
    assert run.summaries["model in engine"].worst_dice == 1
    with pytest.raises(ParityError, match="no frame holds a cell by the reference"):
        check(run.summaries)
