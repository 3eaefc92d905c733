"""Torch-free runtime for verified breast-cell segmentation bundles.

    from breastseg_deploy import Segmenter
    with Segmenter.open("bundle") as segment:
        mask = segment(frame).mask

Names are loaded when they are first used, so that importing the package, and `breastseg --help`, stay quick. Nothing at
all is imported here: Ctrl-C cannot be heeded before this file has run (`cli.start`).
"""

TYPE_CHECKING = False  # the constant of `typing`, whose import would take longer than this one
if TYPE_CHECKING:
    from breastseg_deploy.bundle import Bundle as Bundle
    from breastseg_deploy.errors import ArgumentError as ArgumentError
    from breastseg_deploy.errors import BackendError as BackendError
    from breastseg_deploy.errors import BreastsegError as BreastsegError
    from breastseg_deploy.errors import BundleError as BundleError
    from breastseg_deploy.errors import CheckpointError as CheckpointError
    from breastseg_deploy.errors import ClosedError as ClosedError
    from breastseg_deploy.errors import DataError as DataError
    from breastseg_deploy.errors import FrameError as FrameError
    from breastseg_deploy.errors import MachineError as MachineError
    from breastseg_deploy.errors import OutputError as OutputError
    from breastseg_deploy.errors import ParityError as ParityError
    from breastseg_deploy.errors import SlideError as SlideError
    from breastseg_deploy.errors import TrainingError as TrainingError
    from breastseg_deploy.events import Delivered as Delivered
    from breastseg_deploy.events import Dropped as Dropped
    from breastseg_deploy.events import Failed as Failed
    from breastseg_deploy.io.open_slide import Slide as Slide
    from breastseg_deploy.io.open_slide import open_slide as open_slide
    from breastseg_deploy.machine import Machine as Machine
    from breastseg_deploy.result import Segmentation as Segmentation
    from breastseg_deploy.segmenter import Segmenter as Segmenter
    from breastseg_deploy.stream import Stream as Stream
    from breastseg_deploy.version import __version__ as __version__

_HOMES = {
    "ArgumentError": "errors",
    "BackendError": "errors",
    "BreastsegError": "errors",
    "Bundle": "bundle",
    "BundleError": "errors",
    "CheckpointError": "errors",
    "ClosedError": "errors",
    "DataError": "errors",
    "Delivered": "events",
    "Dropped": "events",
    "Failed": "events",
    "FrameError": "errors",
    "Machine": "machine",
    "MachineError": "errors",
    "OutputError": "errors",
    "ParityError": "errors",
    "Segmentation": "result",
    "Segmenter": "segmenter",
    "Slide": "io.open_slide",
    "SlideError": "errors",
    "Stream": "stream",
    "TrainingError": "errors",
    "open_slide": "io.open_slide",
    "__version__": "version",
}

__all__ = [
    "ArgumentError",
    "BackendError",
    "BreastsegError",
    "Bundle",
    "BundleError",
    "CheckpointError",
    "ClosedError",
    "DataError",
    "Delivered",
    "Dropped",
    "Failed",
    "FrameError",
    "Machine",
    "MachineError",
    "OutputError",
    "ParityError",
    "Segmentation",
    "Segmenter",
    "Slide",
    "SlideError",
    "Stream",
    "TrainingError",
    "__version__",
    "open_slide",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
