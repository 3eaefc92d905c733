"""Optional libraries are imported here and nowhere else, at the moment they are used."""

from __future__ import annotations

import importlib
from types import ModuleType

from breastseg_deploy.errors import MachineError

DISTRIBUTION = "breastseg-deploy"


def require(module: str, extra: str) -> ModuleType:
    """Import an optional library, or say which extra brings it.

    Args:
        module: the import name, e.g. "onnxruntime".
        extra: the extra of this distribution that installs it, e.g. "cpu".

    Raises:
        MachineError: the library is not installed. A library that is installed but broken keeps its own error.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as err:
        if err.name is None or module.split(".")[0] != err.name.split(".")[0]:
            raise
        raise MachineError(f"{module} is needed here and not installed: pip install '{DISTRIBUTION}[{extra}]'") from err
