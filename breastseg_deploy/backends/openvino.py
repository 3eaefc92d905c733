"""OpenVINO on the CPU: the portable model's network in float32 or bfloat16, behind the runtime's own FFT preprocessing.

The figures in a manifest were measured with ONNX Runtime on the whole of `model.onnx`. This is another engine behind
other preprocessing code, so on each machine the bundle's goldens decide first whether it may serve.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.artefacts import Bf16Precision, details_of
from breastseg_deploy.backends.openvino_islands import check_bfloat16, with_islands
from breastseg_deploy.backends.openvino_library import (
    NAME,
    SETTINGS,
    compiled_request,
    load_openvino,
    openvino_border,
    openvino_title,
    run_request,
)
from breastseg_deploy.bundle import BF16, INT8, INT8_NETWORK, INT8_WEIGHTS, MODEL, PORTABLE, TENSOR, Bundle
from breastseg_deploy.errors import BackendError, BundleError, MachineError
from breastseg_deploy.inference import Inference
from breastseg_deploy.machine import Machine
from breastseg_deploy.preprocess.tensor import network_input
from breastseg_deploy.selftest import GoldenResult, cpu_verdict_key, run_goldens, self_test_once
from breastseg_deploy.verdicts import Verdicts

NAME_BF16 = "openvino-bf16"
NAME_INT8 = "openvino-int8"
BF16_SETTINGS = {**SETTINGS, "INFERENCE_PRECISION_HINT": "bf16"}


def check_openvino(machine: Machine) -> str:
    """What would serve, in words.

    Raises:
        MachineError: openvino is not installed.
        BackendError: it is installed and cannot be loaded.
    """
    return f"{openvino_title(load_openvino())} on the CPU"


def check_openvino_bf16(machine: Machine) -> str:
    """What would serve, in words.

    Raises:
        MachineError: openvino is not installed, or the processor would compute bfloat16 step by step in float32.
        BackendError: it is installed and cannot be loaded.
    """
    title, native = check_openvino(machine), machine.processor.bfloat16
    if native is None:
        native = "BF16" in load_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if not native:
        raise MachineError(
            f"{NAME_BF16} needs a processor with AVX512_BF16 or AMX, and {machine.processor.name} has neither; use "
            f"{NAME}, or {NAME_INT8}"
        )
    return f"{title}, bfloat16"


def open_openvino(bundle: Bundle, machine: Machine) -> OpenVinoCpu:
    """The network, once it reproduces the bundle's goldens on this machine.

    They run once for each version of OpenVINO, NumPy and this toolkit, processor, model and set of goldens, and the
    verdict is kept in the private cache folder; where that cannot be used, they run at every opening.

    Raises:
        MachineError: openvino is not installed.
        BackendError: the network cannot be loaded or run.
        ParityError: a golden misses the limit of `model.onnx`.
        BundleError: a file of the bundle was altered, a golden is damaged, or the manifest holds no limit.
    """
    return _self_tested(NAME, bundle, PORTABLE, machine)


def open_openvino_bf16(bundle: Bundle, machine: Machine) -> OpenVinoCpu:
    """The network in bfloat16 but for its islands, once it reproduces the goldens on this machine, as `open_openvino`.

    Raises:
        MachineError: openvino is not installed.
        BackendError: the network cannot be loaded or run, or OpenVINO computes an island in less than float32.
        ParityError: a golden misses the limit of bfloat16.
        BundleError: the bundle names no islands, a file was altered, or a golden is damaged.
    """
    return _self_tested(NAME_BF16, bundle, BF16, machine)


def open_openvino_int8(bundle: Bundle, machine: Machine) -> OpenVinoCpu:
    """The bundle's INT8 network, once it reproduces the goldens on this machine, as `open_openvino`.

    Raises:
        MachineError: openvino is not installed.
        BackendError: the network cannot be loaded or run.
        ParityError: a golden misses the limit of the INT8 network.
        BundleError: the bundle holds no such network, a file was altered, or a golden is damaged.
    """
    return _self_tested(NAME_INT8, bundle, INT8, machine)


def _self_tested(name: str, bundle: Bundle, artefact: str, machine: Machine) -> OpenVinoCpu:
    backend = OpenVinoCpu(bundle, artefact, threads=machine.processor.cores)
    try:
        engine = {"engine": f"{backend.title} {backend.settings}", "islands": " ".join(backend.islands)}
        key = cpu_verdict_key(name, bundle, artefact, engine, machine)
        self_test_once(key, Verdicts(machine), lambda: _goldens(backend, bundle))
    except BaseException:
        backend.close()
        raise
    return backend


class OpenVinoCpu:
    """`model.onnx` from its tensor on, or the INT8 network, compiled for one frame; batches are run frame by frame.

    In bfloat16 it is the same model with the islands of the manifest in float32.

    One frame fills the cores already. One compiled shape is what the goldens prove, and memory does not grow with the
    batch. Threads preprocess side by side and take turns at the network. Nothing is stored: OpenVINO's model cache is
    off, since compiling takes seconds and a cached model would be one more file to trust.

    Args:
        bundle: opened.
        artefact: the role that it serves.
        threads: of the preprocessing.
        settings: of OpenVINO; whatever they are, the network computes in the precision of its role or not at all.

    Attributes:
        title: name and version of the engine.
        artefact: the role that it serves.
        settings: of OpenVINO.
        islands: nodes that compute in float32 beside bfloat16; none for another role.

    Raises:
        MachineError: openvino is not installed.
        BackendError: the model cannot be loaded, or would not compute in the precision of its role.
        BundleError: it was altered.
    """

    def __init__(
        self,
        bundle: Bundle,
        artefact: str = PORTABLE,
        *,
        threads: int = 1,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        ov = load_openvino()
        self.title, self.artefact = openvino_title(ov), artefact
        self.settings = dict(settings_of(artefact) if settings is None else settings)
        self.islands = islands_of(bundle, artefact)
        self._size_px = bundle.manifest.frame.size_px
        self._gabor = bundle.manifest.gabor.parameters()
        self._threads = threads
        self._turn = threading.Lock()
        with openvino_border(
            f"cannot load the {artefact} artefact of {bundle.path}",
            "try another version of it, or export the bundle again",
        ):
            core = ov.Core()
            network = read_network(ov, core, bundle, artefact)
            self._request = compiled_request(ov, core, network, self.settings, precision_of(artefact))
            # The engine decides how much computes in bfloat16; in the title, it is part of what a verdict depends on.
            if artefact == BF16:
                self.title += f", {check_bfloat16(self._request.get_compiled_model(), self.islands)}"

    def infer(self, rgb: NDArray[np.uint8], *, probability: bool = True) -> Inference:
        """Probabilities (N, H, W) of a checked batch (N, H, W, 3); see `Backend.infer`."""
        probabilities = np.empty((len(rgb), *self._size_px), np.float32)
        seconds = {"preprocess": 0.0, "network": 0.0}  # the latter with waiting for other threads
        for number in range(len(rgb)):
            started = time.perf_counter()
            tensor = network_input(rgb[number : number + 1], self._gabor, self._threads)
            preprocessed = time.perf_counter()
            self._run(tensor, probabilities[number])
            seconds["preprocess"] += preprocessed - started
            seconds["network"] += time.perf_counter() - preprocessed
        return Inference(probabilities, seconds)

    def close(self) -> None:
        """Drop the network."""
        vars(self).pop("_request", None)  # closed twice is closed

    def _run(self, tensor: NDArray[np.float32], probability: NDArray[np.float32]) -> None:
        """The network on one tensor (1, 4, H, W), into `probability` (H, W)."""
        with self._turn, openvino_border("failed", "no mask is returned: run `breastseg verify` on this bundle"):
            probability[:] = run_request(self._request, {0: tensor})[0, 0]  # copied before the next frame overwrites it


def settings_of(artefact: str) -> Mapping[str, object]:
    """OpenVINO's settings for the precision of a role."""
    return BF16_SETTINGS if artefact == BF16 else SETTINGS


def precision_of(artefact: str) -> str:
    """What the network of a role computes in beyond its islands or 8-bit layers, as `compiled_request` takes it."""
    return "bf16" if artefact == BF16 else "f32"


def islands_of(bundle: Bundle, artefact: str) -> tuple[str, ...]:
    """The manifest's float32 islands beside bfloat16; none for another role.

    Raises:
        BundleError: it names none for bfloat16.
    """
    if artefact != BF16:
        return ()
    found = details_of(bundle.manifest, BF16, Bf16Precision)
    if not found:
        raise BundleError(f"{bundle.path} {bundle.holds_no(BF16)}; export it again with --precision fp16 or int8")
    return found[0].fp32_islands


def read_network(ov: Any, core: Any, bundle: Bundle, artefact: str) -> Any:
    """The whole network of a role for one frame, from its tensor to the probability, not compiled yet.

    Raises:
        BackendError: it does not answer as a network of this bundle must.
        BundleError: a file was altered, or the bundle holds none of that role.
    """
    if artefact == INT8:
        network = core.read_model(bundle.read(INT8_NETWORK), bundle.read(INT8_WEIGHTS))
    else:
        network = _cut_at_tensor(ov, core, bundle)
    _check_answer(ov, network, bundle, artefact)
    return with_islands(ov, core, network, islands_of(bundle, artefact)) if artefact == BF16 else network


def _cut_at_tensor(ov: Any, core: Any, bundle: Bundle) -> Any:
    """`model.onnx` cut at its tensor, for one frame.

    Raises:
        BackendError: it holds no such tensor.
    """
    model = core.read_model(bundle.read(MODEL))
    outputs = (output for node in model.get_ordered_ops() for output in node.outputs())
    cut = next((output for output in outputs if TENSOR in output.get_names()), None)
    if cut is None:
        raise BackendError(
            f"{bundle.path / MODEL} must name its network's input {TENSOR!r}, and holds no such tensor; "
            "use onnxruntime, or export the bundle again"
        )
    size_px = bundle.manifest.frame.size_px
    parameter = ov.op.Parameter(ov.Type.f32, ov.Shape([1, 4, *size_px]))
    for consumer in cut.get_target_inputs():
        consumer.replace_source_output(parameter.output(0))
    network = ov.Model(model.get_results(), [parameter], "network")
    network.validate_nodes_and_infer_types()  # shapes follow the parameter's only now
    return network


def _check_answer(ov: Any, network: Any, bundle: Bundle, artefact: str) -> None:
    """Refuse a network that answers with another shape than a frame's.

    Raises:
        BackendError: it does.
    """
    size_px = bundle.manifest.frame.size_px
    shapes = [str(output.get_partial_shape()) for output in network.outputs]
    if [output.get_partial_shape() for output in network.outputs] != [ov.PartialShape([1, 1, *size_px])]:
        raise BackendError(
            f"the {artefact} artefact of {bundle.path} must answer a frame with (1, 1, H, W) = {(1, 1, *size_px)}, "
            f"got {', '.join(shapes)}; export it again"
        )


def _goldens(backend: OpenVinoCpu, bundle: Bundle) -> tuple[GoldenResult, ...]:
    """The goldens by this backend, all within the limit of what serves."""

    def run(rgb: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        probability = backend.infer(rgb).checked(rgb.shape[:3], backend.title)
        return (probability >= bundle.manifest.threshold).astype(np.uint8), probability

    return run_goldens(bundle, backend.artefact, run, 1, f"{backend.title} behind the FFT preprocessing")
