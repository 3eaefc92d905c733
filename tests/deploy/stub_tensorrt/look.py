"""Run as a process of its own: import a TensorRT module and say what it has of what is asked for on stdin.

usage: look.py MODULE
stdin: JSON, {class: {member: names of its parameters, or null for what is no method}}; the class "" is the module.
stdout: JSON, {"version": ..., "missing": [sentences]}.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from typing import Any


def takes(method: Any, parameters: list[str]) -> bool:
    """Whether one of a method's signatures, which pybind11 writes into its docstring, has all these parameters."""
    signatures = re.findall(r"\w+\(self: [^\n]*", method.__doc__ or "")
    return any(all(re.search(rf"\b{name}: ", signature) for name in parameters) for signature in signatures)


module = importlib.import_module(sys.argv[1])
missing = []
for kind, members in json.load(sys.stdin).items():
    place = getattr(module, kind, None) if kind else module
    for member, parameters in members.items():
        found = getattr(place, member, None)
        if found is None:
            missing.append(f"{kind or sys.argv[1]} has no {member}")
        elif parameters and not takes(found, parameters):
            missing.append(f"{kind}.{member} does not take {', '.join(parameters)}")
print(json.dumps({"version": module.__version__, "missing": missing}))
