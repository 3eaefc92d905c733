"""Optional libraries: what is missing names its extra, what is broken keeps its own error."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from breastseg_deploy import MachineError
from breastseg_deploy.extras import require, require_installed


def test_installed_library_is_imported() -> None:
    assert require("json.decoder", "cpu").__name__ == "json.decoder"


@pytest.mark.parametrize("module", ["no_such_engine", "no_such_engine.runtime"])
def test_missing_library_names_the_extra_that_brings_it(module: str) -> None:
    with pytest.raises(
        MachineError, match=rf"{module} is needed here and not installed: pip install 'breastseg-deploy\[cpu\]'"
    ):
        require(module, "cpu")


@pytest.mark.parametrize("fault", ["import a_missing_dependency", "raise ImportError('libcuda.so.1')", "1 / 0"])
def test_broken_library_keeps_its_own_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    name = f"broken_{abs(hash(fault))}"
    (tmp_path / f"{name}.py").write_text(fault)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises((ImportError, ZeroDivisionError), match=r"a_missing_dependency|libcuda|division"):
        require(name, "cpu")


def test_whether_a_library_is_installed_is_told_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_engine.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    require_installed("broken_engine", "cpu")
    with pytest.raises(MachineError, match=r"no_such_engine is needed .* pip install 'breastseg-deploy\[cpu\]'"):
        require_installed("no_such_engine", "cpu")


INTERRUPTED_WHILE_IT_LOADS = """
import signal
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    raise ImportError("initialization failed")
"""
"""As ONNX Runtime does."""


@pytest.fixture
def ctrl_c() -> Iterator[Callable[[Any], object]]:
    """Decides what Ctrl-C does, for this test."""
    before = signal.getsignal(signal.SIGINT)
    yield lambda handler: signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("name", ["interrupted_engine", "interrupted_missing_engine"])
def test_ctrl_c_while_a_library_loads_is_a_keyboard_interrupt_and_no_error_of_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ctrl_c: Callable[[Any], object], name: str
) -> None:
    broken = "\nimport a_missing_dependency" if "missing" in name else ""
    (tmp_path / f"{name}.py").write_text(INTERRUPTED_WHILE_IT_LOADS + broken)
    monkeypatch.syspath_prepend(tmp_path)
    ctrl_c(signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):
        require(name, "cpu")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_host_program_with_a_ctrl_c_of_its_own_has_it_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ctrl_c: Callable[[Any], object]
) -> None:
    (tmp_path / "engine_of_a_host.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\ncame = True")
    monkeypatch.syspath_prepend(tmp_path)
    heard: list[int] = []
    ctrl_c(lambda number, _: heard.append(number))
    assert require("engine_of_a_host", "cpu").came
    assert heard == [signal.SIGINT]
