"""Which of two CPU backends serves: timed in turn, kept, announced, and measured again when anything changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from surgery import edit_manifest

from breastseg_deploy import BackendError, BundleError, Machine, ParityError
from breastseg_deploy.backends import select
from breastseg_deploy.backends.fastest import ROUNDS, Clock
from breastseg_deploy.backends.registry import BACKENDS
from breastseg_deploy.backends.select import Choice
from breastseg_deploy.bundle import MODEL, PORTABLE, Bundle
from breastseg_deploy.errors import BreastsegError
from breastseg_deploy.inference import Inference
from breastseg_deploy.machine import Processor
from breastseg_deploy.nvidia import NoGpu
from breastseg_deploy.version import __version__

NO_DRIVER = "no NVIDIA driver on this machine"
PASSED_OVER = f"; passed over: tensorrt, tensorrt-rtx, onnxruntime-cuda ({NO_DRIVER})"


class Time:
    """Time that passes only while a backend computes."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Timed:
    """A backend that takes the seconds it is given, one after the other, the last again and again."""

    def __init__(self, name: str, clock: Time, seconds: list[float], calls: list[str]) -> None:
        self.name, self.clock, self.seconds, self.calls = name, clock, list(seconds), calls
        self.closed = 0
        self.answer: Callable[[tuple[int, ...]], NDArray[np.float32]] = lambda shape: np.zeros(shape, np.float32)
        self.error: BreastsegError | None = None

    def infer(self, rgb: NDArray[np.uint8], *, probability: bool = True) -> Inference:
        self.calls.append(self.name)
        self.clock.now += self.seconds.pop(0) if len(self.seconds) > 1 else self.seconds[0]
        if self.error is not None:
            raise self.error
        return Inference(self.answer(rgb.shape[:3]), {})

    def close(self) -> None:
        self.closed += 1


class TwoBackends:
    """Two backends for the CPU, both installed, with versions and speeds of the test's choice; no GPU."""

    def __init__(self, cache: Path) -> None:
        self.time, self.calls, self.opened = Time(), [], []  # type: ignore[var-annotated]
        self.versions = {"openvino": "OpenVINO 2026.4.1", "onnxruntime": "ONNX Runtime 1.32.0"}
        self.seconds = {"openvino": [0.71], "onnxruntime": [1.12]}
        self.prepare: Callable[[Timed], object] = lambda _: None
        self.backends: list[Timed] = []
        self.fails: dict[str, BreastsegError] = {}
        self.processor, self.cache = Processor("a processor", 2), cache

    def choose(self, bundle: Bundle, name: str = "auto", *, strict: bool = False) -> Choice:
        machine = Machine(gpu=NoGpu(NO_DRIVER, expected=False), processor=self.processor, cache=self.cache)
        records = {}
        for known, record in BACKENDS.items():
            ours = not record.on_gpu and not record.by_name_only
            records[known] = replace(record, check=self._check(known), open=self._open(known)) if ours else record
        clock = Clock(self.time, lambda: "2026-11-23")
        return select.choose(bundle, name, machine, strict=strict, backends=records, clock=clock)

    def _check(self, name: str) -> Callable[[Machine], str]:
        return lambda _: self.versions[name]

    def _open(self, name: str) -> Callable[[Bundle, Machine], Timed]:
        def load(_: Bundle, __: Machine) -> Timed:
            self.opened.append(name)
            if name in self.fails:
                raise self.fails[name]
            made = Timed(name, self.time, self.seconds[name], self.calls)
            self.prepare(made)
            self.backends.append(made)
            return made

        return load

    def forget(self) -> None:
        """What was called and opened until now."""
        self.calls.clear()
        self.opened.clear()
        self.backends.clear()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def two(cache: Path) -> TwoBackends:
    return TwoBackends(cache)


def test_the_faster_one_serves_and_the_figures_are_told(two: TwoBackends, bundle: Bundle) -> None:
    found = two.choose(bundle)
    why = "openvino: 0.71 s a frame against 1.12 s by onnxruntime, measured on this machine on 2026-11-23"
    assert (found.name, found.reason) == ("openvino", why + PASSED_OVER)
    assert (found.artefact, found.fell_back) == (PORTABLE, False)


@pytest.mark.parametrize(("openvino", "winner"), [(1.13, "onnxruntime"), (1.11, "openvino")])
def test_no_backend_is_preferred_on_the_cpu(two: TwoBackends, bundle: Bundle, openvino: float, winner: str) -> None:
    two.seconds["openvino"] = [openvino]
    assert two.choose(bundle).name == winner


def test_backends_run_in_turn_after_one_call_each_that_does_not_count(two: TwoBackends, bundle: Bundle) -> None:
    two.seconds = {"openvino": [0.001, 0.2], "onnxruntime": [0.5, 0.3, 0.1, 0.3]}
    found = two.choose(bundle)
    assert two.calls == ["openvino", "onnxruntime"] * (1 + ROUNDS)
    assert "onnxruntime: 0.10 s a frame against 0.20 s by openvino" in found.reason  # the fastest call, no first one


def test_on_a_slow_machine_one_counted_round_is_all(two: TwoBackends, bundle: Bundle) -> None:
    two.seconds = {"openvino": [20.0], "onnxruntime": [30.0]}
    assert two.choose(bundle).reason.startswith("openvino: 20.00 s a frame against 30.00 s by onnxruntime")
    assert two.calls == ["openvino", "onnxruntime"] * 2


def test_no_round_begins_after_the_budget(two: TwoBackends, bundle: Bundle) -> None:
    two.seconds = {"openvino": [1.0], "onnxruntime": [2.0]}
    two.choose(bundle)
    assert len(two.calls) == 2 * 3  # 9 s are over the budget of 8


def test_the_slower_one_is_closed_and_the_faster_is_not(two: TwoBackends, bundle: Bundle) -> None:
    found = two.choose(bundle)
    assert {one.name: one.closed for one in two.backends} == {"openvino": 0, "onnxruntime": 1}
    assert found.backend in two.backends


def test_the_choice_is_kept_and_only_the_winner_is_loaded_then(two: TwoBackends, bundle: Bundle) -> None:
    first = two.choose(bundle)
    two.forget()
    two.seconds = {"openvino": [9.0], "onnxruntime": [1.0]}  # a slow moment changes nothing
    second = two.choose(bundle)
    assert (second.name, second.reason) == (first.name, first.reason)
    assert (two.opened, two.calls) == (["openvino"], [])


@pytest.mark.parametrize("change", ["openvino", "onnxruntime", "processor", "model"])
def test_it_is_measured_again_after_a_change(two: TwoBackends, bundle: Bundle, bundle_copy: Path, change: str) -> None:
    two.choose(bundle)
    opened, two.seconds["openvino"] = bundle, [2.0]
    if change in two.versions:
        two.versions[change] += "-new"
    elif change == "processor":
        two.processor = Processor("another", 64)
    else:
        edit_manifest(bundle_copy, lambda raw: raw["files"][MODEL].update(sha256="0" * 64))
        raw = json.loads((bundle_copy / "manifest.json").read_text())
        opened = Bundle(bundle.path, type(bundle.manifest).model_validate(raw))
    assert two.choose(opened).name == "onnxruntime"


def test_a_named_backend_is_not_timed(two: TwoBackends, bundle: Bundle, cache: Path) -> None:
    assert two.choose(bundle, "onnxruntime").reason == "onnxruntime: asked for by name"
    assert (two.opened, two.calls, cache.exists()) == (["onnxruntime"], [], False)


def test_one_backend_alone_is_not_timed(two: TwoBackends, bundle: Bundle, cache: Path) -> None:
    two.fails["openvino"] = BackendError("no memory")
    found = two.choose(bundle)
    assert found.reason == f"onnxruntime: the first that works here{PASSED_OVER}; openvino (failed: no memory)"
    assert (two.calls, found.fell_back) == ([], True)
    assert list(cache.iterdir()) == []  # tomorrow both may work


def test_a_cache_that_cannot_be_used_is_said_and_it_is_measured_again(
    two: TwoBackends, bundle: Bundle, cache: Path
) -> None:
    cache.write_text("a file in the folder's place")
    for _ in range(2):
        two.forget()
        found = two.choose(bundle)
        assert found.name == "openvino"
        assert "on 2026-11-23 (not kept for the next opening: cannot make the cache folder" in found.reason
        assert two.calls != []


def test_a_cache_that_others_may_write_to_is_not_believed(two: TwoBackends, bundle: Bundle, cache: Path) -> None:
    two.choose(bundle)
    cache.chmod(0o777)
    two.forget()
    assert "(not kept for the next opening: others may write to" in two.choose(bundle).reason
    assert two.calls != []


@pytest.mark.parametrize(
    "found",
    [
        {},
        {"seconds": {"openvino": 1.0}, "date": "x"},
        {"seconds": {"openvino": 1.0, "onnxruntime": 2.0}},
        {"seconds": {"openvino": 1.0, "onnxruntime": -2.0}, "date": "x"},
        {"seconds": {"openvino": 1.0, "onnxruntime": "2"}, "date": "x"},
        {"seconds": [1.0, 2.0], "date": "x"},
        [],
    ],
)
def test_a_damaged_choice_is_measured_again(two: TwoBackends, bundle: Bundle, cache: Path, found: Any) -> None:
    two.choose(bundle)
    (file,) = cache.iterdir()
    file.write_text(json.dumps({**json.loads(file.read_text()), "figures": found}))
    two.forget()
    two.choose(bundle)
    assert two.calls != []


def test_a_kept_winner_that_fails_today_is_passed_over_with_words(two: TwoBackends, bundle: Bundle) -> None:
    two.choose(bundle)
    two.fails["openvino"] = BackendError("no memory")
    found = two.choose(bundle)
    assert found.reason == f"onnxruntime: the first that works here{PASSED_OVER}; openvino (failed: no memory)"
    assert found.fell_back
    with pytest.raises(BackendError, match="openvino failed, and with strict=True"):
        two.choose(bundle, strict=True)


@pytest.mark.parametrize("fault", ["raises", "nan"])
def test_one_that_fails_while_it_is_timed_is_passed_over(
    two: TwoBackends, bundle: Bundle, cache: Path, fault: str
) -> None:
    def spoil(one: Timed) -> None:
        if one.name == "openvino" and fault == "raises":
            one.error = BackendError("no memory")
        elif one.name == "openvino":
            one.answer = lambda shape: np.full(shape, np.nan, np.float32)

    two.prepare = spoil
    found = two.choose(bundle)
    assert (found.name, found.fell_back) == ("onnxruntime", True)
    assert found.reason.startswith(f"onnxruntime: the first that works here{PASSED_OVER}; openvino (failed: ")
    assert [one.closed for one in two.backends] == [1, 0]
    assert list(cache.iterdir()) == []
    two.forget()
    with pytest.raises(BackendError, match="openvino failed, and with strict=True"):
        two.choose(bundle, strict=True)
    assert [one.closed for one in two.backends] == [1, 1]


def test_nothing_left_names_every_reason(two: TwoBackends, bundle: Bundle) -> None:
    two.fails = {"openvino": ParityError("Dice 0.5"), "onnxruntime": BackendError("no memory")}
    with pytest.raises(BackendError, match=r"no backend can serve here: .*openvino \(failed: Dice.*onnxruntime \(fail"):
        two.choose(bundle)


def test_a_damaged_bundle_is_never_passed_over(two: TwoBackends, bundle: Bundle) -> None:
    two.fails["onnxruntime"] = BundleError("model.onnx was altered")
    with pytest.raises(BundleError, match="was altered"):
        two.choose(bundle)


def test_the_figures_depend_on_versions_of_numpy_and_the_toolkit_too(bundle: Bundle, two: TwoBackends) -> None:
    two.choose(bundle)
    (file,) = two.cache.iterdir()
    depends_on = json.loads(file.read_text())["depends_on"]
    assert (depends_on["numpy"], depends_on["toolkit"]) == (np.__version__, __version__)
