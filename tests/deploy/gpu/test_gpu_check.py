"""The check of a machine with a GPU: its command, its runner and what it writes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from breastseg_benchmark.gpu_check.page import page, write_report
from breastseg_benchmark.gpu_check.runner import ended, run_steps
from breastseg_benchmark.gpu_check.step import STEPS, Finding, Settings, Skip, Step, run_here
from breastseg_deploy.cli.main import main
from breastseg_deploy.nvidia import Gpu, look_for_gpu

NOWHERE = Settings("bundle", "output")
needs_no_gpu = pytest.mark.skipif(isinstance(look_for_gpu(), Gpu), reason="there is a GPU")


def printing(code: str) -> Callable[[Step, Settings], Sequence[str]]:
    """The command of a step that runs that code."""
    return lambda step, settings: [sys.executable, "-c", code]


def run(code: str, limit_s: float = 60) -> tuple[Finding, list[str]]:
    told: list[str] = []
    found = run_steps([Step("a step", "nowhere:nothing", limit_s)], NOWHERE, told.append, printing(code))
    return found["a step"], told


def test_a_steps_finding_is_the_last_line_that_it_prints() -> None:
    finding = json.dumps(Finding("passed", "all well", {"ms": 1.5}).as_json())
    found, told = run(f"print('a library says hello'); print({finding!r})")
    assert (found.verdict, found.words, found.figures) == ("passed", "all well", {"ms": 1.5})
    assert found.seconds > 0
    assert len(told) == 1
    assert told[0].startswith("passed  a step")


def test_a_step_that_hangs_is_ended_at_its_limit() -> None:
    found, _ = run("import time; time.sleep(60)", limit_s=0.5)
    assert (found.verdict, found.words) == ("failed", "took longer than its limit of 0.5 s and was ended")
    assert 0.5 <= found.seconds < 30


def is_over(pid: int, patience_s: float = 20) -> bool:
    """Whether a process ends, soon: it is killed when its signal arrives."""
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("hangs", ["sys.stdout.flush(); time.sleep(60)", "sys.exit()"], ids=["and hangs", "and ends"])
def test_what_a_step_has_started_ends_with_it(tmp_path: Path, hangs: str) -> None:
    """compute-sanitizer and the benchmark start processes of their own, which would go on using the GPU."""
    child = "import sys, time; open(sys.argv[1], 'w').write('begun'); time.sleep(60)"
    code = f"""import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {child!r}, {str(tmp_path / "begun")!r}])
while not os.path.exists({str(tmp_path / "begun")!r}): time.sleep(0.01)
open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
{hangs}
"""
    started = time.perf_counter()
    found, _ = run(code, limit_s=20 if hangs == "sys.exit()" else 5)
    assert found.verdict == "failed"
    assert time.perf_counter() - started < 50
    assert is_over(int((tmp_path / "pid").read_text()))


class Undying:
    """A process that a driver holds: no signal ends it."""

    pid = 2**22 + 1  # over the largest that Linux gives

    def kill(self) -> None: ...

    def wait(self, timeout: float | None = None) -> int:
        raise subprocess.TimeoutExpired("a step", timeout or 0)


def test_a_process_that_cannot_be_ended_is_not_waited_for() -> None:
    assert not ended(Undying(), patience_s=0)


def test_a_step_may_print_what_is_no_text() -> None:
    finding = json.dumps(Finding("passed", "all well").as_json())
    found, _ = run(f"import sys; sys.stdout.buffer.write(b'\\xff\\n'); print({finding!r})")
    assert (found.verdict, found.words) == ("passed", "all well")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "its process was ended by signal 11"),
        ("raise SystemExit('libcudnn.so.9: cannot open')", "ended with exit code 1: libcudnn.so.9: cannot open"),
        ("print('no finding')", "its process ended with exit code 0"),
    ],
)
def test_a_step_whose_process_dies_has_failed_and_the_next_runs(code: str, words: str) -> None:
    found, _ = run(code)
    assert found.verdict == "failed"
    assert words in found.words


def test_every_step_can_be_loaded_and_has_a_time_limit() -> None:
    for step in STEPS:
        assert callable(step.load())
        assert 0 < step.limit_s <= 1800


def test_what_a_step_raises_is_its_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(error: Exception) -> Any:
        def step(settings: Settings) -> Finding:
            raise error

        return step

    class Loaded(Step):
        error: Exception = Skip("no compute-sanitizer")

        def load(self) -> Any:
            return refuse(self.error)

    assert run_here(Loaded("a", "b", 1), NOWHERE) == Finding("skipped", "no compute-sanitizer")
    monkeypatch.setattr(Loaded, "error", RuntimeError("cudaErrorInvalid:\n  value"))
    found = run_here(Loaded("a", "b", 1), NOWHERE)
    assert (found.verdict, found.words) == ("failed", "RuntimeError: cudaErrorInvalid: value")
    assert "in step" in found.figures["traceback"]


def test_the_page_holds_every_verdict_and_figure() -> None:
    found = {
        "versions": Finding("passed", "NVIDIA Test", {"cupy": "14.0"}, 1.0),
        "kernel": Finding("failed", "error | 1", {"ms": {"one": 0.123456, "eight": 2.0}}, 2.0),
    }
    written = page(found, "2026-11-24")
    assert "| kernel | failed | 2.0 | error \\| 1 |" in written
    assert "| ms | one 0.1235, eight 2 |" in written
    assert written.startswith("# GPU check, 2026-11-24\n\nNVIDIA Test\n")


def test_json_and_page_are_written_after_each_step_whatever_becomes_of_it(tmp_path: Path) -> None:
    """Whoever ends the check early, a hang of the machine included, has what was found until then."""
    kept: list[list[str]] = []

    def keep(found: Mapping[str, Finding]) -> None:
        write_report(tmp_path, found, "2026-11-24")
        kept.append(list(json.loads((tmp_path / "gpu-check.json").read_text())["steps"]))

    steps = [Step(name, "nowhere:nothing", 60) for name in ("first", "second")]
    run_steps(steps, NOWHERE, lambda line: None, printing("raise SystemExit('no such GPU')"), keep)
    assert kept == [["first"], ["first", "second"]]
    assert "| second | failed |" in (tmp_path / "gpu-check.md").read_text()


def test_figures_that_are_no_numbers_do_not_break_the_json() -> None:
    figures = {"error": float("nan"), "times": {"one": [float("inf"), 1.5]}}
    told = json.dumps(Finding("failed", "wrong", figures).as_json(), allow_nan=False)
    assert json.loads(told)["figures"] == {"error": "nan", "times": {"one": ["inf", 1.5]}}


@needs_no_gpu
def test_without_a_gpu_the_command_says_so_in_one_sentence_and_starts_nothing(
    demo_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BREASTSEG_DEMO_BUNDLE", str(demo_bundle))
    assert main(["gpu-check", "--output", str(tmp_path / "out")]) == 4
    said = capfd.readouterr().err
    assert said.startswith("error: gpu-check needs an NVIDIA GPU: ")
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_command_without_a_bundle_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("BREASTSEG_DEMO_BUNDLE", raising=False)
    assert main(["gpu-check"]) == 1
    assert "error: name a bundle, or set BREASTSEG_DEMO_BUNDLE" in capfd.readouterr().err
