"""Run as a process: obtain the engine of a bundle with a slow builder, and say where it came from.

usage: one_of_two.py BUNDLE BUILDS START
BUILDS gets a line for every build; both processes start once START exists.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from breastseg_deploy.bundle import MANIFEST, Bundle
from breastseg_deploy.engines.build import BuiltEngine
from breastseg_deploy.engines.flavour import FLAVOURS, load
from breastseg_deploy.engines.request import EngineRequest
from breastseg_deploy.engines.store import obtain_engine
from breastseg_deploy.machine import Machine
from breastseg_deploy.manifest import parse_manifest

BUILD_S = 1.0

folder, builds, start = map(Path, sys.argv[1:])
opened = Bundle(folder, parse_manifest((folder / MANIFEST).read_text(), "manifest"))
request = EngineRequest(FLAVOURS["tensorrt-rtx"], "8.6")


def build_slowly(*_: Any) -> BuiltEngine:
    with builds.open("a") as file:
        file.write("built\n")
    time.sleep(BUILD_S)
    return BuiltEngine(b"plan", {"CONVOLUTION": {"HALF": 1}}, BUILD_S, None)


load(request.flavour)
print("ready", flush=True)
while not start.exists():
    time.sleep(0.01)
engine = obtain_engine(opened, request, Machine(), lambda words: print(words, file=sys.stderr), build_slowly)
print(engine.origin, engine.sha256)
