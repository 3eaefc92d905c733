"""What the runtime's tests share: CuPy over NumPy, kernels compiled for the CPU, and networks to go with them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree
from types import ModuleType
from typing import Any

import onnxruntime
import pytest
from cuda_cpu import compiled, fake_cupy
from host_network import Float16Network, HostNetwork

from breastseg_deploy import Segmenter
from breastseg_deploy.bundle import NETWORK_FP16, Bundle


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


@pytest.fixture(scope="session")
def bundle(demo_bundle: Path) -> Bundle:
    return Bundle.open(demo_bundle)


@pytest.fixture(scope="module")
def segment(demo_bundle: Path) -> Iterator[Segmenter]:
    with Segmenter.open(demo_bundle, "onnxruntime") as opened:
        yield opened


@pytest.fixture(scope="session")
def float16_session(bundle: Bundle) -> Any:
    return onnxruntime.InferenceSession(bundle.read(NETWORK_FP16), providers=["CPUExecutionProvider"])


@pytest.fixture
def network() -> HostNetwork:
    return HostNetwork()


@pytest.fixture
def float16(float16_session: Any) -> Float16Network:
    return Float16Network(float16_session)


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A cache of the test's own: every engine runs the goldens again."""
    monkeypatch.setenv("BREASTSEG_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def gated_copy(gated_bundle: Path, tmp_path: Path) -> Path:
    copytree(gated_bundle, tmp_path / "gated")
    return tmp_path / "gated"
