"""`python -m breastseg_benchmark.serve_runtime BUNDLE BACKEND FRAMES`: the runtime as a contestant."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from breastseg_benchmark.serving import Answer, serve
from breastseg_deploy.segmenter import Segmenter


class RuntimeContestant:
    """A bundle opened with a backend, as a scanner does it: with PyTorch nowhere in the process."""

    def __init__(self, bundle: Path, backend: str) -> None:
        self._segment = Segmenter.open(bundle, backend)
        self.facts: Mapping[str, str] = {"backend": self._segment.backend, "detail": self._segment.backend_reason}

    def __call__(self, rgb: NDArray[np.uint8]) -> Answer:
        """Segment a batch; see `serving.Contestant`."""
        results = self._segment.batch(rgb)
        return Answer(np.stack([result.mask for result in results]), results[0].timings)


def main(arguments: list[str]) -> int:
    """Serve until stdin ends."""
    bundle, backend, frames = arguments
    return serve(lambda: RuntimeContestant(Path(bundle), backend), Path(frames))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
