"""The shape of the house: what imports what, what a wheel holds, what the packages show."""

from __future__ import annotations

import ast
import hashlib
import pkgutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import breastseg_deploy

ROOT = Path(__file__).resolve().parents[1]
TOP_LEVEL = {
    "pyproject.toml", "constraints.txt", "Makefile", "README.md", "CHANGELOG.md", "CONTRIBUTING.md",
    "LICENSE", "NOTICE",
    "breastseg_deploy", "train", "export", "benchmarks", "tests", "docs",
}  # fmt: skip

APACHE_2_SHA256 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
"""Of the text as apache.org publishes it."""

# Refuses every import of a distribution that is not among the runtime's base dependencies.
BARE_ENVIRONMENT = """
import importlib, importlib.metadata, pkgutil, sys
allowed = {"numpy", "pydantic", "pydantic_core", "annotated_types", "typing_extensions", "typing_inspection",
           "tqdm", "filelock", "breastseg_deploy"}
homes = importlib.metadata.packages_distributions()
class Refuse:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in homes and top not in allowed:
            raise ModuleNotFoundError(f"{name} is not a base dependency", name=name)
sys.meta_path.insert(0, Refuse())
import breastseg_deploy
for module in pkgutil.walk_packages(breastseg_deploy.__path__, "breastseg_deploy."):
    importlib.import_module(module.name)
    print(module.name)
"""


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_runtime_module_imports_with_the_base_dependencies_alone() -> None:
    imported = run_python(BARE_ENVIRONMENT).split()
    on_disk = {m.name for m in pkgutil.walk_packages(breastseg_deploy.__path__, "breastseg_deploy.")}
    assert set(imported) == on_disk
    assert "breastseg_deploy.segmenter" in on_disk


def test_base_dependencies_are_few_and_light() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {name.partition(">")[0] for name in project["dependencies"]} == {"numpy", "pydantic", "tqdm", "filelock"}


def test_all_is_exactly_what_the_package_shows() -> None:
    tree = ast.parse((ROOT / "breastseg_deploy" / "__init__.py").read_text())
    reexported = {
        alias.asname
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name
    }
    assert reexported == set(breastseg_deploy.__all__)
    for name in breastseg_deploy.__all__:
        assert getattr(breastseg_deploy, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Segmentor'"):
        breastseg_deploy.Segmentor  # noqa: B018


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel, built now."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def test_a_wheel_states_its_licence_and_holds_the_text(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        info = next(name.partition("/")[0] for name in archive.namelist() if ".dist-info/" in name)
        metadata = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
        held = {name: archive.read(f"{info}/licenses/{name}") for name in ("LICENSE", "NOTICE")}
    assert metadata["License-Expression"] == "Apache-2.0"
    assert sorted(metadata.get_all("License-File", [])) == ["LICENSE", "NOTICE"]
    assert hashlib.sha256(held["LICENSE"]).hexdigest() == APACHE_2_SHA256
    assert held["NOTICE"] == (ROOT / "NOTICE").read_bytes()


def test_the_notice_names_the_terms_of_the_demo_checkpoints_data() -> None:
    card = (ROOT / "train" / "breastseg_train" / "demo.md").read_text()
    notice = (ROOT / "NOTICE").read_text()
    for licence in ("BSD-3-Clause", "CC0", "CC-BY-4.0", "author's permission"):
        assert licence in card
        assert licence in notice


def test_a_wheel_holds_every_package_file(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = set()
    for parent, package in (
        (ROOT, "breastseg_deploy"),
        (ROOT / "train", "breastseg_train"),
        (ROOT / "export", "breastseg_export"),
        (ROOT / "benchmarks", "breastseg_benchmark"),
    ):
        files = (path for path in (parent / package).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        expected |= {path.relative_to(parent).as_posix() for path in files}
    assert held == expected
    assert {
        "breastseg_deploy/py.typed",
        "breastseg_train/demo.safetensors",
        "breastseg_train/demo.md",
        "breastseg_export/report.html.j2",
    } <= held


def test_the_top_level_is_fixed() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    tops = {line.split("/")[0] for line in listed.stdout.splitlines()}
    assert {top for top in tops if not top.startswith(".")} <= TOP_LEVEL


def test_the_pins_name_no_address() -> None:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert (
            line.startswith("#") or line.replace("==", "").replace(".", "").replace("-", "").replace("_", "").isalnum()
        )


def test_one_module_shows_progress_and_all_others_use_it() -> None:
    packages = ("breastseg_deploy", "train", "export", "benchmarks")
    files = [path for package in packages for path in (ROOT / package).rglob("*.py")]
    assert [path.name for path in files if "import tqdm" in path.read_text()] == ["progress.py"]


def test_onnx_runtime_falls_back_to_nothing_anywhere() -> None:
    calls = [
        {word.arg: ast.unparse(word.value) for word in node.keywords}
        for package in ("breastseg_deploy", "train", "export", "benchmarks")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("InferenceSession")
    ]
    assert len(calls) >= 4
    assert {call.get("enable_fallback") for call in calls} == {"0"}


PACKAGES = ("breastseg_deploy", "breastseg_train", "breastseg_export", "breastseg_benchmark")


def patches_of_ours(source: str) -> list[str]:
    """The first arguments of a test file's `setattr` and `delattr` calls that name something of this project."""
    tree = ast.parse(source)
    ours = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGES):
            ours |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names = [alias for alias in node.names if alias.name.startswith(PACKAGES)]
            ours |= {alias.asname or alias.name.partition(".")[0] for alias in names}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args]
    patched = [ast.unparse(call.args[0]) for call in calls if ast.unparse(call.func).endswith(("setattr", "delattr"))]
    return [what for what in patched if what.partition(".")[0] in ours or what.strip("'").startswith(PACKAGES)]


@pytest.mark.parametrize(
    "patch",
    [
        "from breastseg_deploy.engines import log\nmonkeypatch.setattr(log, 'SAY_EVERY_S', 0)",
        "from breastseg_deploy.gpu.ops import Kernels as K\npatch.setattr(K.network_input, '__doc__', '')",
        "import breastseg_train.run.training\nmonkeypatch.delattr(breastseg_train.run.training, 'train')",
        "def test(monkeypatch):\n    monkeypatch.setattr('breastseg_deploy.engines.log.SAY_EVERY_S', 0)",
    ],
)
def test_a_patch_of_ours_is_found(patch: str) -> None:
    assert len(patches_of_ours(patch)) == 1


def test_no_test_patches_what_is_ours() -> None:
    """What a test must control is an argument; vendors' modules may be replaced."""
    files = sorted((ROOT / "tests").rglob("*.py"))
    found = {path.relative_to(ROOT).as_posix(): patches_of_ours(path.read_text()) for path in files}
    assert {name: patched for name, patched in found.items() if patched} == {}


def test_no_two_test_modules_share_a_name() -> None:
    """They are imported by their name alone: of two, only the first would run, and only where all are collected."""
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py"]
    assert sorted(names) == sorted(set(names))
