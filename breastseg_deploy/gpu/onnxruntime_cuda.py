"""ONNX Runtime on the GPU: the bundle's float16 network as a `GpuNetwork`."""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from breastseg_deploy.bundle import NETWORK_FP16, Bundle
from breastseg_deploy.errors import BackendError, MachineError
from breastseg_deploy.extras import DISTRIBUTION, require
from breastseg_deploy.gpu.failure import one_line

PROVIDER = "CUDAExecutionProvider"


class OnnxRuntimeNetwork:
    """A session that reads and writes fixed addresses, as a `GpuNetwork`.

    It captures a CUDA graph of its own at the first run of a batch size, and keeps one for each thread that calls it.
    So that there is one, whoever asks for frames, all runs come from a thread of its own.

    Args:
        ort: the onnxruntime module.
        session: of the float16 network.
        size_px: (H, W) of the frames.
        memory: where the addresses are, as ONNX Runtime calls it: ("cuda", device number).
    """

    capturable = False  # by us: ONNX Runtime allocates in its first runs, and knows when it may capture

    def __init__(self, ort: Any, session: Any, size_px: tuple[int, int], memory: tuple[str, int]) -> None:
        self.name = f"ONNX Runtime {ort.__version__} on {memory[0].upper()}"
        self._ort, self._session, self._size_px, self._memory = ort, session, size_px, memory
        self._thread = ThreadPoolExecutor(1, "onnxruntime-cuda")

    def bind(self, tensor_address: int, logits_address: int, batch: int) -> _Bound:
        """Input and output at fixed addresses; see `GpuNetwork.bind`."""
        binding = self._session.io_binding()
        (tensor,), (logits,) = self._session.get_inputs(), self._session.get_outputs()
        binding.bind_input(tensor.name, *self._memory, np.float32, (batch, 4, *self._size_px), tensor_address)
        binding.bind_output(logits.name, *self._memory, np.float32, (batch, 1, *self._size_px), logits_address)
        options = self._ort.RunOptions()
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")  # the pipeline waits, once
        options.add_run_config_entry("gpu_graph_id", str(batch))  # addresses differ, so graphs do
        return _Bound(self.name, self._thread, lambda: self._session.run_with_iobinding(binding, options))


class _Bound:
    def __init__(self, name: str, thread: ThreadPoolExecutor, run: Callable[[], None]) -> None:
        self._name, self._thread, self._run = name, thread, run

    def enqueue(self) -> None:
        """See `BoundNetwork.enqueue`."""
        try:
            self._thread.submit(self._run).result()
        except Exception as err:  # onnxruntime's errors share no base class
            raise BackendError(
                f"{self._name} failed: {one_line(err)}; no mask is returned: "
                "try fewer frames at once, then run `breastseg verify` on this bundle"
            ) from err


def open_network(bundle: Bundle, stream: Any, device: int) -> OnnxRuntimeNetwork:
    """`network.fp16.onnx` on the GPU and nowhere else.

    ONNX Runtime would serve from the CPU silently where the GPU cannot be used or an operator is missing, so its
    fallbacks are off, and the session is asked what it runs on.

    Args:
        bundle: opened.
        stream: the CuPy stream that it runs on.
        device: the GPU's number.

    Raises:
        MachineError: onnxruntime-gpu is not installed.
        BackendError: the network cannot be loaded, or not wholly on the GPU.
        BundleError: the bundle holds no float16 network.
    """
    ort = load_onnxruntime_gpu()
    content = bundle.read(NETWORK_FP16)
    session = open_session(ort, bundle.path / NETWORK_FP16, content, provider_options(stream.ptr, device))
    return OnnxRuntimeNetwork(ort, session, bundle.manifest.frame.size_px, ("cuda", device))


def provider_options(stream_address: int, device: int) -> dict[str, str]:
    """How the CUDA provider computes: on our stream, in the precision that stands in the file, the same at every start.

    TF32 would round the float32 islands as coarsely as float16. Heuristic choice of cuDNN's algorithms instead of the
    default timing of all of them: that may choose otherwise at every start, and takes seconds for each batch size. A
    CUDA graph in place of hundreds of launches; channels last, as the matrix units read them. The arena takes what is
    asked for: doubling it at every step would keep up to half of the memory for nothing.
    """
    return {
        "device_id": str(device),
        "user_compute_stream": str(stream_address),
        "use_tf32": "0",
        "cudnn_conv_algo_search": "HEURISTIC",
        "enable_cuda_graph": "1",
        "prefer_nhwc": "1",
        "arena_extend_strategy": "kSameAsRequested",
    }


def load_onnxruntime_gpu() -> Any:
    """Import ONNX Runtime, if it is the build for GPUs, and let it find the CUDA libraries that came by pip.

    Raises:
        MachineError: not installed, or the build for CPUs.
    """
    ort = require("onnxruntime", "gpu")
    if PROVIDER not in ort.get_available_providers():
        raise MachineError(
            f"the installed onnxruntime {ort.__version__} is the build for CPUs: "
            # Both, for they hold the same files: what is left of the other would count as installed.
            f"pip uninstall onnxruntime onnxruntime-gpu, then pip install '{DISTRIBUTION}[gpu]'"
        )
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it misses; the session names the first cause
            ort.preload_dlls()
    return ort


def open_session(ort: Any, place: Path, content: bytes, options: Mapping[str, str]) -> Any:
    """A session that is allowed the GPU and nothing else.

    Args:
        ort: the onnxruntime module.
        place: of the network, for messages.
        content: the network.
        options: see `provider_options`.

    Raises:
        BackendError: the network cannot be loaded, or not wholly on the GPU.
    """
    settings = ort.SessionOptions()
    settings.log_severity_level = 3  # errors only: warnings about the graph are the exporter's business
    settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")  # see `placement`
    try:
        session = ort.InferenceSession(content, settings, providers=[(PROVIDER, dict(options))], enable_fallback=0)
        session.disable_fallback()
    except Exception as err:  # onnxruntime's errors share no base class
        raise BackendError(
            f"ONNX Runtime {ort.__version__} cannot load {place} on the GPU: {one_line(err)}; run `breastseg doctor`"
        ) from err
    served_by = placement(session)
    if set(served_by) != {PROVIDER}:
        nodes = (
            ", ".join(f"{number} nodes on {name}" for name, number in served_by.items()) or "no node that it tells of"
        )
        raise BackendError(
            f"ONNX Runtime {ort.__version__} runs {place.name} with {nodes}, where all belong on {PROVIDER}: it cannot "
            "use this GPU or misses CUDA or cuDNN libraries; run `breastseg doctor`"
        )
    return session


def placement(session: Any) -> dict[str, int]:
    """How many nodes each execution provider runs, by the provider's name, as `open_session` has it recorded."""
    nodes: Counter[str] = Counter()
    for part in session.get_provider_graph_assignment_info():
        nodes[part.ep_name] += len(part.get_nodes())
    return dict(nodes)
