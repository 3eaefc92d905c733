"""Parity: each artefact against the float32 reference, frame by frame, from raw uint8 to mask."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.errors import ParityError
from breastseg_deploy.fingerprint import Measures, measure
from breastseg_deploy.manifest import Parity, ParityLimits
from breastseg_deploy.metrics import dice, flipped_ppm, surface_dice
from breastseg_export.named_frames import NamedFrame, NamedFrames
from breastseg_export.runners import Engine, Probability

FP32_LIMITS = ParityLimits(worst_dice=0.9999, mean_dice=0.9999, dice_change=0.001)
FP16_LIMITS = ParityLimits(worst_dice=0.99, mean_dice=0.999, dice_change=0.001)
BF16_LIMITS = ParityLimits(worst_dice=0.99, mean_dice=0.999, dice_change=0.001)
FLOAT16_SUMS_LIMITS = ParityLimits(worst_dice=0.99, mean_dice=0.99, dice_change=0.01)
"""For the float16 network in an engine that also sums in float16, which nobody chooses and everybody may get. What is
served must reach the worst Dice of `FP16_LIMITS` on its goldens, whatever it sums in: so this one must as well, or the
scanner would refuse what the export let pass. The rest follows from it (docs/LOG.md has what was measured)."""

INT8_LIMITS = ParityLimits(worst_dice=0.97, mean_dice=0.99, dice_change=0.002)
"""For a network with 8-bit layers, which is never taken unasked. What counts is what it costs against the truth, so it
is measured on frames with one; see `int8.check_frames`."""

_PICTURES = 3
"""Worst frames of each artefact that are kept as pictures."""
_GOLDENS_WITH_CELLS, _GOLDENS_EMPTY = 2, 1


@dataclass(frozen=True)
class Compared:
    """A way to run what an export made, and what it has to meet.

    Attributes:
        file: its name in the bundle.
        engine: what runs it.
        run: the same as a function.
        limits: what it has to meet.
        frames: names of the only frames that it runs on; None for all.
    """

    file: str
    engine: str
    run: Engine
    limits: ParityLimits
    frames: Collection[str] | None = None

    @property
    def title(self) -> str:
        """What it is called in reports and messages."""
        return f"{self.file} in {self.engine}"


@dataclass(frozen=True)
class FrameParity:
    """One frame, one artefact; see `manifest.Parity` for what the figures mean."""

    name: str
    with_cells: bool
    dice: float
    flipped_ppm: float
    surface_dice: float
    probability_error: float
    dice_change: float | None
    truth_with_cells: bool


@dataclass(frozen=True)
class Picture:
    """A frame as the reference and the artefact saw it."""

    figures: FrameParity
    frame: NDArray[np.uint8]
    reference: Probability
    artefact: Probability


@dataclass(frozen=True)
class ReferenceAnswer:
    """A frame and the reference's answer to it, as goldens hold them."""

    name: str
    frame: NDArray[np.uint8]
    probability: Probability
    mask: NDArray[np.uint8]


@dataclass
class ParityRun:
    """Everything one run of the comparison found.

    Attributes:
        figures: by artefact, one entry per frame that it ran on, in the order of the frames.
        pictures: by artefact, its worst frames, the worst first.
        goldens: frames with the reference's answer, some with cells and some without.
        summaries: by artefact, what goes into the manifest.
        measured: of each frame and the reference's answer, what the fingerprint is made from.
    """

    figures: dict[str, list[FrameParity]] = field(default_factory=dict)
    pictures: dict[str, list[Picture]] = field(default_factory=dict)
    goldens: list[ReferenceAnswer] = field(default_factory=list)
    summaries: dict[str, Parity] = field(default_factory=dict)
    measured: list[Measures] = field(default_factory=list)

    def golden_dice(self, title: str) -> tuple[float, ...]:
        """Dice of an artefact's masks on the goldens, in their order."""
        by_name = {frame.name: frame.dice for frame in self.figures[title]}
        return tuple(by_name[golden.name] for golden in self.goldens)


def compare(
    reference: Engine,
    artefacts: Sequence[Compared],
    frames: NamedFrames,
    threshold: float,
    on_frame: Callable[[], object] = lambda: None,
) -> ParityRun:
    """Run reference and artefacts over all frames; one frame is in memory at a time, besides the pictures kept.

    Args:
        reference: the float32 PyTorch path.
        artefacts: what to hold against it.
        frames: to compare on.
        threshold: of the masks.
        on_frame: called after each frame, for a progress bar.

    Raises:
        ParityError: the reference's own answer is not finite, so nothing can be held to it.
    """
    run = ParityRun(figures={a.title: [] for a in artefacts}, pictures={a.title: [] for a in artefacts})
    for one in frames:
        expected = reference(one.frame)
        if not np.isfinite(expected).all():
            raise ParityError(
                f"the float32 reference itself gives NaN on {one.name}; no bundle was written: "
                "export a checkpoint of a training that converged"
            )
        # The reference's masks, not an artefact's: later drift is judged against what the model itself found.
        run.measured.append(measure(one.frame, (expected >= threshold).astype(np.uint8), expected))
        _keep_golden(run.goldens, one, expected, threshold)
        for artefact in artefacts:
            if artefact.frames is not None and one.name not in artefact.frames:
                continue
            found = artefact.run(one.frame)
            figures = frame_parity(one, expected, found, threshold)
            run.figures[artefact.title].append(figures)
            # Only the worst are kept at any time: frames and probabilities of all would fill the memory.
            kept = [*run.pictures[artefact.title], Picture(figures, one.frame, expected, found)]
            run.pictures[artefact.title] = sorted(kept, key=_distance, reverse=True)[:_PICTURES]
        on_frame()
    run.summaries = {a.title: summary(a.engine, a.limits, run.figures[a.title]) for a in artefacts}
    return run


def failures(summaries: Mapping[str, Parity]) -> list[str]:
    """Every limit that an artefact missed, one sentence each; empty when all is well.

    Frames without cells prove little: two empty masks always agree. So at least one frame must hold cells. The change
    against the truth counts from one frame on: an export that is refused for a single frame's border can be given more.
    """
    missed = []
    for title, parity in summaries.items():
        if not parity.frames_with_cells:
            missed.append(
                f"{title}: no frame holds a cell by the reference, so agreement proves nothing; use other --frames"
            )
        for what, figure, limit in (
            ("worst frame Dice", parity.worst_dice, parity.limits.worst_dice),
            ("mean Dice", parity.mean_dice, parity.limits.mean_dice),
            ("mean Dice of frames with cells", parity.mean_dice_with_cells, parity.limits.mean_dice),
        ):
            if figure is not None and not figure >= limit:  # `not >=` refuses NaN, which `<` would let pass
                missed.append(f"{title}: {what} {figure:.6f} is under {limit}")
        for frames, change in (
            ("", parity.dice_change),
            (" on frames with cells", parity.dice_change_with_cells),
        ):
            if change is not None and not abs(change) <= parity.limits.dice_change:
                missed.append(f"{title}: Dice against the ground truth changed by {change:+.6f}{frames}")
    return missed


def stricter(limits: ParityLimits, min_dice: float | None) -> ParityLimits:
    """The limits with every Dice raised to at least `min_dice`; nothing can lower them."""
    if min_dice is None:
        return limits
    raised = {"worst_dice": max(limits.worst_dice, min_dice), "mean_dice": max(limits.mean_dice, min_dice)}
    return limits.model_copy(update=raised)


def check(summaries: Mapping[str, Parity]) -> None:
    """Refuse an export whose artefacts miss a limit.

    Raises:
        ParityError: at least one limit is missed; the message holds them all.
    """
    missed = failures(summaries)
    if missed:
        raise ParityError("; ".join(missed))


def frame_parity(named: NamedFrame, expected: Probability, found: Probability, threshold: float) -> FrameParity:
    """What one frame says of an artefact. An answer that is not finite has Dice 0."""
    reference_mask, mask = expected >= threshold, found >= threshold
    change = None
    if named.truth is not None:
        change = dice(mask, named.truth) - dice(reference_mask, named.truth)
    finite = bool(np.isfinite(found).all())
    return FrameParity(
        name=named.name,
        with_cells=bool(reference_mask.any()),
        dice=dice(mask, reference_mask) if finite else 0.0,
        flipped_ppm=flipped_ppm(mask, reference_mask),
        surface_dice=surface_dice(mask, reference_mask),
        probability_error=float(np.abs(found - expected).max()) if finite else float("inf"),
        dice_change=change,
        truth_with_cells=named.truth is not None and bool(named.truth.any()),
    )


def _distance(picture: Picture) -> tuple[float, float, float]:
    return -picture.figures.dice, picture.figures.flipped_ppm, picture.figures.probability_error


def summary(engine: str, limits: ParityLimits, figures: list[FrameParity]) -> Parity:
    """What the manifest says of an artefact, from the figures of its frames."""
    with_cells = [figure.dice for figure in figures if figure.with_cells]
    changes = [(figure.dice_change, figure.truth_with_cells) for figure in figures if figure.dice_change is not None]
    error = max(figure.probability_error for figure in figures)
    return Parity(
        engine=engine,
        frames=len(figures),
        frames_with_cells=len(with_cells),
        mean_dice=float(np.mean([figure.dice for figure in figures])),
        worst_dice=min(figure.dice for figure in figures),
        mean_dice_with_cells=_mean(with_cells),
        worst_flipped_ppm=max(figure.flipped_ppm for figure in figures),
        worst_surface_dice=min(figure.surface_dice for figure in figures),
        largest_probability_error=min(error, 1.0),  # infinity marks an answer that was not finite: Dice 0
        dice_change=_mean([change for change, _ in changes]),
        dice_change_with_cells=_mean([change for change, with_cells in changes if with_cells]),
        limits=limits,
    )


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _keep_golden(goldens: list[ReferenceAnswer], named: NamedFrame, expected: Probability, threshold: float) -> None:
    mask = (expected >= threshold).astype(np.uint8)
    # A network that finds nothing at all passes every empty golden, and one that finds cells everywhere fails there.
    room = _GOLDENS_WITH_CELLS if mask.any() else _GOLDENS_EMPTY
    if sum(bool(golden.mask.any()) == bool(mask.any()) for golden in goldens) < room:
        goldens.append(ReferenceAnswer(named.name, named.frame, expected, mask))
