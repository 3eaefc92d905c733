"""ONNX Runtime on the CPU: the bundle's portable model, and its float16 network as a second opinion."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.backends.gated import GatedCpu, bundle_gate, open_gated
from breastseg_deploy.backends.tiles import TileNetwork, bundle_tiles, open_tiles
from breastseg_deploy.bundle import GATE, GATE_DECODER, GATE_ENCODER, MODEL, NETWORK_FP16, SLIDE_NETWORK, TENSOR, Bundle
from breastseg_deploy.errors import BackendError, BreastsegError
from breastseg_deploy.extras import require
from breastseg_deploy.gate import FEATURES, SCORE
from breastseg_deploy.inference import Inference
from breastseg_deploy.machine import Machine
from breastseg_deploy.preprocess.tensor import network_input

NAME = "onnxruntime"
PROVIDER = "CPUExecutionProvider"


def check_onnxruntime(machine: Machine) -> str:
    """What would serve, in words.

    Raises:
        MachineError: onnxruntime is not installed.
    """
    return _title()


def _title() -> str:
    return f"ONNX Runtime {require('onnxruntime', 'cpu').__version__} on the CPU"


def open_onnxruntime(bundle: Bundle, machine: Machine) -> OnnxRuntimeCpu:
    """`model.onnx` as it was verified: with this engine, on the whole of this file; see `OnnxRuntimeCpu`."""
    return OnnxRuntimeCpu(bundle)


class OnnxRuntimeCpu:
    """`model.onnx`, preprocessing included, as it was verified.

    Raises:
        MachineError: onnxruntime is not installed.
        BackendError: the model cannot be loaded.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._session = _open_session(bundle, MODEL)

    def infer(self, rgb: NDArray[np.uint8], *, probability: bool = True) -> Inference:
        """Probabilities (N, H, W) of a checked batch (N, H, W, 3); see `Backend.infer`."""
        started = time.perf_counter()
        found = _run_session(self._session, rgb, rgb.shape[:3])
        return Inference(found, {"network": time.perf_counter() - started})

    def close(self) -> None:
        """Drop the session."""
        vars(self).pop("_session", None)  # closed twice is closed


class OnnxRuntimeHalves:
    """The halves of a gated network; see `gated.Halves`.

    Raises:
        MachineError: onnxruntime is not installed.
        BackendError: a half cannot be loaded.
        BundleError: it was altered, or the bundle holds no gate.
    """

    name, role = NAME, GATE
    islands: tuple[str, ...] = ()

    def __init__(self, bundle: Bundle) -> None:
        bundle_gate(bundle)
        self.title = _title()
        self._encoder, self._decoder = _open_session(bundle, GATE_ENCODER), _open_session(bundle, GATE_DECODER)

    def encode(self, tensor: NDArray[np.float32]) -> tuple[float, Sequence[Any]]:
        """See `gated.Halves.encode`."""
        score, *features = _run(self._encoder, [SCORE, *FEATURES], {TENSOR: tensor})
        return float(score[0]), features

    def decode(self, features: Sequence[Any]) -> NDArray[np.float32]:
        """See `gated.Halves.decode`."""
        (probability,) = _run(self._decoder, None, dict(zip(FEATURES, features, strict=True)))
        return np.asarray(probability)

    def close(self) -> None:
        """Drop both sessions."""
        vars(self).pop("_encoder", None)
        vars(self).pop("_decoder", None)


def open_gated_onnxruntime(bundle: Bundle, machine: Machine) -> GatedCpu:
    """The network in two halves with the gate between them; see `gated.open_gated` for what it raises."""
    return open_gated(OnnxRuntimeHalves(bundle), bundle, machine)


class OnnxRuntimeTiles:
    """The slide artefact, for tiles of any size; see `tiles.TileNetwork`.

    Raises:
        MachineError: onnxruntime is not installed.
        BackendError: the network cannot be loaded.
        BundleError: it was altered, or the bundle holds none.
    """

    name = NAME

    def __init__(self, bundle: Bundle) -> None:
        bundle_tiles(bundle)
        self.title = _title()
        self._session = _open_session(bundle, SLIDE_NETWORK)

    def infer(self, tensor: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `tiles.TileNetwork.infer`."""
        return np.asarray(_run_session(self._session, tensor, (1, *tensor.shape[2:]))[0])

    def close(self) -> None:
        """Drop the session."""
        vars(self).pop("_session", None)


def open_onnxruntime_tiles(bundle: Bundle, machine: Machine) -> TileNetwork:
    """The slide artefact by ONNX Runtime; see `tiles.open_tiles` for what it raises."""
    return open_tiles(OnnxRuntimeTiles(bundle), bundle, machine)


class NetworkOnCpu:
    """`network.fp16.onnx` behind the CPU preprocessing: another way from the frame to the mask, to check the first.

    Raises:
        MachineError: onnxruntime is not installed.
        BackendError: the network cannot be loaded.
        BundleError: the bundle holds no float16 network.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._session = _open_session(bundle, NETWORK_FP16)
        self._gabor = bundle.manifest.gabor.parameters()

    def infer(self, rgb: NDArray[np.uint8], *, probability: bool = True) -> Inference:
        """Probabilities (N, H, W) of a checked batch (N, H, W, 3); see `Backend.infer`."""
        started = time.perf_counter()
        tensor = network_input(rgb, self._gabor)
        preprocessed = time.perf_counter()
        logits = _run_session(self._session, tensor, rgb.shape[:3])
        seconds = {"preprocess": preprocessed - started, "network": time.perf_counter() - preprocessed}
        return Inference(_sigmoid(logits), seconds)

    def close(self) -> None:
        """Drop the session."""
        vars(self).pop("_session", None)  # closed twice is closed


def _open_session(bundle: Bundle, name: str) -> Any:
    """A session that is allowed the CPU and nothing else."""
    ort = require("onnxruntime", "cpu")
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors only: warnings about the graph are the exporter's business
    try:
        # Its own fallback prints to stdout and tries the same provider once more.
        return ort.InferenceSession(bundle.read(name), options, providers=[PROVIDER], enable_fallback=0)
    except BreastsegError:
        raise
    except Exception as err:  # onnxruntime's errors share no base class
        raise BackendError(
            f"ONNX Runtime {ort.__version__} cannot load {bundle.path / name}: {_one_line(err)}; "
            "use the version named under built_with in its manifest, or export it again"
        ) from err


def _run_session(session: Any, batch: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The session's only output (N, 1, H, W) as (N, H, W); `shape` is what that must be."""
    (result,) = _run(session, None, {session.get_inputs()[0].name: batch})
    answer = np.asarray(result)
    if answer.shape != (shape[0], 1, *shape[1:]):
        raise BackendError(
            f"the bundle's network must answer with (N, 1, H, W) = {(shape[0], 1, *shape[1:])}, got {answer.shape}; "
            "no mask is returned: export it again"
        )
    return answer[:, 0]


def _run(session: Any, outputs: Sequence[str] | None, inputs: Mapping[str, Any]) -> list[Any]:
    try:
        found: list[Any] = session.run(outputs, inputs)
    except Exception as err:  # onnxruntime's errors share no base class
        raise BackendError(
            f"ONNX Runtime failed on a batch of {len(next(iter(inputs.values())))} frames: {_one_line(err)}; "
            "try fewer frames at once, then run `breastseg verify` on this bundle"
        ) from err
    return found


def _one_line(err: Exception) -> str:
    return " ".join(str(err).split())


def _sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 / (1 + exp(-x)) by tanh, which does not overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logits)), np.float32)
