"""`python -m peers.plain_export CHECKPOINT SHARED SIZE`: the plain `torch.onnx.export` that several peers start from.

Written by a process of its own, so that the peers behind it need no PyTorch and do not pay for the export's memory.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.errors import MachineError
from breastseg_deploy.preprocess.gabor import GaborParameters

INPUT = "tensor"
_ONNX, _FACTS = "plain.onnx", "plain.json"


@dataclass(frozen=True)
class PlainExport:
    """The network as ONNX, float32: tensor (1, 4, H, W) to logits (1, 1, H, W); and what stands around it."""

    onnx: Path
    threshold: float
    gabor: GaborParameters

    def masks(self, logits: Sequence[NDArray[Any]]) -> NDArray[np.uint8]:
        """(1, 1, H, W) each to (N, H, W) uint8: sigmoid(x) >= t where x >= log(t / (1 - t))."""
        bound = math.log(self.threshold / (1 - self.threshold))
        return np.stack([one[0, 0] >= bound for one in logits]).astype(np.uint8)


def read_plain_export(shared: Path) -> PlainExport:
    """The export of this run.

    Raises:
        MachineError: it could not be made.
    """
    facts = shared / _FACTS
    if not facts.exists():
        raise MachineError("there is no plain export to start from: see what the export said at the start of the run")
    held = json.loads(facts.read_text())
    gabor = GaborParameters(**{**held["gabor"], "wavelengths_px": tuple(held["gabor"]["wavelengths_px"])})
    return PlainExport(shared / _ONNX, held["threshold"], gabor)


def write_plain_export(name: str, shared: Path, side_px: int) -> None:
    """Export a checkpoint for one square frame."""
    import torch

    from breastseg_train.network.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(name)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            checkpoint.model,
            (torch.zeros(1, 4, side_px, side_px),),
            shared / _ONNX,
            input_names=[INPUT],
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    facts = {"threshold": checkpoint.threshold, "gabor": asdict(checkpoint.model.architecture.gabor)}
    (shared / _FACTS).write_text(json.dumps(facts))


if __name__ == "__main__":
    write_plain_export(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
