"""The backends there are: one record each, with all that anybody else needs to know of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from breastseg_deploy.backends.onnxruntime import (
    check_onnxruntime,
    open_gated_onnxruntime,
    open_onnxruntime,
    open_onnxruntime_tiles,
)
from breastseg_deploy.backends.openvino import (
    NAME_BF16,
    NAME_INT8,
    check_openvino,
    check_openvino_bf16,
    open_openvino,
    open_openvino_bf16,
    open_openvino_int8,
)
from breastseg_deploy.backends.openvino_halves import open_gated_openvino
from breastseg_deploy.backends.openvino_tiles import open_openvino_tiles
from breastseg_deploy.backends.tiles import TileNetwork
from breastseg_deploy.bundle import BF16, FP16, GATE, GATE_BF16, GATE_INT8, INT8, PORTABLE, Bundle
from breastseg_deploy.gpu.loading import check_onnxruntime_cuda, check_tensorrt, open_onnxruntime_cuda, open_tensorrt
from breastseg_deploy.inference import Backend, GatedBackend
from breastseg_deploy.machine import Machine


@dataclass(frozen=True)
class BackendRecord:
    """A backend; its libraries are imported by `check` and `open`, not before.

    Attributes:
        check: says what would serve, in words; a MachineError says what this machine lacks for it.
        open: loads a bundle.
        artefact: the role of what it serves, whose limits its goldens are held to.
        extras: of this distribution, that bring its libraries.
        on_gpu: whether it computes on a GPU.
        by_name_only: whether "auto" never takes it, because its masks are not those of the float32 network.
        holds_preprocessing: whether the artefact computes the edge channel itself, as it was verified.
        packages: distributions that hold its library and exclude each other; none where there is one alone.
        open_gated: loads a bundle with the empty-frame gate; None where it serves none.
        gate: the role of that gate.
        open_tiles: loads a bundle's slide artefact; None where it segments no slides.
    """

    check: Callable[[Machine], str]
    open: Callable[[Bundle, Machine], Backend]
    artefact: str
    extras: str
    on_gpu: bool = False
    by_name_only: bool = False
    holds_preprocessing: bool = False
    packages: tuple[str, ...] = ()
    open_gated: Callable[[Bundle, Machine], GatedBackend] | None = None
    gate: str = GATE
    open_tiles: Callable[[Bundle, Machine], TileNetwork] | None = None


_ONNXRUNTIMES = ("onnxruntime", "onnxruntime-gpu")

BACKENDS: Mapping[str, BackendRecord] = {
    "tensorrt": BackendRecord(
        check=partial(check_tensorrt, "tensorrt"),
        open=partial(open_tensorrt, "tensorrt"),
        artefact=FP16,
        extras="gpu,tensorrt",
        on_gpu=True,
    ),
    "tensorrt-rtx": BackendRecord(
        check=partial(check_tensorrt, "tensorrt-rtx"),
        open=partial(open_tensorrt, "tensorrt-rtx"),
        artefact=FP16,
        extras="gpu,tensorrt-rtx",
        on_gpu=True,
    ),
    "onnxruntime-cuda": BackendRecord(
        check=check_onnxruntime_cuda,
        open=open_onnxruntime_cuda,
        artefact=FP16,
        extras="gpu",
        on_gpu=True,
        packages=_ONNXRUNTIMES,
    ),
    "openvino": BackendRecord(
        check=check_openvino,
        open=open_openvino,
        artefact=PORTABLE,
        extras="openvino",
        open_gated=partial(open_gated_openvino, GATE),
        open_tiles=open_openvino_tiles,
    ),
    "onnxruntime": BackendRecord(
        check=check_onnxruntime,
        open=open_onnxruntime,
        artefact=PORTABLE,
        extras="cpu",
        holds_preprocessing=True,
        packages=_ONNXRUNTIMES,
        open_gated=open_gated_onnxruntime,
        open_tiles=open_onnxruntime_tiles,
    ),
    NAME_BF16: BackendRecord(
        check=check_openvino_bf16,
        open=open_openvino_bf16,
        artefact=BF16,
        extras="openvino",
        by_name_only=True,
        open_gated=partial(open_gated_openvino, GATE_BF16),
        gate=GATE_BF16,
    ),
    NAME_INT8: BackendRecord(
        check=check_openvino,
        open=open_openvino_int8,
        artefact=INT8,
        extras="openvino",
        by_name_only=True,
        open_gated=partial(open_gated_openvino, GATE_INT8),
        gate=GATE_INT8,
    ),
}
"""Backends by name: those on a GPU, the preferred one first; then those on the CPU."""
