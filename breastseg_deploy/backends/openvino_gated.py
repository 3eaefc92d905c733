"""OpenVINO on the CPU with the empty-frame gate: both halves of the network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.backends.gated import GatedCpu, bundle_gate, open_gated
from breastseg_deploy.backends.openvino_library import (
    NAME,
    SETTINGS,
    compiled_request,
    load_openvino,
    openvino_border,
    openvino_title,
    run_request,
)
from breastseg_deploy.bundle import GATE_DECODER, GATE_ENCODER, TENSOR, Bundle
from breastseg_deploy.gate import FEATURES, SCORE
from breastseg_deploy.machine import Machine


class OpenVinoHalves:
    """The halves of a gated network, compiled for one frame; see `gated.Halves`. Features are not copied between them.

    Raises:
        MachineError: openvino is not installed.
        BackendError: a half cannot be loaded.
        BundleError: it was altered, or the bundle holds no gate.
    """

    name = NAME

    def __init__(self, bundle: Bundle) -> None:
        bundle_gate(bundle)
        ov = load_openvino()
        self.title = f"{openvino_title(ov)} {SETTINGS}"
        requests = []
        for file in (GATE_ENCODER, GATE_DECODER):
            with openvino_border(
                f"cannot load {bundle.path / file}", "try another version of it, or export the bundle again"
            ):
                core = ov.Core()
                half = core.read_model(bundle.read(file))
                half.reshape({name: [1, *shape[1:]] for name, shape in _input_shapes(half).items()})
                requests.append(compiled_request(ov, core, half))
        self._encoder, self._decoder = requests

    def encode(self, tensor: NDArray[np.float32]) -> tuple[float, Sequence[Any]]:
        """See `gated.Halves.encode`."""
        with openvino_border("failed", "no mask is returned: run `breastseg verify` on this bundle"):
            run_request(self._encoder, {TENSOR: tensor})
            score = float(self._encoder.get_tensor(SCORE).data[0])
            return score, [self._encoder.get_tensor(name) for name in FEATURES]

    def decode(self, features: Sequence[Any]) -> NDArray[np.float32]:
        """See `gated.Halves.decode`."""
        with openvino_border("failed", "no mask is returned: run `breastseg verify` on this bundle"):
            for name, feature in zip(FEATURES, features, strict=True):
                self._decoder.set_tensor(name, feature)
            return run_request(self._decoder)

    def close(self) -> None:
        """Drop both halves."""
        vars(self).pop("_encoder", None)
        vars(self).pop("_decoder", None)


def open_gated_openvino(bundle: Bundle, machine: Machine) -> GatedCpu:
    """The network in two halves with the gate between them; see `gated.open_gated` for what it raises."""
    return open_gated(OpenVinoHalves(bundle), bundle, machine)


def _input_shapes(model: Any) -> dict[str, list[Any]]:
    return {one.get_any_name(): list(one.get_partial_shape()) for one in model.inputs}
