from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from breastseg_benchmark.growth import over_frames
from breastseg_benchmark.implementations import Implementation
from breastseg_benchmark.process import CLOCKS_S, NotRunError, Process, Timed, in_turn

SERVE = """
import sys, time
from pathlib import Path
import numpy as np
from breastseg_benchmark.serving import Segmented, serve
from breastseg_deploy.errors import MachineError

class Bright:
    facts = {"detail": "bright pixels"}
    kept = []
    calls = 0
    def __call__(self, rgb):
        print("a library that prints to stdout")
        kind = sys.argv[1]
        self.calls += 1
        if kind == "dies":
            sys.exit("no more memory")
        if kind == "fails":
            raise RuntimeError("kernel\\nnot found")
        if kind == "leaks":
            self.kept.append(np.ones(2_000_000, np.uint8))
        if kind == "hangs":
            time.sleep(60)
        if kind == "lies":
            return Segmented(np.zeros((1, 2, 2), np.float32))
        return Segmented((rgb[..., 0] > 127).astype(np.uint8), {"network": 0.5, "calls": self.calls})

def load():
    if sys.argv[1] == "lacks":
        raise MachineError("vendor is needed here and not installed")
    return Bright()

sys.exit(serve(load, Path(sys.argv[2])))
"""


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    rgb = np.zeros((3, 4, 4, 3), np.uint8)
    rgb[1, :2] = 255
    rgb[2] = 200
    np.save(tmp_path / "frames.npy", rgb)
    return tmp_path / "frames.npy"


def implementation(kind: str, on_gpu: bool = False) -> Implementation:
    return Implementation(kind, "peer", ("-c", SERVE, kind), on_gpu=on_gpu)


def test_an_implementation_answers_from_its_own_process(frames: Path, tmp_path: Path) -> None:
    with Process(implementation("works"), frames) as process:
        seconds, facts = process.open()
        timed = process.time(0)
        masks = process.masks(3, tmp_path)
        memory = process.memory()
    assert seconds >= 0
    assert facts == {"detail": "bright pixels"}
    assert timed.seconds > 0
    assert timed.stages_s == {"network": 0.5, "calls": 1}
    assert masks.sum(axis=(1, 2)).tolist() == [0, 8, 16]
    if sys.platform == "linux":
        assert memory.resident_peak_bytes is not None
        assert memory.resident_peak_bytes > 10_000_000


def test_masks_are_told_one_by_one_as_they_come(frames: Path, tmp_path: Path) -> None:
    told: list[str] = []
    with Process(implementation("works"), frames) as process:
        process.open()
        process.masks(3, tmp_path, lambda: told.append("a frame"))
    assert told == ["a frame"] * 3
    assert not list(tmp_path.glob("mask*"))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("dies", r"its process died: exit code 1 \(no more memory\)"),
        ("fails", "RuntimeError: kernel not found"),
        ("lies", r"masks must be uint8 \(1, 4, 4\), got float32 \(1, 2, 2\)"),
    ],
)
def test_an_implementation_that_fails_says_why(frames: Path, kind: str, said: str) -> None:
    with Process(implementation(kind), frames) as process:
        process.open()
        with pytest.raises(NotRunError, match=said):
            process.time(0)


def test_an_implementation_that_lacks_something_is_not_run(frames: Path) -> None:
    with Process(implementation("lacks"), frames) as process, pytest.raises(NotRunError, match="vendor is needed"):
        process.open()


def test_an_implementation_that_hangs_is_given_up(frames: Path) -> None:
    with Process(implementation("hangs"), frames) as process:
        process.open()
        process.timeout_s = 0.2
        with pytest.raises(NotRunError, match="no answer to 'time' within 0 s"):
            process.time(0)


def test_a_process_that_never_starts_is_told(frames: Path) -> None:
    broken = Implementation("none", "peer", ("-c", "raise SystemExit('no such module')"))
    with Process(broken, frames) as process, pytest.raises(NotRunError, match="no such module"):
        process.open()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_planted_leak_is_seen_from_outside(frames: Path) -> None:
    with Process(implementation("leaks"), frames) as process:
        process.open()
        found = over_frames(process, 40)
    assert found.frames == 40
    assert found.growth_bytes > 30_000_000  # 20 samples of 2 MB lie between the medians


class Scripted:
    """Calls in the order they came, of known length; it fails at a given call."""

    def __init__(self, name: str, seconds: float, order: list[str], fails_at: int | None = None) -> None:
        self._name, self._seconds, self._order, self._fails_at = name, seconds, order, fails_at
        self._calls = 0

    def time(self, start: int) -> Timed:
        self._calls += 1
        if self._calls == self._fails_at:
            raise NotRunError("out of memory")
        self._order.append(f"{self._name}{start}")
        return Timed(self._seconds, {})


def test_implementations_are_called_in_turn_on_the_same_frame() -> None:
    order: list[str] = []
    callers = {"a": Scripted("a", 1, order).time, "b": Scripted("b", 2, order).time}
    calls, failed = in_turn(callers, 3, 2)
    assert order == ["a0", "b0", "a1", "b1", "a0", "b0"]
    assert {name: len(measured) for name, measured in calls.items()} == {"a": 3, "b": 3}
    assert failed == {}


def test_one_that_fails_takes_part_no_more_and_the_others_go_on() -> None:
    order: list[str] = []
    callers = {"a": Scripted("a", 1, order, fails_at=2).time, "b": Scripted("b", 2, order).time}
    calls, failed = in_turn(callers, 3, 3)
    assert failed == {"a": "out of memory"}
    assert list(calls) == ["b"]
    assert order == ["a0", "b0", "b1", "b2"]


def calls_after_two_turns(kind: Implementation, frames: Path) -> float:
    with Process(kind, frames) as process:
        process.open()
        process.time_in_turn(0)
        return process.time_in_turn(1).stages_s["calls"]


def test_on_a_gpu_unmeasured_calls_come_before_each_measured_one(frames: Path) -> None:
    assert CLOCKS_S > 0
    assert calls_after_two_turns(implementation("works", on_gpu=True), frames) > 2


def test_on_a_cpu_every_call_is_measured(frames: Path) -> None:
    assert calls_after_two_turns(implementation("works"), frames) == 2
