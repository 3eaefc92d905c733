"""Checks of a bundle on the machine it was brought to, on frames that the export never saw. Needs no PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.backends import Backend
from breastseg_deploy.backends.onnxruntime_cpu import NetworkOnCpu, OnnxRuntimeCpu
from breastseg_deploy.bundle import MODEL, NETWORK_FP16
from breastseg_deploy.errors import ParityError
from breastseg_deploy.images import FrameFile, read_rgb, read_truth
from breastseg_deploy.metrics import dice
from breastseg_deploy.segmenter import Segmenter


@dataclass(frozen=True)
class FrameCheck:
    """What the frames said; Dice figures are None where there was nothing to measure them on.

    Attributes:
        frames: how many.
        against: the other way through the bundle that the served one was compared with; None where it has no other.
        agreement_worst_dice: the served way against the other one, worst frame.
        agreement_mean_dice: the same, mean over frames.
        truth_dice_with_cells: mean Dice against ground truth over frames whose truth holds cells.
        truth_dice_all: mean over all frames with a truth; an empty pair counts as 1.
        false_positive_frames: share of frames with an empty truth on which any pixel was called a cell.
    """

    frames: int
    against: str | None
    agreement_worst_dice: float | None
    agreement_mean_dice: float | None
    truth_dice_with_cells: float | None
    truth_dice_all: float | None
    false_positive_frames: float | None


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
        ParityError: the two ways differ by more than the export allowed what serves, or its float16 network.
        MachineError: the other way needs onnxruntime, and it is not installed.
        BackendError: one of the two ways failed.
    """
    way, other, limited_by = _other_way(segment)
    agreement: list[float] = []
    truths: list[tuple[bool, bool, float]] = []  # truth has cells, mask has cells, Dice
    try:
        for file in files:
            rgb = read_rgb(file, segment.manifest.frame.size_px, bit_depth)[np.newaxis]
            truth = read_truth(file, segment.manifest.frame.size_px)
            mask = segment(rgb).mask[0]
            if other is not None:
                agreement.append(dice(mask, _mask(other, rgb, segment.manifest.threshold, str(way))))
            if truth is not None:
                truths.append((bool(truth.any()), bool(mask.any()), dice(mask, truth)))
            on_frame()
    finally:
        if other is not None:
            other.close()
    _hold_to_limits(segment, agreement, str(way), limited_by)
    return FrameCheck(
        frames=len(files),
        against=way,
        agreement_worst_dice=min(agreement, default=None),
        agreement_mean_dice=_mean(agreement),
        truth_dice_with_cells=_mean([figure for cells, _, figure in truths if cells]),
        truth_dice_all=_mean([figure for _, _, figure in truths]),
        false_positive_frames=_mean([float(found) for cells, found, _ in truths if not cells]),
    )


def _other_way(segment: Segmenter) -> tuple[str | None, Backend | None, str]:
    """Another way from frame to mask than the one that serves: what to call it, itself, and whose limits both keep.

    Whatever serves, the other way has another preprocessing and another engine or precision; None where there is none.
    """
    if segment.backend != "onnxruntime":
        return f"{MODEL} in ONNX Runtime on the CPU", OnnxRuntimeCpu(segment.bundle), segment.artefact
    if NETWORK_FP16 in segment.manifest.files:
        return f"{NETWORK_FP16} behind the CPU preprocessing", NetworkOnCpu(segment.bundle), NETWORK_FP16
    return None, None, MODEL


def _mask(backend: Backend, rgb: NDArray[np.uint8], threshold: float, way: str) -> NDArray[np.bool_]:
    inference = backend.infer(rgb).checked(rgb.shape[:3], way)
    return np.asarray(inference.probability[0] >= threshold)


def _hold_to_limits(segment: Segmenter, agreement: list[float], way: str, limited_by: str) -> None:
    if not agreement:
        return
    limits = segment.manifest.limits_of(limited_by)
    worst, mean = min(agreement), float(np.mean(agreement))
    if worst < limits.worst_dice or mean < limits.mean_dice:
        raise ParityError(
            f"{segment.backend} and {way} disagree on these frames: worst Dice {worst:.6f} "
            f"(limit {limits.worst_dice}), mean {mean:.6f} (limit {limits.mean_dice}); "
            "do not use this bundle here: export it again with --frames of this kind"
        )


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None
