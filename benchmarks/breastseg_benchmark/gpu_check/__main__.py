"""One step in this process: `python -m breastseg_benchmark.gpu_check NAME SETTINGS`; prints its finding last."""

from __future__ import annotations

import json
import os
import sys

from breastseg_benchmark.gpu_check.step import STEPS, Settings, run_here

if __name__ == "__main__":
    name, settings = sys.argv[1:]
    (step,) = (step for step in STEPS if step.name == name)
    finding = run_here(step, Settings(**json.loads(settings)))
    print(json.dumps(finding.as_json(), default=str), flush=True)
    os._exit(0)  # a destroyed CUDA context cannot be taken down in order
