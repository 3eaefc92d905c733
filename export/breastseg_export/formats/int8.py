"""INT8 after training, for OpenVINO: convolutions in 8-bit integers as far as the encoder allows it, the rest float32.

An encoder with squeeze-and-excitation loses too much: of its network, the decoder's 3 x 3 convolutions are quantised
but those of the block that reads the encoder's shallowest features. Of any other network, all are but the depthwise
ones, which NNCF neither smooths nor keeps to 7 bits, and those that read the frame or end in the mask, which carry most
of the error and little of the work. Of the methods tried on the demo (docs/LOG.md), this one kept its masks best:
ranges by minimum and maximum, after SmoothQuant moved the activations' outliers into the weights. Weights take half of
the 8-bit range: processors without VNNI add products of 8 bits in 16, which would overflow silently.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from breastseg_deploy.artefacts import Int8Precision
from breastseg_deploy.backends.openvino_islands import onnx_name
from breastseg_deploy.backends.openvino_library import (
    compiled_request,
    load_openvino,
    openvino_border,
    without_telemetry,
)
from breastseg_deploy.bundle import INT8, INT8_NETWORK, INT8_WEIGHTS, TENSOR
from breastseg_deploy.errors import ArgumentError, BackendError, BreastsegError
from breastseg_deploy.extras import require
from breastseg_deploy.preprocess.gabor import GaborParameters
from breastseg_deploy.preprocess.tensor import network_input
from breastseg_deploy.progress import Progress
from breastseg_deploy.verify import LEAST_JUDGED
from breastseg_export.formats.format import PROBABILITY_SPEC, TENSOR_SPEC, ArtefactNotes, Candidate, Work
from breastseg_export.graph import behind_sigmoid
from breastseg_export.named_frames import NamedFrame, NamedFrames
from breastseg_export.parity import INT8_LIMITS, Compared, stricter
from breastseg_export.precision.layers import described_values, groups, plane_size
from breastseg_export.precision.ranges import POOLS
from breastseg_export.runners import Engine
from breastseg_export.settings import ExportSettings

LEAST_CALIBRATION_FRAMES = 32
"""With 8 the worst mask of 73 other frames was 0.90, with 32 and more 0.986 and over (docs/LOG.md)."""

_DECODER, _KEPT_BLOCK = ".decoder.", ".x_3_3."
_FRONT = ("projection", "stem", "head")
"""Groups of layers that stay in float32 in any case: 8 bits of a dark frame are few."""
_ENCODER = ("stem", "encoder")
_LEVELS_OF_A_MASK = 2
_SMOOTHING = 0.5
_OVERFLOW_FIX = "ENABLE"
_LARGEST_WEIGHT = 64
"""Of 7 bits with a sign."""
_CONVOLUTIONS = ("Convolution", "GroupConvolution")
_NO_OPERATIONS = ("Parameter", "Constant", "Result")
_FAKE_QUANTISE = "FakeQuantize"


@dataclass(frozen=True)
class QuantisedNetwork:
    """The network as OpenVINO's two files, and what became of its convolutions, by the names of their weights."""

    xml: bytes
    weights: bytes
    quantised: tuple[str, ...]
    float32: tuple[str, ...]
    calibration: str
    method: str

    def details(self) -> Int8Precision:
        """What the manifest says of it."""
        return Int8Precision(
            quantised=self.quantised, float32=self.float32, calibration=self.calibration, method=self.method
        )


class Int8:
    """The format; see the module.

    Args:
        calibration: frames that ranges are measured on.
    """

    after_parity = False

    def __init__(self, calibration: NamedFrames) -> None:
        self._calibration = calibration

    def check(self, frames: NamedFrames) -> None:
        """See `check_int8_frames`."""
        with Progress("comparing the frames of --frames and --calibrate"):
            check_int8_frames(self._calibration, frames)

    def make(self, work: Work) -> Candidate:
        """See `quantised_network`."""
        work.say(f"quantising to INT8, ranges measured on {len(self._calibration)} frames")
        with Progress("quantising"):
            network = quantised_network(work.network, work.gabor, work.size_px, self._calibration)
        limits = stricter(INT8_LIMITS, work.settings.min_dice)
        facts = (
            ("INT8", f"{len(network.quantised)} convolutions, {len(network.float32)} left in float32; by name only"),
            ("INT8 by", network.method),
            ("INT8 calibrated on", network.calibration),
        )
        return Candidate(
            INT8,
            {INT8_NETWORK: lambda: network.xml, INT8_WEIGHTS: lambda: network.weights},
            (TENSOR_SPEC,),
            (PROBABILITY_SPEC,),
            (Compared(INT8_NETWORK, "OpenVINO", int8_in_openvino(network, work.gabor), limits),),
            lambda _: ArtefactNotes(network.details(), facts, packages=("openvino", "nncf")),
            holds_goldens=True,
        )


def calibration_frames(settings: ExportSettings) -> NamedFrames | None:
    """The frames to calibrate INT8 on; None where it was not asked for.

    Raises:
        ArgumentError: INT8 without frames, or the other way round.
        MachineError: openvino or nncf is not installed.
    """
    if (settings.precision == "int8") != (settings.calibrate is not None):
        raise ArgumentError(
            "--precision int8 and --calibrate DIR belong together: ranges are measured on frames of your own; "
            f"got --precision {settings.precision} and {'no ' if settings.calibrate is None else ''}--calibrate"
        )
    if settings.calibrate is None:
        return None
    check_nncf()
    return NamedFrames(settings.calibrate, (settings.size_px, settings.size_px), settings.bit_depth)


def check_int8_frames(calibration: NamedFrames, frames: NamedFrames) -> None:
    """Refuse, before the long work, frames that cannot calibrate, or cannot show what 8 bits cost.

    Raises:
        ArgumentError: too few frames, the same one twice, or one in both sets; a mask to calibrate on.
        FrameError: one of them cannot be used.
    """
    needed = f"--precision int8 needs --frames DIR with at least {LEAST_JUDGED} frames whose masks hold cells"
    if frames.are_phantoms:
        raise ArgumentError(f"{needed}, got phantoms: what 8 bits cost is measured on real frames")
    if len(calibration) < LEAST_CALIBRATION_FRAMES:
        raise ArgumentError(
            f"--calibrate needs at least {LEAST_CALIBRATION_FRAMES} frames, got {len(calibration)}; give more"
        )
    known: dict[bytes, str] = {}
    with_cells = 0
    for one in frames:
        _add(known, one, "--frames")
        with_cells += one.truth is not None and bool(one.truth.any())
    if with_cells < LEAST_JUDGED:
        raise ArgumentError(f"{needed}, got {with_cells}: what 8 bits cost is measured against the truth")
    for one in calibration:
        _add(known, one, "--calibrate")
        if np.unique(one.frame).size <= _LEVELS_OF_A_MASK:
            raise ArgumentError(
                f"{one.name} of --calibrate holds no more than {_LEVELS_OF_A_MASK} values, as a mask does; give the "
                "folder of frames"
            )


def check_nncf() -> None:
    """Find out, before the long work, that what quantises is installed.

    Raises:
        MachineError: openvino or nncf is not.
    """
    load_openvino()
    with without_telemetry():
        require("nncf", "int8")


def quantised_network(
    network: onnx.ModelProto, gabor: GaborParameters, size_px: tuple[int, int], calibration: NamedFrames
) -> QuantisedNetwork:
    """Quantise the float32 network.

    Args:
        network: as `graph.export_network` makes it.
        gabor: of the edge channel.
        size_px: (H, W).
        calibration: frames that ranges are measured on.

    Raises:
        MachineError: openvino or nncf is not installed.
        BackendError: NNCF failed, or did something else than it was asked to.
        FrameError: a frame cannot be read.
    """
    weights = {node.name: node.input[1] for node in network.graph.node if node.op_type == "Conv"}
    chosen = chosen_convolutions(network)
    ov = load_openvino()
    with without_telemetry(), redirect_stdout(io.StringIO()):  # NNCF draws its own progress on stdout
        nncf = require("nncf", "int8")
        with TemporaryDirectory() as scratch, openvino_border("cannot convert the network", "export fp32"):
            path = Path(scratch) / "network.onnx"
            onnx.save(behind_sigmoid(network, size_px), path)
            model = ov.convert_model(path, input=[(TENSOR, [1, 4, *size_px])])
            kept = [
                op.get_friendly_name() for op in _convolutions(model) if onnx_name(op.get_friendly_name()) not in chosen
            ]
            quantised = _by_nncf(nncf, model, kept, calibration, gabor)
            found = _check(model, quantised, weights, chosen)
            if found:
                raise BackendError(
                    f"NNCF {nncf.__version__} {found}; use the version of constraints.txt, or export fp32"
                )
            # Without the option, what stays in float32 would be stored in float16.
            ov.save_model(quantised, path.with_suffix(".xml"), compress_to_fp16=False)
            xml, content = (path.with_suffix(suffix).read_bytes() for suffix in (".xml", ".bin"))
    return QuantisedNetwork(
        xml,
        content,
        quantised=tuple(weight for name, weight in weights.items() if name in chosen),
        float32=tuple(weight for name, weight in weights.items() if name not in chosen),
        calibration=calibration.description,
        method=f"NNCF {nncf.__version__}: SmoothQuant {_SMOOTHING}, ranges by minimum and maximum, 7-bit weights, "
        "fast bias correction",
    )


def int8_in_openvino(network: QuantisedNetwork, gabor: GaborParameters) -> Engine:
    """The quantised network behind the CPU preprocessing, compiled as the runtime compiles it."""
    ov = load_openvino()
    core = ov.Core()
    with openvino_border("cannot load the INT8 network", "export fp32"):
        request = compiled_request(ov, core, core.read_model(network.xml, network.weights))

    def run(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
        with openvino_border("failed in INT8", "export fp32"):
            return np.array(request.infer({0: network_input(frame[np.newaxis], gabor)})[0][0, 0], np.float32)

    return run


def chosen_convolutions(network: onnx.ModelProto) -> set[str]:
    """Names of the convolutions to quantise; see the module. Those of values pooled over the frame never are."""
    by_group = {node.name: group.name for group in groups(network) for node in group.nodes}
    values = described_values(network)
    convolutions = [node for node in network.graph.node if node.op_type == "Conv"]
    weights = {
        node.name: node.input[1]
        for node in convolutions
        if plane_size(values[node.output[0]]) > 1 and not _is_depthwise(node)
    }
    squeezing = {node.name for node in network.graph.node if node.op_type in POOLS}
    if not any(by_group[name].startswith(_ENCODER) for name in squeezing):
        return {name for name in weights if by_group[name] not in _FRONT}
    shapes = {tensor.name: tuple(tensor.dims) for tensor in network.graph.initializer}
    return {name for name, weight in weights.items() if _is_chosen(weight, shapes[weight])}


def _is_depthwise(convolution: onnx.NodeProto) -> bool:
    return any(attribute.name == "group" and attribute.i > 1 for attribute in convolution.attribute)


def _is_chosen(weight: str, shape: tuple[int, ...]) -> bool:
    """Whether a convolution's weight is 3 x 3, in the decoder, and not in the block that is kept in float32."""
    return shape[2:] == (3, 3) and _DECODER in weight and _KEPT_BLOCK not in weight


def _by_nncf(nncf: Any, model: Any, kept: Sequence[str], calibration: NamedFrames, gabor: GaborParameters) -> Any:
    nncf.set_log_level(logging.ERROR)
    ranges = nncf.quantization.range_estimator.RangeEstimatorParametersSet.MINMAX
    others = {op.get_type_name() for op in model.get_ordered_ops()} - {*_CONVOLUTIONS, *_NO_OPERATIONS}
    with _nncf_border(nncf.__version__):
        return nncf.quantize(
            model,
            nncf.Dataset(calibration, lambda one: network_input(one.frame[np.newaxis], gabor)),
            subset_size=len(calibration),
            model_type=nncf.ModelType.TRANSFORMER,  # the only one with SmoothQuant
            ignored_scope=nncf.IgnoredScope(names=list(kept), types=sorted(others), validate=False),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                activations_range_estimator_params=ranges,
                smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(convolution=_SMOOTHING, matmul=-1),
                overflow_fix=nncf.OverflowFix[_OVERFLOW_FIX],
            ),
        )


def _check(model: Any, quantised: Any, weights: dict[str, str], chosen: set[str]) -> str:
    """What NNCF did beside what it was asked to, as the rest of a sentence; empty where it did that and no more."""
    unknown = {onnx_name(op.get_friendly_name()) for op in _convolutions(model)} ^ weights.keys()
    if unknown:
        return f"got convolutions from OpenVINO that the exported graph names otherwise ({sorted(unknown)[0]})"
    convolutions = _convolutions(quantised)
    in_eight_bits = {onnx_name(op.get_friendly_name()) for op in convolutions if _is_quantised(op)}
    if not chosen or in_eight_bits != chosen:
        return (
            f"must quantise {len(chosen)} convolutions and did {len(in_eight_bits & chosen)} of them "
            f"and {len(in_eight_bits - chosen)} more"
        )
    others = {
        reader.get_node().get_type_name()
        for op in quantised.get_ordered_ops()
        if op.get_type_name() == _FAKE_QUANTISE
        for reader in op.output(0).get_target_inputs()
        if reader.get_node() not in convolutions
    }
    if others:
        return f"quantised what is no convolution as well: {', '.join(sorted(others))}"
    if not all(_is_smoothed(op) for op in convolutions if onnx_name(op.get_friendly_name()) in chosen):
        return "applied no SmoothQuant"
    if not all(
        _largest_weight(op) <= _LARGEST_WEIGHT for op in convolutions if onnx_name(op.get_friendly_name()) in chosen
    ):
        return "gave weights more than 7 bits"
    return ""


def _is_smoothed(convolution: Any) -> bool:
    """Whether one of SmoothQuant's factors stands before the 8-bit range of a convolution's activations."""
    ranged = convolution.input_value(0).get_node()
    return "smooth_quant" in ranged.input_value(0).get_node().get_friendly_name()


def _largest_weight(convolution: Any) -> int:
    """The largest magnitude among a convolution's 8-bit weights as they are stored."""
    return int(np.abs(_weight(convolution).data.astype(np.int16)).max())


@contextmanager
def _nncf_border(version: str) -> Iterator[None]:
    """The border to NNCF, whose errors share no base class: they leave as BackendErrors of one line."""
    try:
        yield
    except (BreastsegError, OSError):
        raise
    except Exception as err:
        raise BackendError(f"NNCF {version} failed: {' '.join(str(err).split())}; export fp32") from err


def _convolutions(model: Any) -> list[Any]:
    return [op for op in model.get_ordered_ops() if op.get_type_name() in _CONVOLUTIONS]


def _is_quantised(convolution: Any) -> bool:
    """Whether activations *and* weights reach a convolution through 8 bits."""
    activation, weight = convolution.input_value(0).get_node(), _weight(convolution)
    kinds = activation.get_type_name(), weight.get_element_type().get_type_name()
    return kinds == (_FAKE_QUANTISE, "i8")


def _weight(convolution: Any) -> Any:
    """The constant behind what a convolution reads as its weight."""
    node = convolution.input_value(1).get_node()
    while node.get_type_name() != "Constant":
        node = node.input_value(0).get_node()
    return node


def _add(known: dict[bytes, str], named: NamedFrame, option: str) -> None:
    """Note a frame by its pixels; one that is there already would flatter the figures or count twice."""
    pixels = hashlib.sha256(named.frame.tobytes()).digest()
    if pixels in known:
        raise ArgumentError(f"{named.name} of {option} and {known[pixels]} are the same frame; remove one of them")
    known[pixels] = f"{named.name} of {option}"
