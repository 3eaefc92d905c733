"""`portable`: the whole path from frame to probability in one float32 graph, as every export writes it."""

from __future__ import annotations

from breastseg_deploy.bundle import MODEL, PORTABLE
from breastseg_export import runners
from breastseg_export.formats.format import FRAMES_SPEC, PROBABILITY_SPEC, Candidate, Work
from breastseg_export.graph import portable_model
from breastseg_export.named_frames import NamedFrames
from breastseg_export.parity import FP32_LIMITS, Compared, stricter


class Portable:
    """See the module; a `Format`."""

    after_parity = False

    def check(self, frames: NamedFrames) -> None:
        """Nothing that could be wrong."""

    def make(self, work: Work) -> Candidate:
        """The network with preprocessing and sigmoid around it."""
        graph = portable_model(work.network, work.gabor, work.size_px)
        run = runners.portable_in_onnxruntime(graph)
        return Candidate(
            PORTABLE,
            {MODEL: graph.SerializeToString},
            (FRAMES_SPEC,),
            (PROBABILITY_SPEC,),
            (Compared(MODEL, "ONNX Runtime", run, stricter(FP32_LIMITS, work.settings.min_dice)),),
        )
