"""Optional libraries: what is missing names its extra, what is broken keeps its own error."""

from __future__ import annotations

from pathlib import Path

import pytest

from breastseg_deploy import MachineError
from breastseg_deploy.extras import require


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
