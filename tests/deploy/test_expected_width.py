"""The width that a frame's looks let expect: learnt from frames of several sources, blind to which of them it is."""

from __future__ import annotations

from math import isnan, log2

import numpy as np
import pytest

from breastseg_deploy.expected_width import LEAST_FRAMES, ExpectedWidth, fit_expected_width
from breastseg_deploy.fingerprint import FEATURES, Fingerprint, Measures, fingerprint

SOURCES = ((3.0, 5.0), (4.5, 6.0), (6.0, 7.0))
"""log2 of the width and of the brightness of three made-up microscopes."""


def measures(number: int, wider: float = 0.0) -> Measures:
    """One frame of a microscope, in turn; `wider` is added to log2 of its structures' width."""
    draw = np.random.default_rng(number)
    width, bright = SOURCES[number % 3]
    found = {name: float(draw.normal(0, 0.2)) for name in FEATURES if name != "scale"}
    found.update(width=width + wider + float(draw.normal(0, 0.15)), bright=bright + float(draw.normal(0, 0.1)))
    return found


FRAMES = [measures(number) for number in range(150)]


def expected() -> ExpectedWidth:
    fitted = fit_expected_width(FRAMES)
    assert fitted is not None
    return fitted[0]


@pytest.mark.parametrize("number", [1000, 1001, 1002])
def test_a_new_frame_of_any_source_has_hardly_an_excess(number: int) -> None:
    assert abs(expected().excess(measures(number))) < 0.6


@pytest.mark.parametrize("wider", [log2(1.5), -log2(1.5)])
def test_a_wrong_pixel_size_shows_as_that_much_excess(wider: float) -> None:
    found = [expected().excess(measures(number, wider)) for number in range(1000, 1060)]
    assert np.mean(found) == pytest.approx(wider, abs=0.1)


def test_frames_of_the_fit_are_judged_by_the_others() -> None:
    fitted = fit_expected_width(FRAMES)
    assert fitted is not None
    _, left_out = fitted
    seen = [expected().excess(one) for one in FRAMES]
    assert np.std(left_out) > np.std(seen)
    assert np.std(left_out) == pytest.approx(0.2, abs=0.1)


def test_a_frame_without_cells_has_no_excess() -> None:
    assert isnan(expected().excess({**FRAMES[0], "width": float("nan")}))


def test_a_frame_unlike_all_that_was_seen_is_not_taken_further_than_that() -> None:
    far = {**FRAMES[0], "bright": 100.0}
    assert expected().excess(far) == pytest.approx(expected().excess({**far, "bright": 200.0}))


def test_fewer_frames_fit_nothing_and_leave_the_scale_out() -> None:
    assert fit_expected_width(FRAMES[: LEAST_FRAMES - 1]) is None
    found = fingerprint(FRAMES[: LEAST_FRAMES - 1])
    assert found is not None
    assert found.expected_width is None
    assert "scale" not in found.spreads
    assert isnan(found.value("scale", FRAMES[0]))


def test_a_fingerprint_of_enough_frames_has_a_scale_and_keeps_it_in_json() -> None:
    found = fingerprint(FRAMES)
    assert found is not None
    again = Fingerprint.model_validate_json(found.model_dump_json())
    assert again == found
    assert again.spreads["scale"].frames == len(FRAMES)
    assert again.value("scale", FRAMES[0]) == pytest.approx(expected().excess(FRAMES[0]))
