"""OpenVINO as this project uses it: loaded without its telemetry, compiled to the precision that was asked for."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.errors import BackendError, BreastsegError
from breastseg_deploy.extras import require

NAME = "openvino"
SETTINGS = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "ENABLE_CPU_PINNING": False}
"""One frame at a time by all cores; float32, since OpenVINO by itself takes bfloat16 where the processor has it; and no
thread tied to a core, where it would wait for whatever else the scanner's computer does on that core.

CPU_DENORMALS_OPTIMIZATION stays off: it changes how the caller's own thread rounds from then on."""

_TELEMETRY = "openvino_telemetry"


def load_openvino() -> Any:
    """Import OpenVINO without its telemetry: a scanner's computer opens no connection unasked.

    `import openvino` imports its conversion tools, and these report the import to Google Analytics and leave a client
    number in ~/intel, unless somebody opted out before. Where openvino_telemetry is not to be had, OpenVINO takes a
    stand-in of its own that does nothing; so it is hidden while OpenVINO is imported. The native libraries open no
    connections. A program that imported OpenVINO itself before has sent its report already.

    Raises:
        MachineError: openvino is not installed.
        BackendError: it is installed and cannot be loaded.
    """
    with openvino_border("cannot be loaded", "install it again"), without_telemetry():
        return require("openvino", "openvino")


def openvino_title(ov: Any) -> str:
    """Name and version of the library, in words."""
    return f"OpenVINO {ov.__version__.partition('-')[0]}"


def compiled_request(
    ov: Any, core: Any, model: Any, settings: Mapping[str, object] = SETTINGS, precision: str = "f32"
) -> Any:
    """A request on the compiled model, which computes in that precision ("f32", "bf16") or not at all."""
    compiled = core.compile_model(model, "CPU", dict(settings))
    computes_in = compiled.get_property("INFERENCE_PRECISION_HINT")
    if computes_in != getattr(ov.Type, precision):
        raise BackendError(
            f"{openvino_title(ov)} must compute in {_IN_WORDS[precision]}, it took {computes_in}; use onnxruntime"
        )
    return compiled.create_infer_request()


def run_request(request: Any, inputs: Mapping[Any, Any] | None = None) -> NDArray[np.float32]:
    """Compute on OpenVINO's own thread, and wait for it.

    `request.infer` would compute on the caller's. OpenVINO then keeps a TBB arena for each thread that ever called, and
    where no worker visits an arena, TBB keeps a small object for each piece of each operation: with eight callers,
    memory grew by 165 MB in 30,000 calls (docs/LOG.md; oneTBB's issue 1403 has the mechanism).

    Args:
        request: of a compiled model.
        inputs: by name or number, not copied; None where they are set.

    Returns:
        The first output; good until the request's next call.
    """
    request.start_async(inputs, share_inputs=True)
    request.wait()
    return np.asarray(request.get_output_tensor(0).data)


_IN_WORDS = {"f32": "float32", "bf16": "bfloat16"}


@contextmanager
def without_telemetry() -> Iterator[None]:
    """Make OpenVINO's telemetry look as if it were not installed, for what is imported and run inside."""
    was_there, before = _TELEMETRY in sys.modules, sys.modules.get(_TELEMETRY)
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # what makes `import` raise an ImportError
    try:
        yield
    finally:
        del sys.modules[_TELEMETRY]
        if was_there:
            sys.modules[_TELEMETRY] = before  # type: ignore[assignment]


@contextmanager
def openvino_border(what: str, remedy: str) -> Iterator[None]:
    """The border to OpenVINO: its errors, RuntimeErrors of many lines, leave as BackendErrors of one."""
    try:
        yield
    except BreastsegError:
        raise
    except Exception as err:
        raise BackendError(f"OpenVINO {what}: {' '.join(str(err).split())}; {remedy}") from err
