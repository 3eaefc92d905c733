"""The network in two halves in OpenVINO, with the empty-frame gate's score between them, in any of its precisions.

In float32 the halves are files of the bundle. In bfloat16 and INT8 they are the whole network, which is cut at the
values that its decoder reads: so each half computes what the whole one does, node for node. The score is float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.backends.gated import GatedCpu, bundle_gate, open_gated
from breastseg_deploy.backends.openvino import (
    NAME_BF16,
    NAME_INT8,
    islands_of,
    precision_of,
    read_network,
    settings_of,
)
from breastseg_deploy.backends.openvino_islands import check_bfloat16
from breastseg_deploy.backends.openvino_library import (
    NAME,
    compiled_request,
    load_openvino,
    openvino_border,
    openvino_title,
    run_request,
)
from breastseg_deploy.bundle import BF16, GATE, GATE_BF16, GATE_DECODER, GATE_ENCODER, GATE_INT8, INT8, PORTABLE, Bundle
from breastseg_deploy.errors import BackendError
from breastseg_deploy.gate import FEATURES, SCORE
from breastseg_deploy.machine import Machine


@dataclass(frozen=True)
class _Served:
    """By which backend a gate is served, and the role of the network that gives its precision."""

    name: str
    whole: str


_SERVED = {GATE: _Served(NAME, PORTABLE), GATE_BF16: _Served(NAME_BF16, BF16), GATE_INT8: _Served(NAME_INT8, INT8)}
"""By the gate's role."""
_OUTPUT = "Result"
"""OpenVINO's type of what ends a network; it bears the names of the value that it gives."""


class OpenVinoHalves:
    """The halves of a gated network, compiled for one frame; see `gated.Halves`. Features are not copied between them.

    Args:
        bundle: opened.
        role: of the gate.

    Raises:
        MachineError: openvino is not installed.
        BackendError: a half cannot be loaded, or would not compute in the precision of its role.
        BundleError: a file was altered, or the bundle holds no gate of that role that may be served.
    """

    def __init__(self, bundle: Bundle, role: str = GATE) -> None:
        gate, whole = bundle_gate(bundle, role), _SERVED[role].whole
        ov = load_openvino()
        self.name, self.role, self.islands = _SERVED[role].name, role, islands_of(bundle, whole)
        self.title = f"{openvino_title(ov)} {settings_of(whole)}"
        with openvino_border(
            f"cannot load the {role} artefact of {bundle.path}", "try another version of it, or export the bundle again"
        ):
            core = ov.Core()
            with_score = _for_one_frame(core.read_model(bundle.read(GATE_ENCODER)))
            if role == GATE:
                self._names, encoder = FEATURES, with_score
                decoder = _for_one_frame(core.read_model(bundle.read(GATE_DECODER)))
            else:
                self._names = gate.cut
                encoder, decoder = cut_network(ov, read_network(ov, core, bundle, whole), gate.cut)
            asked = settings_of(whole), precision_of(whole)
            self._encoder, self._decoder = (compiled_request(ov, core, half, *asked) for half in (encoder, decoder))
            self._score = compiled_request(ov, core, _ending_at_score(ov, with_score))
            if whole == BF16:
                for half in (self._encoder, self._decoder):
                    check_bfloat16(half.get_compiled_model(), self.islands)

    def encode(self, tensor: NDArray[np.float32]) -> tuple[float, Sequence[Any]]:
        """See `gated.Halves.encode`."""
        with openvino_border("failed", "no mask is returned: run `breastseg verify` on this bundle"):
            run_request(self._encoder, {0: tensor})
            features = [self._encoder.get_tensor(name) for name in self._names]
            for level, feature in enumerate(features):
                self._score.set_input_tensor(level, feature)
            return float(run_request(self._score)[0]), features

    def decode(self, features: Sequence[Any]) -> NDArray[np.float32]:
        """See `gated.Halves.decode`."""
        with openvino_border("failed", "no mask is returned: run `breastseg verify` on this bundle"):
            for level, feature in enumerate(features):
                self._decoder.set_input_tensor(level, feature)
            return run_request(self._decoder)

    def close(self) -> None:
        """Drop both halves."""
        for request in ("_encoder", "_decoder", "_score"):
            vars(self).pop(request, None)


def open_gated_openvino(role: str, bundle: Bundle, machine: Machine) -> GatedCpu:
    """The network in two halves with the gate of that role between them; see `gated.open_gated` for what it raises."""
    return open_gated(OpenVinoHalves(bundle, role), bundle, machine)


def cut_network(ov: Any, network: Any, features: Sequence[str]) -> tuple[Any, Any]:
    """A network in two: one that ends at the named values, and one that begins with them, in that order.

    Args:
        ov: OpenVINO.
        network: of fixed shapes; it stays as it is.
        features: names of values that all ways from its input to its output pass.

    Raises:
        BackendError: it holds no such value, or a way around them.
    """
    return ending_at(ov, network, features), _beginning_with(ov, network, features, range(len(network.outputs)))


def ending_at(ov: Any, network: Any, names: Sequence[str]) -> Any:
    """The part of a network that makes the named values, as its outputs in that order; none of them is one already.

    Raises:
        BackendError: it holds no such value.
    """
    part = network.clone()
    return ov.Model([ov.op.Result(value) for value in _values(part, names)], part.get_parameters(), "encoder")


def _ending_at_score(ov: Any, encoder: Any) -> Any:
    """The part of the gate's encoder between features and score."""
    scores = [number for number, output in enumerate(encoder.outputs) if SCORE in output.get_names()]
    return _beginning_with(ov, encoder, FEATURES, scores)


def _beginning_with(ov: Any, network: Any, names: Sequence[str], outputs: Sequence[int]) -> Any:
    """The part of a network that makes these outputs of the named values, its inputs in that order."""
    part = network.clone()
    parameters = []
    for value in _values(part, names):
        parameter = ov.op.Parameter(ov.Type.f32, value.get_shape())
        for reader in value.get_target_inputs():
            if reader.get_node().get_type_name() != _OUTPUT:
                reader.replace_source_output(parameter.output(0))
        parameters.append(parameter)
    return ov.Model([part.get_results()[number] for number in outputs], parameters, "decoder")


def _values(network: Any, names: Sequence[str]) -> list[Any]:
    nodes = [node for node in network.get_ordered_ops() if node.get_type_name() != _OUTPUT]
    made = [value for node in nodes for value in node.outputs()]
    by_name = {name: value for value in made for name in value.get_names()}
    missing = [name for name in names if name not in by_name]
    if missing or len(names) != len(FEATURES):
        what = f"no value {missing[0]!r}" if missing else f"{len(names)} named values in place of {len(FEATURES)}"
        raise BackendError(f"the network to be cut holds {what}; export the bundle again")
    return [by_name[name] for name in names]


def _for_one_frame(model: Any) -> Any:
    model.reshape({one.get_any_name(): [1, *list(one.get_partial_shape())[1:]] for one in model.inputs})
    return model
