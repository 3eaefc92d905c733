"""The empty-frame gate, tried on a user's own frames: what it skips, what it misses, and the time that it saves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from breastseg_deploy.backends.gated import bundle_gate
from breastseg_deploy.backends.select import choose
from breastseg_deploy.errors import FrameError, ParityError
from breastseg_deploy.gate import LEAST_CHANCE
from breastseg_deploy.io.images import FrameFile, read_rgb, read_truth
from breastseg_deploy.metrics import dice
from breastseg_deploy.segmenter import Segmenter


@dataclass(frozen=True)
class GateCheck:
    """What the empty-frame gate did to frames, against the same backend without it.

    Attributes:
        frames: how many.
        by_truth: whether frames with cells were told by ground truth; else by the mask without the gate.
        frames_with_cells: how many hold cells.
        skipped: frames that the gate found empty.
        missed: skipped frames with cells; `missed_frames` names them.
        missed_pixels: cell pixels in these.
        chance: probability that a gate which keeps its promise misses so many of these frames; see `gate.Gate.chance`.
        contradiction: why the gate's promise cannot hold for frames like these, in a sentence; empty where it can.
        mean_seconds: wall time of a frame with the gate, from array to mask; mean over frames.
        mean_seconds_without: the same without the gate, called in turn.
    """

    frames: int
    by_truth: bool
    frames_with_cells: int
    skipped: int
    missed: int
    missed_frames: tuple[str, ...]
    missed_pixels: int
    chance: float
    contradiction: str
    mean_seconds: float
    mean_seconds_without: float


def check_gate(
    segment: Segmenter,
    files: Sequence[FrameFile],
    bit_depth: int | None = None,
    on_frame: Callable[[], object] = lambda: None,
) -> GateCheck:
    """Segment frames with the gate and without it, in turn; count what it skips and what it misses.

    Args:
        segment: opened with its gate.
        files: frames; either all or none with ground truth.
        bit_depth: of uint16 frames.
        on_frame: called after each frame.

    Raises:
        FrameError: a frame cannot be read or breaks the contract, or only some have a ground truth.
        ParityError: a frame that the gate let through has another mask than without it.
    """
    without = [file for file in files if file.truth is None]
    if 0 < len(without) < len(files):
        raise FrameError(
            f"all frames or none must have a mask to count misses by, {len(without)} of {len(files)} have none, such "
            f"as {without[0].path}; add the masks, or give the folder images/ alone"
        )
    gate = bundle_gate(segment.bundle, segment.artefact)
    limit = segment.manifest.limits_of(segment.artefact).worst_dice
    seconds: dict[bool, list[float]] = {True: [], False: []}
    skipped, with_cells, missed = 0, 0, dict[str, int]()
    # Of the bundle that is open: from its folder it could be another one by now, and its signature was not checked.
    with Segmenter(segment.bundle, choose(segment.bundle, segment.backend)) as whole:
        for number, file in enumerate(files):
            rgb = read_rgb(file, segment.manifest.frame.size_px, bit_depth)
            truth = read_truth(file, segment.manifest.frame.size_px)
            answers = {}
            for gated in (True, False) if number % 2 else (False, True):
                answers[gated] = (segment if gated else whole)(rgb)
                seconds[gated].append(answers[gated].timings["total"])
            cells = int((answers[False].mask if truth is None else truth).sum())
            with_cells += cells > 0
            if answers[True].skipped:
                skipped += 1
                missed.update({file.name: cells} if cells else {})
            elif not (agreement := dice(answers[True].mask, answers[False].mask)) >= limit:
                raise ParityError(
                    f"{file.name} has another mask with the gate than without: Dice {agreement:.6f}, limit {limit}; "
                    "do not use the gate on this machine: run `breastseg doctor`"
                )
            on_frame()
    chance, contradiction = gate.chance(with_cells, len(missed)), ""
    if chance < LEAST_CHANCE:
        contradiction = (
            f"the gate skips {len(missed)} of {with_cells} frames with cells and promises to skip at most "
            f"{gate.miss_bound:.4f} of them; by chance that happens with a probability of {chance:.1e}: these frames "
            "are not like those it was calibrated on, fit it on frames of this kind"
        )
    return GateCheck(
        frames=len(files),
        by_truth=not without,
        frames_with_cells=with_cells,
        skipped=skipped,
        missed=len(missed),
        missed_frames=tuple(missed),
        missed_pixels=sum(missed.values()),
        chance=chance,
        contradiction=contradiction,
        mean_seconds=float(np.mean(seconds[True])),
        mean_seconds_without=float(np.mean(seconds[False])),
    )
