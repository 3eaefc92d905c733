"""Networks for the GPU pipeline that compute on the CPU, at the addresses that it binds; and what is known of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime
from cuda_cpu import fake_cupy
from numpy.typing import NDArray

from breastseg_deploy import Segmenter
from breastseg_deploy.backends.registry import BACKENDS
from breastseg_deploy.backends.select import Choice
from breastseg_deploy.bundle import FP16, Bundle
from breastseg_deploy.gpu.graph import BoundNetwork
from breastseg_deploy.gpu.onnxruntime_cuda import OnnxRuntimeNetwork
from breastseg_deploy.gpu.pipeline import MAX_BATCH, GpuPipeline
from breastseg_deploy.phantom import phantom_frame
from breastseg_deploy.preprocess.tensor import network_input
from breastseg_deploy.selftest import GoldenResult, Goldens

SIDE = 128
GREY = np.stack([phantom_frame(number, (SIDE, SIDE)).frame for number in range(MAX_BATCH)])
FRAMES = np.stack([GREY, GREY // 2, GREY // 3], axis=-1)


def all_passed(batch: int, goldens: Goldens) -> bool:
    """The self-test of tests that are not about the goldens."""
    return False


@dataclass
class Recorded:
    """A self-test whose verdicts a test can look at, by batch size."""

    known: set[int] = field(default_factory=set)
    recorded: dict[int, Sequence[GoldenResult]] = field(default_factory=dict)

    def __call__(self, batch: int, goldens: Goldens) -> bool:
        if batch in self.known:
            return False
        self.recorded[batch] = goldens()
        return True


def opposite(logits: NDArray[np.float32]) -> None:
    np.negative(logits, out=logits)


class CudaBuffer:
    """A camera's buffer: knows `__cuda_array_interface__` and its shape."""

    def __init__(self, values: NDArray[Any]) -> None:
        self._values = values
        self.shape = values.shape

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {**self._values.__array_interface__, "version": 3, "stream": None}


def segmenter(bundle: Bundle, pipeline: GpuPipeline) -> Segmenter:
    return Segmenter(bundle, Choice("tested", BACKENDS["tensorrt"], "tested: for this test", pipeline, FP16))


class HostNetwork:
    """A network bound to addresses as on a GPU, computed on the CPU; a test may spoil its runs."""

    name = "the network under test"

    def __init__(self, *, capturable: bool = False) -> None:
        self.capturable = capturable
        self.spoil: Callable[[NDArray[np.float32]], None] = lambda logits: None
        self.spoil_binding: Callable[[int], None] = lambda batch: None
        self.runs: list[int] = []

    def bind(self, tensor_address: int, logits_address: int, batch: int) -> BoundNetwork:
        self.spoil_binding(batch)
        tensor = at_address(tensor_address, (batch, 4, SIDE, SIDE))
        return HostBound(self, self.inner(tensor, tensor_address, logits_address, batch), logits_address, batch)

    def inner(self, tensor: NDArray[np.float32], _: int, logits_address: int, batch: int) -> BoundNetwork:
        return Light(tensor, at_address(logits_address, (batch, 1, SIDE, SIDE)))


class Light:
    """A network of one addition: what a pipeline does with it can be worked out."""

    def __init__(self, tensor: NDArray[np.float32], logits: NDArray[np.float32]) -> None:
        self._tensor, self._logits = tensor, logits

    def enqueue(self) -> None:
        self._logits[...] = light_logits(self._tensor)


def light_logits(tensor: NDArray[np.float32]) -> NDArray[np.float32]:
    return tensor[:, :1] + tensor[:, 3:]


def light_probability(frames: NDArray[np.uint8], bundle: Bundle) -> NDArray[np.float32]:
    logits = light_logits(network_input(frames, bundle.manifest.gabor.parameters()))
    return np.asarray(1 / (1 + np.exp(-logits[:, 0])), np.float32)


class Float16Network(HostNetwork):
    """The bundle's float16 network, by the code that binds ONNX Runtime on a GPU, on the CPU."""

    def __init__(self, session: Any) -> None:
        super().__init__()
        self._network = OnnxRuntimeNetwork(onnxruntime, session, (SIDE, SIDE), ("cpu", 0))

    def inner(self, _: NDArray[np.float32], tensor_address: int, logits_address: int, batch: int) -> BoundNetwork:
        return self._network.bind(tensor_address, logits_address, batch)


class HostBound:
    def __init__(self, network: HostNetwork, inner: BoundNetwork, address: int, batch: int) -> None:
        self._network, self._inner, self._batch = network, inner, batch
        self._logits = at_address(address, (batch, 1, SIDE, SIDE))

    def enqueue(self) -> None:
        self._network.runs.append(self._batch)
        fake_cupy.cuda.get_current_stream().put(self._run)

    def _run(self) -> None:
        self._inner.enqueue()
        self._network.spoil(self._logits)


def at_address(address: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """What lies in the stand-in's device memory."""
    where = {"data": (address, False), "shape": shape, "typestr": "<f4", "version": 3}
    return np.asarray(type("Memory", (), {"__array_interface__": where})())
