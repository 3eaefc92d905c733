"""`python serve_peer.py PEER CHECKPOINT SHARED FRAMES`: a peer in a process of its own."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from breastseg_benchmark.serving import Segmented, serve
from peers import PEERS, Peer, Setting


class LoadedPeer:
    """A loaded peer."""

    def __init__(self, peer: Peer, setting: Setting) -> None:
        self.facts: Mapping[str, str] = {"detail": peer.title}
        self._segment = peer.open(setting)

    def __call__(self, rgb: NDArray[np.uint8]) -> Segmented:
        """Segment a batch."""
        return Segmented(self._segment(rgb))


def main(arguments: list[str]) -> int:
    """Serve until stdin ends."""
    name, checkpoint, shared, frames = arguments
    setting = Setting(checkpoint, Path(shared), Path(frames))
    return serve(lambda: LoadedPeer(PEERS[name], setting), setting.frames)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
