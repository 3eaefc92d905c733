"""The slide artefact on the CPU: the network for one tile, proven on its golden tile before it serves."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.artefacts import SlideTiles, details_of
from breastseg_deploy.bundle import SLIDE, SLIDE_GOLDEN, Bundle
from breastseg_deploy.errors import BackendError, BundleError, ParityError
from breastseg_deploy.inference import Inference
from breastseg_deploy.machine import Machine
from breastseg_deploy.metrics import dice, flipped_ppm
from breastseg_deploy.preprocess.tensor import network_input
from breastseg_deploy.selftest import GoldenResult, cpu_verdict_key, self_test_once
from breastseg_deploy.verdicts import Verdicts


class TileNetwork(Protocol):
    """The slide artefact in an engine. One thread at a time calls it.

    Attributes:
        name: of the backend.
        title: name, version and settings of the engine.
    """

    name: str
    title: str

    def infer(self, tensor: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probability (H, W) of one tile's tensor (1, 4, H, W), both sides multiples of 32; the caller's own.

        Raises:
            BackendError: the engine failed.
        """

    def close(self) -> None:
        """Give the engine's memory back."""


def open_tiles(network: TileNetwork, bundle: Bundle, machine: Machine) -> TileNetwork:
    """The network, once it reproduces the golden tile on this machine; closed where it does not.

    Raises:
        BackendError: the engine failed.
        ParityError: the golden tile misses the limit.
        BundleError: the bundle holds no slide artefact, or the golden is damaged.
    """
    try:
        tiles = bundle_tiles(bundle)
        depends_on = {"engine": network.title, "tiles": tiles.model_dump_json()}
        key = cpu_verdict_key(f"slide-{network.name}", bundle, SLIDE, depends_on, machine)
        self_test_once(key, Verdicts(machine), lambda: (run_golden_tile(network, bundle, tiles),))
    except BaseException:
        network.close()
        raise
    return network


def run_golden_tile(network: TileNetwork, bundle: Bundle, tiles: SlideTiles) -> GoldenResult:
    """The golden tile by this network.

    Raises:
        ParityError: its Dice is under the limit that the export had to meet.
    """
    golden, gabor = bundle.slide_golden(tiles.golden_px), bundle.manifest.gabor.parameters()
    probability = checked(network, network_input(golden.frame[np.newaxis], gabor))
    mask = probability >= bundle.manifest.threshold
    found, limit = dice(mask, golden.mask), tiles.parity.limits.worst_dice
    if not found >= limit:
        raise ParityError(
            f"the golden tile {SLIDE_GOLDEN} has Dice {found:.6f} by {network.title}, the limit is {limit:.6g}; do not "
            "segment slides with it on this machine: take another backend, or run `breastseg doctor` and export again"
        )
    error = float(np.abs(probability - golden.probability).max())
    return GoldenResult(SLIDE_GOLDEN, found, flipped_ppm(mask, golden.mask), error)


def checked(network: TileNetwork, tensor: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probability (H, W) of a tile's tensor, where it is one.

    Raises:
        BackendError: another shape or dtype, NaN, or values outside [0, 1].
    """
    shape = (1, *tensor.shape[2:])
    return np.asarray(Inference(network.infer(tensor)[np.newaxis], {}).checked(shape, network.title)[0])


def bundle_tiles(bundle: Bundle) -> SlideTiles:
    """What the bundle says of its slide artefact.

    Raises:
        BundleError: it holds none.
    """
    found = details_of(bundle.manifest, SLIDE, SlideTiles)
    if not found:
        raise BundleError(
            f"{bundle.path} holds no slide artefact: it was exported by an earlier version or with --no-slide; export "
            "the checkpoint again"
        )
    return found[0]


def no_slides(name: str) -> BackendError:
    """Why a backend segments no slides."""
    return BackendError(
        f"{name} segments no slides yet, which run in float32 on the CPU alone; open the bundle with the backend "
        "openvino or onnxruntime"
    )
