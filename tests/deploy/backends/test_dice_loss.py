"""The fastest backend within a loss of Dice: by the manifest, by the goldens here, and never more than was asked."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from breastseg_deploy import BreastsegError, Machine, Segmenter
from breastseg_deploy.backends.fastest import Clock
from breastseg_deploy.backends.registry import BACKENDS
from breastseg_deploy.backends.select import Choice, choose
from breastseg_deploy.bundle import BF16, PORTABLE, Bundle
from breastseg_deploy.cli.main import main
from breastseg_deploy.errors import ArgumentError
from breastseg_deploy.inference import Inference
from breastseg_deploy.machine import Processor
from breastseg_deploy.nvidia import NoGpu

FULL, REDUCED = "openvino", "openvino-bf16"


class Answering:
    """A backend that knows the goldens, takes its time by the test's clock, and loses a share of every mask."""

    def __init__(self, bundle: Bundle, clock: list[float], seconds: float, lost: float) -> None:
        self.bundle, self.clock, self.seconds, self.lost, self.closed = bundle, clock, seconds, lost, False

    def infer(self, rgb: NDArray[np.uint8], *, probability: bool = True) -> Inference:
        self.clock[0] += self.seconds
        (golden,) = [one for one in self.bundle.goldens() if np.array_equal(one.frame, rgb[0])]
        answer = golden.probability.copy()
        cells = np.flatnonzero(golden.mask)
        answer.flat[cells[: int(self.lost * len(cells))]] = 0
        return Inference(answer[np.newaxis], {})

    def close(self) -> None:
        self.closed = True


class TwoPrecisions:
    """float32 and bfloat16 on one processor, with speeds, and losses on the goldens, of the test's choice."""

    def __init__(self, bundle: Bundle, cache: Path) -> None:
        self.bundle, self.cache, self.clock = bundle, cache, [0.0]
        self.seconds = {FULL: 1.0, REDUCED: 0.5}
        self.lost = {FULL: 0.0, REDUCED: 0.0}
        self.opened: dict[str, Answering] = {}

    def parity(self, role: str, **figures: float | None) -> None:
        """Change what the export measured of an artefact."""
        found = tuple(
            one if one.role != role else one.model_copy(update={"parity": (one.parity[0].model_copy(update=figures),)})
            for one in self.bundle.manifest.artefacts
        )
        self.bundle = replace(self.bundle, manifest=self.bundle.manifest.model_copy(update={"artefacts": found}))

    def golden_dice(self, role: str, *figures: float) -> None:
        """Change what the goldens had at the export."""
        found = tuple(
            one if one.role != role else one.model_copy(update={"golden_dice": figures})
            for one in self.bundle.manifest.artefacts
        )
        self.bundle = replace(self.bundle, manifest=self.bundle.manifest.model_copy(update={"artefacts": found}))

    def choose(self, max_dice_loss: float | None = 0.002, name: str = "fastest", **options: Any) -> Choice:
        backends = {one: replace(BACKENDS[one], check=_is_there(one), open=self._open(one)) for one in (FULL, REDUCED)}
        machine = Machine(
            gpu=NoGpu("no driver", expected=False), processor=Processor("CPU", 2, bfloat16=True), cache=self.cache
        )
        clock = Clock(lambda: self.clock[0], lambda: "2026-11-24")
        return choose(
            self.bundle, name, machine, max_dice_loss=max_dice_loss, backends=backends, clock=clock, **options
        )

    def _open(self, name: str) -> Callable[[Bundle, Machine], Answering]:
        def load(bundle: Bundle, _: Machine) -> Answering:
            self.opened[name] = Answering(bundle, self.clock, self.seconds[name], self.lost[name])
            return self.opened[name]

        return load


def _is_there(name: str) -> Callable[[Machine], str]:
    return lambda _: f"{name} 1.0"


@pytest.fixture
def two(bundle: Bundle, tmp_path: Path) -> TwoPrecisions:
    two = TwoPrecisions(bundle, tmp_path / "cache")
    two.parity(PORTABLE, dice_change_with_cells=0.0)
    two.parity(BF16, dice_change_with_cells=-0.0004)
    return two


def test_the_faster_precision_serves_and_its_loss_is_told(two: TwoPrecisions) -> None:
    found = two.choose()
    assert (found.name, found.artefact, found.fell_back) == (REDUCED, BF16, False)
    assert found.reason == (
        "openvino-bf16: 0.50 s a frame against 1.00 s by openvino, measured on this machine on 2026-11-24; loses "
        "0.0004 of Dice against the truth at the export and 0.0000 more on the goldens here, 0.002 allowed"
    )
    assert two.opened[FULL].closed
    assert not two.opened[REDUCED].closed


def test_the_full_precision_serves_where_it_is_as_fast(two: TwoPrecisions) -> None:
    two.seconds[FULL] = 0.4
    assert two.choose().name == FULL


def test_never_more_is_lost_at_the_export_than_was_asked(two: TwoPrecisions) -> None:
    found = two.choose(max_dice_loss=0.0003)
    assert found.name == FULL
    assert (
        "openvino-bf16 (lost 0.0004 of Dice against the truth at the export, over the 0.0003 allowed)" in found.reason
    )
    assert REDUCED not in two.opened


def test_what_the_goldens_lose_here_counts_as_well(two: TwoPrecisions) -> None:
    two.lost[REDUCED] = 0.005  # of the cells: half of that in Dice, on top of what the export lost
    found = two.choose()
    assert (found.name, found.fell_back) == (FULL, False)
    assert "openvino-bf16 (loses 0.0004 of Dice against the truth at the export and 0.002" in found.reason
    assert two.opened[REDUCED].closed
    assert two.choose(max_dice_loss=0.004).name == REDUCED


def test_goldens_count_from_their_dice_at_the_export_on(two: TwoPrecisions) -> None:
    two.lost[REDUCED] = 0.005
    two.golden_dice(BF16, *(0.997 for _ in two.bundle.goldens()))
    assert two.choose().name == REDUCED


def test_without_truth_the_loss_is_that_against_float32(two: TwoPrecisions) -> None:
    two.parity(BF16, dice_change_with_cells=None, mean_dice_with_cells=0.9995)
    assert "loses 0.0005 of Dice against float32 at the export" in two.choose().reason
    two.parity(BF16, mean_dice_with_cells=0.9975)
    assert two.choose().name == FULL


def test_a_gain_offsets_nothing(two: TwoPrecisions) -> None:
    two.parity(BF16, dice_change_with_cells=0.01)
    two.lost[REDUCED] = 0.008
    assert two.choose().name == FULL


def test_what_was_measured_on_no_frame_with_cells_is_no_choice(two: TwoPrecisions) -> None:
    two.parity(BF16, dice_change_with_cells=None, mean_dice_with_cells=None)
    assert "openvino-bf16 (its export measured no loss of Dice on frames with cells)" in two.choose().reason


def test_the_goldens_are_held_to_the_loss_at_every_opening(two: TwoPrecisions) -> None:
    two.choose()
    two.lost[REDUCED] = 0.005
    assert two.choose().name == FULL


def test_a_golden_under_the_limits_of_the_export_is_a_failure_and_not_a_loss(two: TwoPrecisions) -> None:
    two.lost[REDUCED] = 0.1
    found = two.choose(max_dice_loss=0.5)
    assert (found.name, found.fell_back) == (FULL, True)
    assert "openvino-bf16 (failed: golden" in found.reason


def test_auto_stays_with_float32(two: TwoPrecisions) -> None:
    assert two.choose(None, "auto").name == FULL


@pytest.mark.parametrize(
    ("name", "allowed", "words"),
    [
        ("fastest", None, "fastest and a max_dice_loss belong together, e.g. 0.002; got none"),
        ("auto", 0.002, "belong together, e.g. 0.002; got 0.002 with auto"),
        ("openvino", 0.002, "got 0.002 with openvino"),
        ("fastest", 1.5, "max_dice_loss is a loss of mean Dice, 0 to 1, got 1.5"),
        ("fastest", float("nan"), "0 to 1, got nan"),
    ],
)
def test_a_loss_is_named_with_fastest_and_with_nothing_else(
    two: TwoPrecisions, name: str, allowed: float | None, words: str
) -> None:
    with pytest.raises(ArgumentError, match=words):
        two.choose(allowed, name)


def test_the_command_line_takes_the_loss(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BREASTSEG_CACHE", str(tmp_path / "cache"))
    assert main(["verify", str(bundle.path), "--backend", "fastest", "--max-dice-loss", "0.01"]) == 0
    assert "0.01 allowed" in capsys.readouterr().err
    assert main(["verify", str(bundle.path), "--backend", "fastest"]) == 1
    assert "belong together" in capsys.readouterr().err


def test_a_segmenter_says_why(bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "breastseg_deploy")
    try:
        segment = Segmenter.open(bundle.path, "fastest", max_dice_loss=0.002, machine=Machine(cache=tmp_path / "cache"))
    except BreastsegError as err:
        pytest.fail(str(err))
    with segment:
        assert "0.002 allowed" in segment.backend_reason
    assert segment.backend_reason in caplog.text
