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

from breastseg_deploy import BackendError, BundleError, ParityError, Segmenter
from breastseg_deploy.backends import contest
from breastseg_deploy.backends import select as choice
from breastseg_deploy.backends.select import BY_NAME_ONLY, LOADERS, choose
from breastseg_deploy.bundle import MODEL, Bundle
from breastseg_deploy.errors import BreastsegError
from breastseg_deploy.inference import Inference
from breastseg_deploy.nvidia import NoGpu
from breastseg_deploy.processor import Processor

NO_DRIVER = "no NVIDIA driver on this machine"
PASSED_OVER = f"; passed over: tensorrt, tensorrt-rtx, onnxruntime-cuda ({NO_DRIVER})"


class Clock:
    """Time that passes only while a backend computes."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Timed:
    """A backend that takes the seconds it is given, one after the other, the last again and again."""

    def __init__(self, name: str, clock: Clock, seconds: list[float], calls: list[str]) -> None:
        self.name, self.clock, self.seconds, self.calls = name, clock, list(seconds), calls
        self.closed = 0
        self.answer: Callable[[tuple[int, ...]], NDArray[np.float32]] = lambda shape: np.zeros(shape, np.float32)
        self.error: BreastsegError | None = None

    def infer(self, rgb: NDArray[np.uint8]) -> Inference:
        self.calls.append(self.name)
        self.clock.now += self.seconds.pop(0) if len(self.seconds) > 1 else self.seconds[0]
        if self.error is not None:
            raise self.error
        return Inference(self.answer(rgb.shape[:3]), {})

    def close(self) -> None:
        self.closed += 1


class Machine:
    """Two backends for the CPU, both installed, with versions and speeds of the test's choice; no GPU."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock, self.calls, self.opened = Clock(), [], []  # type: ignore[var-annotated]
        self.versions = {"openvino": "OpenVINO 2026.4.1", "onnxruntime": "ONNX Runtime 1.32.0"}
        self.seconds = {"openvino": [0.71], "onnxruntime": [1.12]}
        self.prepare: Callable[[Timed], object] = lambda _: None
        self.backends: list[Timed] = []
        self.fails: dict[str, BreastsegError] = {}
        loaders = {}
        for name, loader in LOADERS.items():
            check, load = self._check(name), self._open(name)
            loaders[name] = loader if loader.on_gpu or name in BY_NAME_ONLY else replace(loader, check=check, open=load)
        monkeypatch.setattr(choice, "LOADERS", loaders)
        monkeypatch.setattr(contest, "perf_counter", self.clock)
        monkeypatch.setattr(contest, "_today", lambda: "2026-11-23")

    def _check(self, name: str) -> Callable[[], str]:
        return lambda: self.versions[name]

    def _open(self, name: str) -> Callable[[Bundle], Timed]:
        def load(_: Bundle) -> Timed:
            self.opened.append(name)
            if name in self.fails:
                raise self.fails[name]
            made = Timed(name, self.clock, self.seconds[name], self.calls)
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
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("BREASTSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Machine:
    monkeypatch.setattr(choice, "look_for_gpu", lambda: NoGpu(NO_DRIVER, expected=False))
    for name in ("tensorrt", "tensorrt-rtx", "onnxruntime-cuda"):
        assert LOADERS[name].on_gpu
    monkeypatch.setattr("breastseg_deploy.gpu.loading.look_for_gpu", lambda: NoGpu(NO_DRIVER, expected=False))
    return Machine(monkeypatch)


def test_the_faster_one_serves_and_the_figures_are_told(machine: Machine, bundle: Bundle) -> None:
    found = choose(bundle)
    why = "openvino: 0.71 s a frame against 1.12 s by onnxruntime, measured on this machine on 2026-11-23"
    assert (found.name, found.reason) == ("openvino", why + PASSED_OVER)
    assert (found.artefact, found.fell_back) == (MODEL, False)


@pytest.mark.parametrize(("openvino", "winner"), [(1.13, "onnxruntime"), (1.11, "openvino")])
def test_no_backend_is_preferred_on_the_cpu(machine: Machine, bundle: Bundle, openvino: float, winner: str) -> None:
    machine.seconds["openvino"] = [openvino]
    assert choose(bundle).name == winner


def test_backends_run_in_turn_after_one_call_each_that_does_not_count(machine: Machine, bundle: Bundle) -> None:
    machine.seconds = {"openvino": [0.001, 0.2], "onnxruntime": [0.5, 0.3, 0.1, 0.3]}
    found = choose(bundle)
    assert machine.calls == ["openvino", "onnxruntime"] * (1 + contest.ROUNDS)
    assert "onnxruntime: 0.10 s a frame against 0.20 s by openvino" in found.reason  # the fastest call, no first one


def test_on_a_slow_machine_one_counted_round_is_all(machine: Machine, bundle: Bundle) -> None:
    machine.seconds = {"openvino": [20.0], "onnxruntime": [30.0]}
    assert choose(bundle).reason.startswith("openvino: 20.00 s a frame against 30.00 s by onnxruntime")
    assert machine.calls == ["openvino", "onnxruntime"] * 2


def test_no_round_begins_after_the_budget(machine: Machine, bundle: Bundle) -> None:
    machine.seconds = {"openvino": [1.0], "onnxruntime": [2.0]}
    choose(bundle)
    assert len(machine.calls) == 2 * 3  # 9 s are over the budget of 8


def test_the_loser_is_closed_and_the_winner_is_not(machine: Machine, bundle: Bundle) -> None:
    found = choose(bundle)
    assert {one.name: one.closed for one in machine.backends} == {"openvino": 0, "onnxruntime": 1}
    assert found.backend in machine.backends


def test_the_choice_is_kept_and_only_the_winner_is_loaded_then(machine: Machine, bundle: Bundle) -> None:
    first = choose(bundle)
    machine.forget()
    machine.seconds = {"openvino": [9.0], "onnxruntime": [1.0]}  # a slow moment changes nothing
    second = choose(bundle)
    assert (second.name, second.reason) == (first.name, first.reason)
    assert (machine.opened, machine.calls) == (["openvino"], [])


@pytest.mark.parametrize("change", ["openvino", "onnxruntime", "processor", "numpy", "toolkit", "model"])
def test_it_is_measured_again_after_a_change(
    machine: Machine, bundle: Bundle, bundle_copy: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    choose(bundle)
    opened, machine.seconds["openvino"] = bundle, [2.0]
    if change in machine.versions:
        machine.versions[change] += "-new"
    elif change == "processor":
        monkeypatch.setattr(contest, "this_processor", lambda: Processor("another", 64))
    elif change == "model":
        edit_manifest(bundle_copy, lambda raw: raw["files"][MODEL].update(sha256="0" * 64))
        raw = json.loads((bundle_copy / "manifest.json").read_text())
        opened = Bundle(bundle.path, type(bundle.manifest).model_validate(raw))
    else:
        monkeypatch.setattr(*{"numpy": (np, "__version__"), "toolkit": (contest, "__version__")}[change], "9.9")
    assert choose(opened).name == "onnxruntime"


def test_a_named_backend_skips_the_contest(machine: Machine, bundle: Bundle, cache: Path) -> None:
    assert choose(bundle, "onnxruntime").reason == "onnxruntime: asked for by name"
    assert (machine.opened, machine.calls, cache.exists()) == (["onnxruntime"], [], False)


def test_one_backend_alone_is_not_timed(machine: Machine, bundle: Bundle, cache: Path) -> None:
    machine.fails["openvino"] = BackendError("no memory")
    found = choose(bundle)
    assert found.reason == f"onnxruntime: the first that works here{PASSED_OVER}; openvino (failed: no memory)"
    assert (machine.calls, found.fell_back) == ([], True)
    assert list(cache.iterdir()) == []  # tomorrow both may work


def test_a_cache_that_cannot_be_used_is_said_and_it_is_measured_again(
    machine: Machine, bundle: Bundle, cache: Path
) -> None:
    cache.write_text("a file in the folder's place")
    for _ in range(2):
        machine.forget()
        found = choose(bundle)
        assert found.name == "openvino"
        assert "on 2026-11-23 (not kept for the next opening: cannot make the engine cache" in found.reason
        assert machine.calls != []


def test_a_cache_that_others_may_write_to_is_not_believed(machine: Machine, bundle: Bundle, cache: Path) -> None:
    choose(bundle)
    cache.chmod(0o777)
    machine.forget()
    assert "(not kept for the next opening: others may write to" in choose(bundle).reason
    assert machine.calls != []


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
def test_a_damaged_choice_is_measured_again(machine: Machine, bundle: Bundle, cache: Path, found: Any) -> None:
    choose(bundle)
    (file,) = cache.iterdir()
    file.write_text(json.dumps({**json.loads(file.read_text()), "found": found}))
    machine.forget()
    choose(bundle)
    assert machine.calls != []


def test_a_kept_winner_that_fails_today_is_passed_over_with_words(machine: Machine, bundle: Bundle) -> None:
    choose(bundle)
    machine.fails["openvino"] = BackendError("no memory")
    found = choose(bundle)
    assert found.reason == f"onnxruntime: the first that works here{PASSED_OVER}; openvino (failed: no memory)"
    assert found.fell_back
    with pytest.raises(BackendError, match="openvino failed, and with strict=True"):
        choose(bundle, strict=True)


@pytest.mark.parametrize("fault", ["raises", "nan"])
def test_one_that_fails_in_the_contest_is_passed_over(
    machine: Machine, bundle: Bundle, cache: Path, fault: str
) -> None:
    def spoil(one: Timed) -> None:
        if one.name == "openvino" and fault == "raises":
            one.error = BackendError("no memory")
        elif one.name == "openvino":
            one.answer = lambda shape: np.full(shape, np.nan, np.float32)

    machine.prepare = spoil
    found = choose(bundle)
    assert (found.name, found.fell_back) == ("onnxruntime", True)
    assert found.reason.startswith(f"onnxruntime: the first that works here{PASSED_OVER}; openvino (failed: ")
    assert [one.closed for one in machine.backends] == [1, 0]
    assert list(cache.iterdir()) == []
    machine.forget()
    with pytest.raises(BackendError, match="openvino failed, and with strict=True"):
        choose(bundle, strict=True)
    assert [one.closed for one in machine.backends] == [1, 1]


def test_nothing_left_names_every_reason(machine: Machine, bundle: Bundle) -> None:
    machine.fails = {"openvino": ParityError("Dice 0.5"), "onnxruntime": BackendError("no memory")}
    with pytest.raises(BackendError, match=r"no backend can serve here: .*openvino \(failed: Dice.*onnxruntime \(fail"):
        choose(bundle)


def test_a_damaged_bundle_is_never_passed_over(machine: Machine, bundle: Bundle) -> None:
    machine.fails["onnxruntime"] = BundleError("model.onnx was altered")
    with pytest.raises(BundleError, match="was altered"):
        choose(bundle)


def test_the_segmenter_logs_the_choice(machine: Machine, bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "breastseg_deploy"), Segmenter.open(bundle.path) as segment:
        assert segment.backend == "openvino"
    assert "backend openvino: 0.71 s a frame against 1.12 s by onnxruntime, measured on this" in caplog.text
