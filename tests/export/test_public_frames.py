"""The whole path on real microscopy: parity with PyTorch, and Dice against the masks that people drew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from shutil import copy

import pytest

from breastseg_deploy.artefacts import HalfPrecision, details_of
from breastseg_deploy.bundle import FP16
from breastseg_deploy.io.images import find_frames
from breastseg_deploy.manifest import Manifest, Parity
from breastseg_deploy.segmenter import Segmenter
from breastseg_deploy.verify import FrameCheck, check_frames
from breastseg_export.exporter import export_bundle
from breastseg_export.precision.islands import SEARCH_FRAMES
from breastseg_export.precision.ranges import SAFE_MAGNITUDE
from breastseg_export.precision.sums import FLOAT16_SUMS
from breastseg_export.settings import ExportSettings

pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def exported(
    microscopy: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Manifest, Path, Path]:
    """The demo checkpoint exported at 512 x 512 with parity on every second of the public test frames.

    All of them take twice the time; docs/RESULTS.md has their figures and the command.
    """
    frames, place = microscopy("public/test"), tmp_path_factory.mktemp("public")
    for number, frame in enumerate(sorted((frames / "images").iterdir())):
        for kind in ("images", "masks"):
            (place / "half" / kind).mkdir(parents=True, exist_ok=True)
            if number % 2 == 0:
                copy(frames / kind / frame.name, place / "half" / kind)
    manifest = export_bundle(ExportSettings("demo", place / "bundle", frames=place / "half"))
    return manifest, place / "bundle", frames


@pytest.fixture(scope="module")
def checked(exported: tuple[Manifest, Path, Path]) -> FrameCheck:
    _, bundle, frames = exported
    with Segmenter.open(bundle) as segment:
        segment.self_test()
        return check_frames(segment, find_frames([frames]))


def parities_of(manifest: Manifest) -> list[Parity]:
    return [parity for artefact in manifest.artefacts for parity in artefact.parity]


def test_every_artefact_agrees_with_pytorch_on_the_public_test_frames(exported: tuple[Manifest, Path, Path]) -> None:
    manifest, _, _ = exported
    assert manifest.parity_frames == "17 frames from files, 17 with ground truth"
    parities = parities_of(manifest)
    assert [parity.frames for parity in parities] == [17, 17, SEARCH_FRAMES, 17, 17]
    for parity in parities:
        assert parity.frames_with_cells >= (6 if parity.frames == 17 else 2)
        assert parity.worst_dice >= parity.limits.worst_dice
        assert parity.dice_change is not None
        assert abs(parity.dice_change) <= parity.limits.dice_change


def test_no_layer_overflows_float16_on_the_public_test_frames(exported: tuple[Manifest, Path, Path]) -> None:
    """Values keep an eighth of float16's range; the answers with each value rounded are finite, and the right ones."""
    manifest = exported[0]
    (details,) = details_of(manifest, FP16, HalfPrecision)
    assert details.largest_activation < SAFE_MAGNITUDE
    artefact = manifest.artefact(FP16)
    assert artefact is not None
    half, in_half = artefact.parity
    assert half.largest_probability_error < 0.2  # an answer that is not finite counts as 1
    assert in_half.largest_probability_error < 0.2


def test_an_engine_that_sums_in_float16_would_keep_the_masks_of_the_hardest_public_test_frames(
    exported: tuple[Manifest, Path, Path],
) -> None:
    (sums,) = [parity for parity in parities_of(exported[0]) if parity.engine == FLOAT16_SUMS]
    assert sums.worst_dice >= 0.998  # measured: 0.9993 is the worst of all 33


def test_plane_sums_that_overflow_float16_on_the_public_test_frames_are_islands(
    exported: tuple[Manifest, Path, Path],
) -> None:
    (half,) = details_of(exported[0], FP16, HalfPrecision)
    assert half.necessary["plane sums over 8188"] >= 12  # measured: 12 pools sum beyond 65504 itself


def test_the_set_that_the_search_found_on_the_hardest_frames_meets_the_limits_on_all(
    exported: tuple[Manifest, Path, Path],
) -> None:
    (half,) = details_of(exported[0], FP16, HalfPrecision)
    (found,) = [trial for trial in half.search if trial.groups == half.groups]
    assert found.accepted
    assert found.float32_share < 0.1


def test_bundle_segments_the_public_test_frames_above_the_measured_floor(checked: FrameCheck) -> None:
    assert checked.frames == 33
    assert checked.truth_dice_with_cells is not None
    assert checked.truth_dice_all is not None
    assert checked.false_positive_frames is not None
    assert checked.truth_dice_with_cells >= 0.925  # measured: 0.937
    assert checked.truth_dice_all >= 0.93  # measured: 0.945
    assert checked.false_positive_frames <= 0.1  # measured: 1 of 20 frames
