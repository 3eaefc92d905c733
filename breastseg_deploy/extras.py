"""Optional libraries: what is missing is named with the extra that brings it, what is broken keeps its own error."""

from __future__ import annotations

import importlib
import importlib.util
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from breastseg_deploy.errors import MachineError

DISTRIBUTION = "breastseg-deploy"
_OURS = ("breastseg_deploy", "breastseg_train", "breastseg_export", "breastseg_benchmark")


def require(module: str, extra: str) -> ModuleType:
    """Import an optional library, or say which extra brings it.

    Args:
        module: the import name, e.g. "onnxruntime".
        extra: the extra of this distribution that installs it, e.g. "cpu".

    Raises:
        KeyboardInterrupt: Ctrl-C came during the import, which first went to its end.
        MachineError: the library is not installed. A library that is installed but broken keeps its own error.
    """
    try:
        with _ctrl_c_waits():
            return importlib.import_module(module)
    except ModuleNotFoundError as err:
        if err.name != module.partition(".")[0]:
            raise
        raise _missing(module, extra) from err


def require_installed(module: str, extra: str) -> None:
    """Say which extra brings a library that is not installed, without importing one that is.

    Raises:
        MachineError: the library is not installed.
    """
    if importlib.util.find_spec(module) is None:
        raise _missing(module, extra)


@contextmanager
def _ctrl_c_waits() -> Iterator[None]:
    """Ctrl-C is raised at the end of the block: inside, a library that is loading makes an error of its own of it.

    Only where it would be raised at all: a handler of the host program stays as it is, and so do threads.
    """
    here = threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    came: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if came:
            raise KeyboardInterrupt


@contextmanager
def missing_is_named(extra: str | None) -> Iterator[None]:
    """Inside the block, a library that this project imports and that is not installed is named with an extra.

    Args:
        extra: that brings what the block imports without `require`; None where it imports nothing optional.

    Raises:
        MachineError: such a library is not installed. What a library itself fails to import is its own error.
    """
    try:
        yield
    except ModuleNotFoundError as err:
        if extra is None or err.name is None or "." in err.name or not _imported_by_us(err):
            raise
        raise _missing(err.name, extra) from err


def _missing(module: str, extra: str) -> MachineError:
    return MachineError(f"{module} is needed here and not installed: pip install '{DISTRIBUTION}[{extra}]'")


def _imported_by_us(err: ModuleNotFoundError) -> bool:
    """Whether the import that failed stands in a file of this project, and looks for none of its own modules."""
    trace, importer = err.__traceback__, ""
    while trace is not None:
        name = str(trace.tb_frame.f_globals.get("__name__", ""))
        importer = importer if name.partition(".")[0] in ("importlib", "_frozen_importlib") else name
        trace = trace.tb_next
    return importer.partition(".")[0] in _OURS and err.name not in _OURS
