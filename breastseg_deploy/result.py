"""What the runtime gives back for one frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.cell_choice import NOT_CHOSEN, CellChoice, parameters_for
from breastseg_deploy.errors import ArgumentError
from breastseg_deploy.instances import CellParameters, in_255ths, split_cells
from breastseg_deploy.preprocess.gabor import LUMA_BT601
from breastseg_deploy.slide.figures import measure_cells

STAGES = (
    "contract", "stage", "upload", "preprocess", "network", "encoder", "decoder", "mask", "download", "check", "total",
)  # fmt: skip
"""Names of the stages that `Segmentation.timings` may hold, in order.

"contract" checks the frame, "stage" copies it into page-locked memory, "check" holds the answer to its range and, on a
CPU, makes the mask. A backend whose artefact computes the edge channel counts that under "network"; with the
empty-frame gate the network is "encoder" and "decoder"."""


@dataclass(frozen=True)
class Cells:
    """The cells of one frame.

    Attributes:
        labels: (H, W) uint32, 0 for none, numbered from 1 by their first pixels in reading order.
        table: (N,) of `slide.raster.CELL_DTYPE`, a row for each.
        parameters: how the mask was split.
        chosen_on: the labelled frames that they were chosen on, in words; or that they are the documented defaults.
    """

    labels: NDArray[np.uint32]
    table: NDArray[np.void]
    parameters: CellParameters
    chosen_on: str


@dataclass(frozen=True)
class Segmentation:
    """The answer for one frame.

    Attributes:
        mask: (H, W) uint8; 1 where the probability reaches the bundle's threshold, else 0.
        probability: (H, W) float32 in [0, 1]; None where it was not asked for.
        timings: seconds by stage (`STAGES`): wall time, and on a GPU the device's own time for its stages; "total" is
            the wall time of the call. In a batch they are those of the whole batch, the same for each of its frames.
        backend: name of the backend that computed it.
        skipped: whether the empty-frame gate found the frame empty; nobody looked at its pixels any further then, and
            its probability is given as 0. None where the bundle was opened without its gate.
        gate_score: the gate's score; None likewise.
        cell_choice: what the bundle says about cells; None where nothing was chosen on labelled frames.
        pixel_size_um: of the bundle's frames; None where it is not known.
    """

    mask: NDArray[np.uint8]
    probability: NDArray[np.float32] | None
    timings: Mapping[str, float]
    backend: str
    skipped: bool | None = None
    gate_score: float | None = None
    cell_choice: CellChoice | None = None
    pixel_size_um: float | None = None

    def cells(self, frame: NDArray[Any] | None = None, *, source: str | None = None) -> Cells:
        """The cells of the mask, split with the bundle's parameters; without any, with `instances.DEFAULTS`.

        Args:
            frame: (H, W), or (H, W, 3) whose luma counts; its values are the cells' mean intensities. None where
                nobody needs them: they are NaN then.
            source: whose own parameters to take, by a name that the manifest lists; None for the general ones.

        Raises:
            ArgumentError: the probability was not asked for, another frame size, or an unknown source.
            MachineError: OpenCV is not installed.
        """
        if self.probability is None:
            raise ArgumentError("cells need the probability, which was not asked for; segment with probability=True")
        intensity = self._intensity(frame)
        parameters = parameters_for(self.cell_choice, source)
        labels = split_cells(self.mask, self.probability, parameters, self.pixel_size_um)
        return Cells(
            labels,
            measure_cells(labels, in_255ths(self.probability), intensity),
            parameters,
            NOT_CHOSEN if self.cell_choice is None else self.cell_choice.chosen_on,
        )

    def _intensity(self, frame: NDArray[Any] | None) -> NDArray[Any]:
        """(H, W), in the frame's own units."""
        if frame is None:
            return np.full(self.mask.shape, np.nan)
        if frame.shape == self.mask.shape:
            return frame
        if frame.shape == (*self.mask.shape, 3):
            return np.asarray(frame @ np.array(LUMA_BT601))
        raise ArgumentError(
            f"the frame must be (H, W) or (H, W, 3) of the mask's size {self.mask.shape}, got {frame.shape}; pass the "
            "frame that was segmented"
        )
