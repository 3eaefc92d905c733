"""What the code uses of TensorRT, held against the real Python bindings of every supported version, without a GPU.

`engines.api` describes what is used: mypy lets the code use nothing else. TensorRT's bindings are imported over stub
libraries, because its libraries do not come from the package index.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import breastseg_deploy
from breastseg_deploy.engines import api

STUBS = Path(__file__).resolve().parents[1] / "stub_tensorrt"
VERSIONS = ("10.16.1.11", "11.4.0.106")
NOT_TENSORRTS_OWN = {"Enumerator"}
Table = dict[str, dict[str, list[str] | None]]


def described(*, rtx: bool) -> Table:
    """What `engines.api` says: members by class, with the names of the parameters of methods. The module is ""."""
    table: Table = {}
    of_rtx_alone = {name for name in vars(api.TensorRTRtx) if not name.startswith("_")}
    for name, kind in vars(api).items():
        if not getattr(kind, "_is_protocol", False) or kind.__module__ != api.__name__ or name in NOT_TENSORRTS_OWN:
            continue
        if not rtx and (name.endswith("Rtx") or name in of_rtx_alone):
            continue
        theirs = name.removesuffix("Rtx")
        members = {**dict.fromkeys(inspect.get_annotations(kind)), **kind.__dict__}
        table.setdefault("" if theirs == "TensorRT" else theirs, {}).update(
            {member: parameters(found) for member, found in members.items() if not member.startswith("_")}
        )
    return table


def parameters(member: Any) -> list[str] | None:
    return list(inspect.signature(member).parameters)[1:] if inspect.isfunction(member) else None


def look(module: str, table: Table, environment: dict[str, str] | None = None) -> dict[str, Any]:
    command = [sys.executable, "-W", "error", str(STUBS / "look.py"), module]
    environment = {**os.environ, **(environment or {})}
    done = subprocess.run(
        command, input=json.dumps(table), env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(params=VERSIONS)
def bindings(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, str]]:
    """A version of TensorRT's bindings, and the environment in which they import."""
    version: str = request.param
    place = Path(sys.prefix) / f"tensorrt-{version}"
    if not place.is_dir():
        pytest.skip(f"no bindings of TensorRT {version} in {place}: `make` installs them there")
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to make the stub libraries with")
    for source in STUBS.glob("*.c"):
        library = f"lib{source.stem}.so.{version.partition('.')[0]}"
        link = ["-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", str(tmp_path / library)]
        subprocess.run([compiler, *link, str(source)], check=True)
    return version, {"LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": str(place)}


def test_everything_described_exists_in_tensorrt(bindings: tuple[str, dict[str, str]]) -> None:
    version, environment = bindings
    assert look("tensorrt_bindings", described(rtx=False), environment) == {"version": version, "missing": []}


def test_what_tensorrt_lacks_is_found(bindings: tuple[str, dict[str, str]]) -> None:
    planted: Table = {
        "": {"Surprise": None},
        "Builder": {"create_surprise": []},
        "DataType": {"HALF": None, "QUARTER": None},
        "IExecutionContext": {"set_input_shape": ["name", "surprise"]},
    }
    assert look("tensorrt_bindings", planted, bindings[1])["missing"] == [
        "tensorrt_bindings has no Surprise",
        "Builder has no create_surprise",
        "DataType has no QUARTER",
        "IExecutionContext.set_input_shape does not take name, surprise",
    ]


def test_everything_described_exists_in_tensorrt_rtx() -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    assert look("tensorrt_rtx", described(rtx=True))["missing"] == []


def test_the_table_is_read_from_the_description() -> None:
    table = described(rtx=False)
    assert {"Builder", "ILogger", "DataType"} <= table[""].keys()
    assert "ComputeCapability" not in table[""]
    assert table["DataType"] == {"FLOAT": None, "HALF": None}
    assert table["Builder"]["create_network"] == ["flags"]
    assert "num_compute_capabilities" in described(rtx=True)["IBuilderConfig"]


def test_code_uses_nothing_of_the_module_that_is_not_described() -> None:
    """mypy says the same as long as nobody calls the module `Any`."""
    names = described(rtx=True)[""].keys()
    used = {
        f"{path.name}: {node.value.id}.{node.attr}"
        for path in Path(breastseg_deploy.__path__[0]).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("trt", "rtx")
    }
    assert len(used) > 10
    assert {use for use in used if use.rpartition(".")[2] not in {*names, "__version__"}} == set()
