"""The empty-frame gate: an early exit before the decoder for frames without cells, and what a bundle says about it.

Most frames of a scan hold no cells (60 % of the paper's, table I), and most of the work is in the decoder. A gate
scores a frame by the encoder's last features; where the score lies under a threshold, the mask is empty and the decoder
is left out.
"""

from __future__ import annotations

from math import exp, fsum, isclose, lgamma
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

LEAST_CHANCE = 0.01
"""Misses that are less likely than this under a gate's promise are not put down to chance."""
_ROUNDING = 1e-12

SCORE = "score"
"""Output of the gate's encoder: (N,) float32."""
FEATURES = tuple(f"features_{level}" for level in range(1, 6))
"""Its other outputs and the decoder's inputs, from (N, C, H / 2, W / 2) to H / 32."""


class GateCalibration(BaseModel):
    """How the threshold of a gate was set: split conformal calibration on frames with cells that trained nothing.

    With n such frames and the threshold at the k-th smallest of their scores, a new frame with cells scores lower with
    a probability of at most k / (n + 1). That holds for frames drawn like those of the calibration (same scanner, stain
    and tissue), as an average over such calibrations; for other frames nothing is promised.

    Attributes:
        recall: share of frames with cells that the gate was asked to let through, at least.
        threshold: k-th smallest score; a frame is skipped where its score is lower.
        miss_bound: k / (n + 1), at most 1 - recall.
        frames_with_cells: n.
        frames_empty: empty frames of the calibration.
        empty_skipped: share of these that the threshold skips; None without any.
        size_px: (H, W) of the frames; the guarantee is one for this size.
        fitted_on, calibrated_on: the splits, in words.
        data_sha256: hash over both.

    Source: split conformal prediction: Vovk et al., Algorithmic Learning in a Random World, 2005; Angelopoulos and
    Bates, A Gentle Introduction to Conformal Prediction, arXiv 2107.07511, section 1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    recall: float = Field(gt=0, lt=1)
    threshold: float
    miss_bound: float = Field(gt=0, lt=1)
    frames_with_cells: int = Field(ge=1)
    frames_empty: int = Field(ge=0)
    empty_skipped: float | None = Field(ge=0, le=1)
    size_px: tuple[PositiveInt, PositiveInt]
    fitted_on: str
    calibrated_on: str
    data_sha256: str

    def chance(self, frames_with_cells: int, missed: int) -> float:
        """Probability that a gate which keeps its promise misses so many of these frames, or more.

        The share that a threshold of rank k misses varies with the calibration frames as a Beta(k, n + 1 - k), so
        misses among new frames are beta-binomial (Angelopoulos and Bates, section 3.2).
        """
        n, k, new = self.frames_with_cells, self.rank, frames_with_cells

        def log_beta(a: float, b: float) -> float:
            return lgamma(a) + lgamma(b) - lgamma(a + b)

        def log_ways(x: int) -> float:
            return lgamma(new + 1) - lgamma(x + 1) - lgamma(new - x + 1)

        terms = (
            exp(log_ways(x) + log_beta(x + k, new - x + n + 1 - k) - log_beta(k, n + 1 - k))
            for x in range(missed, new + 1)
        )
        return min(1.0, fsum(terms))

    @property
    def rank(self) -> int:
        """k: which score from below is the threshold."""
        return round(self.miss_bound * (self.frames_with_cells + 1))

    @model_validator(mode="after")
    def _bound_is_that_of_its_rank(self) -> Self:
        if not 1 <= self.rank <= self.frames_with_cells or not isclose(
            self.miss_bound, self.rank / (self.frames_with_cells + 1)
        ):
            raise ValueError(f"miss_bound {self.miss_bound} is no k / (n + 1) of {self.frames_with_cells} frames")
        if self.miss_bound > 1 - self.recall + _ROUNDING:
            raise ValueError(f"miss_bound {self.miss_bound} allows more misses than the recall {self.recall}")
        return self

    @property
    def promise(self) -> str:
        """What is guaranteed, in words."""
        return (
            f"a frame with cells like those of the calibration is skipped with a probability of at most "
            f"{self.miss_bound:.4f} (asked: {1 - self.recall:.4f}; {self.frames_with_cells} frames with cells)"
        )


class Gate(GateCalibration):
    """The gate of a bundle, for the network in one precision.

    Attributes:
        margin: how far a score computed by the bundle may lie from the reference's. The runtime skips a frame only
            where its score lies further than that under `threshold`, so that rounding never skips one more.
        largest_score_error: what the export found on the parity frames.
        golden_scores: the reference's scores of the manifest's goldens, in their order.
        golden_skipped: which of these the gate skips.
        parity_frames_skipped: how many of the parity frames the gate skips, among them
        parity_frames_with_cells_skipped: those in which the reference finds a cell.
        cut: names of the decoder's inputs inside the whole network, which OpenVINO cuts there; empty where the halves
            are files.
        refusal: why nobody may serve it, in a sentence; empty where it may be served.
    """

    margin: float = Field(ge=0)
    largest_score_error: float = Field(ge=0)
    golden_scores: tuple[float, ...]
    golden_skipped: tuple[bool, ...]
    parity_frames_skipped: int = Field(ge=0)
    parity_frames_with_cells_skipped: int = Field(ge=0)
    cut: tuple[str, ...] = ()
    refusal: str = ""

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if self.largest_score_error > self.margin and not self.refusal:
            raise ValueError(f"largest_score_error {self.largest_score_error} is over the margin {self.margin}")
        if self.parity_frames_with_cells_skipped > self.parity_frames_skipped:
            raise ValueError("more parity frames with cells are skipped than parity frames")
        if tuple(score < self.serving_threshold for score in self.golden_scores) != self.golden_skipped:
            raise ValueError("golden_skipped is not what golden_scores and threshold say")
        return self

    @property
    def serving_threshold(self) -> float:
        """A frame is skipped where its score is lower than this."""
        return self.threshold - self.margin
