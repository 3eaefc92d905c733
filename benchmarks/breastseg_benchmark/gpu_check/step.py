"""What a step is, and what it finds. Each runs in a process of its own: a step that hangs or dies ends nothing else."""

from __future__ import annotations

import importlib
import math
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

Verdict = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True)
class Settings:
    """What the steps are given.

    Attributes:
        bundle: made elsewhere, e.g. by `breastseg-export demo`.
        output: the folder for what is written: the JSON, the page, a B7 network of about 140 MB.
    """

    bundle: str
    output: str

    @property
    def b7_network(self) -> Path:
        """The float16 network of a B7 with random weights, where the step that writes it could."""
        return Path(self.output) / "b7.fp16.onnx"


@dataclass(frozen=True)
class Finding:
    """What a step found.

    Attributes:
        verdict: "skipped" where this machine lacks what the step needs.
        words: one line.
        figures: measured, by name; for the JSON and the page.
        seconds: the step took, its process's start included.
    """

    verdict: Verdict
    words: str
    figures: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """For the JSON object; figures that are no numbers, which JSON has no word for, are texts."""
        return {**asdict(self), "figures": _with_words(self.figures)}


def _with_words(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _with_words(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_words(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


class Skip(Exception):  # noqa: N818 - no error
    """This machine lacks what the step needs; its text says what."""


@dataclass(frozen=True)
class Step:
    """A step of the check.

    Attributes:
        name: on the command line and in the report.
        place: "module:function" of this package; takes the settings and gives a finding.
        limit_s: after which its process is ended.
    """

    name: str
    place: str
    limit_s: float

    def load(self) -> Callable[[Settings], Finding]:
        """The function."""
        module, _, name = self.place.partition(":")
        return cast(Callable[[Settings], Finding], getattr(importlib.import_module(f"{__package__}.{module}"), name))


STEPS = (
    Step("versions", "machine:versions", 60),
    Step("kernel", "kernel:kernel", 120),
    Step("sanitizer", "kernel:sanitizer", 180),
    Step("race", "serving:race", 300),
    Step("tensorrt", "serving:tensorrt", 600),
    Step("tensorrt-rtx", "serving:tensorrt_rtx", 300),
    Step("onnxruntime-cuda", "serving:onnxruntime_cuda", 300),
    Step("illegal-address", "serving:illegal_address", 300),
    Step("b7-network", "network:write_b7", 600),
    Step("b7-onnxruntime", "network:b7_onnxruntime", 600),
    Step("b7-tensorrt", "network:b7_tensorrt", 1800),
    Step("benchmark", "serving:benchmark", 900),
)
"""In the order in which they are worth knowing."""


def run_here(step: Step, settings: Settings) -> Finding:
    """Run a step in this process; whatever it raises is its finding."""
    try:
        return step.load()(settings)
    except Skip as err:
        return Finding("skipped", str(err))
    except Exception as err:  # libraries that do not load, CUDA errors, our own: all are findings
        return Finding("failed", in_words(err), {"traceback": "".join(traceback.format_exception(err))})


def in_words(err: Exception) -> str:
    """An error's kind and text, in one line of at most 600 characters."""
    return f"{type(err).__name__}: {' '.join(str(err).split())}"[:600]
