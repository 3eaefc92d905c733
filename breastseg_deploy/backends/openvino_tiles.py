"""OpenVINO on the CPU for slides: the network for one tile, compiled for one size of tile at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.backends.openvino_library import (
    NAME,
    SETTINGS,
    compiled_request,
    load_openvino,
    openvino_border,
    openvino_title,
    run_request,
)
from breastseg_deploy.backends.tiles import TileNetwork, bundle_tiles, open_tiles
from breastseg_deploy.bundle import SLIDE_NETWORK, Bundle
from breastseg_deploy.machine import Machine


class OpenVinoTiles:
    """The slide artefact, compiled for one size of tile at a time; see `tiles.TileNetwork`.

    A slide has tiles of one size, so the last one alone is kept.

    Raises:
        MachineError: openvino is not installed.
        BackendError: the network cannot be loaded.
        BundleError: it was altered, or the bundle holds none.
    """

    name = NAME

    def __init__(self, bundle: Bundle) -> None:
        bundle_tiles(bundle)
        self._ov = load_openvino()
        self.title = f"{openvino_title(self._ov)} {SETTINGS}"
        self._request: Any = None
        self._size_px: tuple[int, ...] = ()
        with openvino_border(
            f"cannot load {bundle.path / SLIDE_NETWORK}", "try another version of it, or export the bundle again"
        ):
            self._core = self._ov.Core()
            self._network = self._core.read_model(bundle.read(SLIDE_NETWORK))

    def infer(self, tensor: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `tiles.TileNetwork.infer`."""
        with openvino_border("failed", "no mask is returned: run `breastseg verify` on this bundle"):
            if tensor.shape[2:] != self._size_px:
                self._request, self._size_px = None, ()  # the memory of the last size first
                self._network.reshape(list(tensor.shape))
                self._request = compiled_request(self._ov, self._core, self._network)
                self._size_px = tensor.shape[2:]
            answer = run_request(self._request, {0: tensor})[0, 0]
            return np.array(answer, np.float32)  # copied before the next tile overwrites it

    def close(self) -> None:
        """Drop the network."""
        self._request = self._network = None
        self._size_px = ()


def open_openvino_tiles(bundle: Bundle, machine: Machine) -> TileNetwork:
    """The slide artefact by OpenVINO; see `tiles.open_tiles` for what it raises."""
    return open_tiles(OpenVinoTiles(bundle), bundle, machine)
