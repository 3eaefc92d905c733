"""Optional libraries: what is missing names its extra, what is broken keeps its own error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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


PROGRAM = """
import signal, sys
from breastseg_deploy.extras import require

heard = []
signal.signal(signal.SIGINT, signal.default_int_handler if sys.argv[2] == "own" else lambda *_: heard.append("heard"))
try:
    print("came", require(sys.argv[1], "cpu").came)
except BaseException as err:
    print(type(err).__name__, signal.getsignal(signal.SIGINT) is signal.default_int_handler)
print(*heard)
"""
"""In a process of its own: the workers that run the tests side by side do not survive a Ctrl-C."""


def required(folder: Path, library: str, handler: str) -> str:
    """What a program says that requires a library whose import is interrupted."""
    (folder / "engine_of_the_test.py").write_text(library)
    path = os.pathsep.join([str(folder), *sys.path])
    words = [sys.executable, "-c", PROGRAM, "engine_of_the_test", handler]
    done = subprocess.run(words, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("broken", ["", "\nimport a_missing_dependency"])
def test_ctrl_c_while_a_library_loads_is_a_keyboard_interrupt_and_no_error_of_the_library(
    tmp_path: Path, broken: str
) -> None:
    assert required(tmp_path, INTERRUPTED_WHILE_IT_LOADS + broken, "own") == "KeyboardInterrupt True"


def test_a_host_program_with_a_ctrl_c_of_its_own_has_it_at_once(tmp_path: Path) -> None:
    library = "import signal\nsignal.raise_signal(signal.SIGINT)\ncame = True"
    assert required(tmp_path, library, "host's").split() == ["came", "True", "heard"]
