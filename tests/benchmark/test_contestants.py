from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from breastseg_benchmark.contestants import Contestant, NotRunError, Running, Timed, in_turn
from breastseg_benchmark.growing import _over_frames

SERVE = """
import sys, time
from pathlib import Path
import numpy as np
from breastseg_benchmark.serving import Answer, serve
from breastseg_deploy.errors import MachineError

class Bright:
    facts = {"detail": "bright pixels"}
    kept = []
    def __call__(self, rgb):
        print("a library that prints to stdout")
        kind = sys.argv[1]
        if kind == "dies":
            sys.exit("no more memory")
        if kind == "fails":
            raise RuntimeError("kernel\\nnot found")
        if kind == "leaks":
            self.kept.append(np.ones(2_000_000, np.uint8))
        if kind == "hangs":
            time.sleep(60)
        if kind == "lies":
            return Answer(np.zeros((1, 2, 2), np.float32))
        return Answer((rgb[..., 0] > 127).astype(np.uint8), {"network": 0.5})

def open_contestant():
    if sys.argv[1] == "lacks":
        raise MachineError("vendor is needed here and not installed")
    return Bright()

sys.exit(serve(open_contestant, Path(sys.argv[2])))
"""


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    rgb = np.zeros((3, 4, 4, 3), np.uint8)
    rgb[1, :2] = 255
    rgb[2] = 200
    np.save(tmp_path / "frames.npy", rgb)
    return tmp_path / "frames.npy"


def contestant(kind: str) -> Contestant:
    return Contestant(kind, "peer", ("-c", SERVE, kind))


def test_a_contestant_answers_from_its_own_process(frames: Path, tmp_path: Path) -> None:
    with Running(contestant("works"), frames) as running:
        seconds, facts = running.open()
        timed = running.time(0)
        masks = running.masks(tmp_path)
        memory = running.memory()
    assert seconds >= 0
    assert facts == {"detail": "bright pixels"}
    assert timed.seconds > 0
    assert timed.stages_s == {"network": 0.5}
    assert masks.sum(axis=(1, 2)).tolist() == [0, 8, 16]
    if sys.platform == "linux":
        assert memory.resident_peak_bytes is not None
        assert memory.resident_peak_bytes > 10_000_000


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("dies", r"its process died: exit code 1 \(no more memory\)"),
        ("fails", "RuntimeError: kernel not found"),
        ("lies", r"a mask must be uint8 \(1, 4, 4\), got float32 \(1, 2, 2\)"),
    ],
)
def test_a_contestant_that_fails_says_why(frames: Path, kind: str, said: str) -> None:
    with Running(contestant(kind), frames) as running:
        running.open()
        with pytest.raises(NotRunError, match=said):
            running.time(0)


def test_a_contestant_that_lacks_something_is_not_run(frames: Path) -> None:
    with Running(contestant("lacks"), frames) as running, pytest.raises(NotRunError, match="vendor is needed"):
        running.open()


def test_a_contestant_that_hangs_is_given_up(frames: Path) -> None:
    with Running(contestant("hangs"), frames) as running:
        running.open()
        running.timeout_s = 0.2
        with pytest.raises(NotRunError, match="no answer to 'time' within 0 s"):
            running.time(0)


def test_a_process_that_never_starts_is_told(frames: Path) -> None:
    broken = Contestant("none", "peer", ("-c", "raise SystemExit('no such module')"))
    with Running(broken, frames) as running, pytest.raises(NotRunError, match="no such module"):
        running.open()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_planted_leak_is_seen_from_outside(frames: Path) -> None:
    with Running(contestant("leaks"), frames) as running:
        running.open()
        found = _over_frames(running, 40)
    assert found is not None
    assert found.frames == 40
    assert found.growth_bytes > 30_000_000  # 20 samples of 2 MB lie between the medians


class Scripted:
    """Calls in the order they came, of known length; it fails at a given call."""

    def __init__(self, name: str, seconds: float, order: list[str], fails_at: int | None = None) -> None:
        self._name, self._seconds, self._order, self._fails_at = name, seconds, order, fails_at
        self._calls = 0

    def time(self, start: int, count: int = 1) -> Timed:
        self._calls += 1
        if self._calls == self._fails_at:
            raise NotRunError("out of memory")
        self._order.append(f"{self._name}{start}")
        return Timed(self._seconds, {})


def test_contestants_are_called_in_turn_on_the_same_frame() -> None:
    order: list[str] = []
    calls = in_turn({"a": Scripted("a", 1, order), "b": Scripted("b", 2, order)}, 3, 2, lambda name, err: None)
    assert order == ["a0", "b0", "a1", "b1", "a0", "b0"]
    assert {name: len(taken) for name, taken in calls.items()} == {"a": 3, "b": 3}


def test_one_that_fails_is_left_out_and_the_others_go_on() -> None:
    order: list[str] = []
    lost: dict[str, str] = {}
    callers = {"a": Scripted("a", 1, order, fails_at=2), "b": Scripted("b", 2, order)}
    calls = in_turn(callers, 3, 3, lambda name, err: lost.update({name: str(err)}))
    assert lost == {"a": "out of memory"}
    assert list(calls) == ["b"]
    assert order == ["a0", "b0", "b1", "b2"]
