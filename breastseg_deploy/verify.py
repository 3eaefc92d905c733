"""Checks of a bundle on the machine it was brought to, on frames that the export never saw. Needs no PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.backends.onnxruntime import NetworkOnCpu, OnnxRuntimeCpu
from breastseg_deploy.bundle import FP16, MODEL, NETWORK_FP16, PORTABLE
from breastseg_deploy.errors import ParityError
from breastseg_deploy.inference import Backend
from breastseg_deploy.io.images import FrameFile, read_rgb, read_truth
from breastseg_deploy.manifest import ParityLimits
from breastseg_deploy.metrics import dice
from breastseg_deploy.segmenter import Segmenter

LEAST_JUDGED = 8
"""Frames whose truth holds cells, from which on the mean change of Dice against the truth is held to its limit. Over
fewer the border of one structure decides."""


@dataclass(frozen=True)
class FrameCheck:
    """What the frames said; Dice figures are None where there was nothing to measure them on.

    Attributes:
        frames: how many.
        against: the other way through the bundle that the served one was compared with; None where it has no other.
        agreement_worst_dice: the served way against the other one, worst frame.
        agreement_mean_dice: the same, mean over frames.
        agreement_mean_dice_with_cells: the same over frames on which the other way finds cells.
        truth_dice_with_cells: mean Dice against ground truth over frames whose truth holds cells.
        truth_dice_all: mean over all frames with a truth; an empty pair counts as 1.
        false_positive_frames: share of frames with an empty truth on which any pixel was called a cell.
        truth_dice_change_with_cells: mean over frames whose truth holds cells of the change of Dice against it, from
            the other way to the served one.
        truth_dice_change_all: the same over all frames with a truth.
        change_judged: whether these two were held to their limit, for which `LEAST_JUDGED` frames are needed.
    """

    frames: int
    against: str | None
    agreement_worst_dice: float | None
    agreement_mean_dice: float | None
    agreement_mean_dice_with_cells: float | None
    truth_dice_with_cells: float | None
    truth_dice_all: float | None
    false_positive_frames: float | None
    truth_dice_change_with_cells: float | None
    truth_dice_change_all: float | None
    change_judged: bool


def check_frames(
    segment: Segmenter,
    files: Sequence[FrameFile],
    bit_depth: int | None = None,
    on_frame: Callable[[], object] = lambda: None,
) -> FrameCheck:
    """Segment frames by two ways through the bundle and compare the masks; measure Dice where there is ground truth.

    ONNX Runtime on the CPU runs `model.onnx`, whose graph holds the preprocessing, and is compared with
    `network.fp16.onnx` behind the NumPy preprocessing; a bundle without the float16 network is then measured against
    the ground truth only. Every other backend, whose preprocessing is code, is compared with ONNX Runtime on the CPU.
    The two ways share little code, so agreement is evidence for both.

    Raises:
        FrameError: a frame cannot be read or breaks the contract.
        ParityError: the two ways differ by more than the export allowed what serves, or its float16 network: their
            masks, or (over at least `LEAST_JUDGED` frames with cells) their mean Dice against the ground truth.
        MachineError: the other way needs onnxruntime, and it is not installed.
        BackendError: one of the two ways failed.
    """
    route, other, limited_by = _other_route(segment)
    agreement: list[float] = []
    agreement_with_cells: list[float] = []
    truths: list[_AgainstTruth] = []
    try:
        for file in files:
            rgb = read_rgb(file, segment.manifest.frame.size_px, bit_depth)[np.newaxis]
            truth = read_truth(file, segment.manifest.frame.size_px)
            mask = segment(rgb[0]).mask
            theirs = None if other is None else _mask(other, rgb, segment.manifest.threshold, str(route))
            if theirs is not None:
                agreement.append(dice(mask, theirs))
                agreement_with_cells += agreement[-1:] if theirs.any() else []
            if truth is not None:
                truths.append(_against_truth(truth, mask, theirs))
            on_frame()
    finally:
        if other is not None:
            other.close()
    with_cells = [one for one in truths if one.with_cells]
    changes = [one.change for one in truths if one.change is not None]
    changes_with_cells = [one.change for one in with_cells if one.change is not None]
    limits = segment.manifest.limits_of(limited_by)
    judge = _Judge(limits, segment.backend, str(route), segment.record.by_name_only)
    judge.agreement({"all": agreement, "those with cells": agreement_with_cells})
    judged = len(changes_with_cells) >= LEAST_JUDGED
    if judged:
        judge.change({"all": changes, "those with cells": changes_with_cells})
    return FrameCheck(
        frames=len(files),
        against=route,
        agreement_worst_dice=min(agreement, default=None),
        agreement_mean_dice=_mean(agreement),
        agreement_mean_dice_with_cells=_mean(agreement_with_cells),
        truth_dice_with_cells=_mean([one.dice for one in with_cells]),
        truth_dice_all=_mean([one.dice for one in truths]),
        false_positive_frames=_mean([float(one.found_cells) for one in truths if not one.with_cells]),
        truth_dice_change_with_cells=_mean(changes_with_cells),
        truth_dice_change_all=_mean(changes),
        change_judged=judged,
    )


@dataclass(frozen=True)
class _AgainstTruth:
    """A mask against its ground truth, and how much the other way's Dice changed to become its own."""

    with_cells: bool
    found_cells: bool
    dice: float
    change: float | None


def _against_truth(
    truth: NDArray[np.uint8], mask: NDArray[np.uint8], theirs: NDArray[np.bool_] | None
) -> _AgainstTruth:
    ours = dice(mask, truth)
    change = None if theirs is None else ours - dice(theirs, truth)
    return _AgainstTruth(bool(truth.any()), bool(mask.any()), ours, change)


def _other_route(segment: Segmenter) -> tuple[str | None, Backend | None, str]:
    """Another way from frame to mask than the one that serves: what to call it, itself, and whose limits both keep.

    Whatever serves, the other way has another preprocessing and another engine or precision; None where there is none.
    """
    if not segment.record.holds_preprocessing:
        return f"{MODEL} in ONNX Runtime on the CPU", OnnxRuntimeCpu(segment.bundle), segment.artefact
    if segment.manifest.artefact(FP16) is not None:
        return f"{NETWORK_FP16} behind the CPU preprocessing", NetworkOnCpu(segment.bundle), FP16
    return None, None, PORTABLE


def _mask(backend: Backend, rgb: NDArray[np.uint8], threshold: float, route: str) -> NDArray[np.bool_]:
    return np.asarray(backend.infer(rgb).checked(rgb.shape[:3], route)[0] >= threshold)


@dataclass(frozen=True)
class _Judge:
    """Holds the served way and the other one to limits; figures are by what the frames are, a list for each."""

    limits: ParityLimits
    served: str
    other: str
    by_name_only: bool

    def agreement(self, found: Mapping[str, list[float]]) -> None:
        for frames, figures in found.items():
            if not figures:
                continue
            worst, mean = min(figures), float(np.mean(figures))
            if not (worst >= self.limits.worst_dice and mean >= self.limits.mean_dice):
                raise ParityError(
                    f"{self.served} and {self.other} disagree on these frames: worst Dice {worst:.6f} "
                    f"(limit {self.limits.worst_dice}), mean {mean:.6f} of {len(figures)} ({frames}, limit "
                    f"{self.limits.mean_dice}); {self._advice}"
                )

    def change(self, found: Mapping[str, list[float]]) -> None:
        for frames, figures in found.items():
            mean = float(np.mean(figures))
            if not abs(mean) <= self.limits.dice_change:
                raise ParityError(
                    f"from {self.other} to {self.served}, Dice against the ground truth changes by {mean:+.6f} over "
                    f"{len(figures)} frames ({frames}), limit {self.limits.dice_change}; {self._advice}"
                )

    @property
    def _advice(self) -> str:
        if self.by_name_only:
            return (
                f"do not use {self.served} here: take float32, or export again with --calibrate on frames of this kind"
            )
        return "do not use this bundle here: export it again with --frames of this kind"


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None
