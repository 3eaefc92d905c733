"""What the runtime's tests share: CuPy over NumPy, kernels compiled for the CPU, and networks to go with them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import onnxruntime
import pytest
from cuda_cpu import compiled, fake_cupy
from host_network import Float16Network, HostNetwork

from breastseg_deploy.bundle import NETWORK_FP16, Bundle
from breastseg_deploy.contract import rgb_batch
from breastseg_deploy.gpu.ops import Kernels
from breastseg_deploy.preprocess.gabor import GaborParameters
from breastseg_deploy.preprocess.tensor import network_input


@pytest.fixture
def cupy_on_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """`cuda_cpu.fake_cupy` in the place of CuPy, with its counters at zero and no module or bank cached."""
    missing = compiled.why_not()
    if missing:
        pytest.skip(missing)
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy)
    fake_cupy.forget()
    yield fake_cupy
    fake_cupy.forget()


@pytest.fixture
def quick_edge(cupy_on_cpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU reference in the place of the edge kernel, which takes seconds for a frame on a CPU."""
    made = Kernels.__init__

    def make(kernels: Kernels, size_px: tuple[int, int], parameters: GaborParameters) -> None:
        made(kernels, size_px, parameters)

        def on_host(frames: Any, *, bit_depth: Any, out: Any, **_: Any) -> None:
            assert isinstance(frames, cupy_on_cpu.ndarray)

            def run() -> None:
                out.host[...] = network_input(rgb_batch(frames.host, size_px, bit_depth=bit_depth), parameters)

            cupy_on_cpu.cuda.get_current_stream().put(run)

        vars(kernels)["network_input"] = on_host

    monkeypatch.setattr(Kernels, "__init__", make)


@pytest.fixture(scope="session")
def bundle(demo_bundle: Path) -> Bundle:
    return Bundle.open(demo_bundle)


@pytest.fixture(scope="session")
def float16_session(bundle: Bundle) -> Any:
    return onnxruntime.InferenceSession(bundle.read(NETWORK_FP16), providers=["CPUExecutionProvider"])


@pytest.fixture
def network() -> HostNetwork:
    return HostNetwork()


@pytest.fixture
def float16(float16_session: Any) -> Float16Network:
    return Float16Network(float16_session)
