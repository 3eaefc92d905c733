"""The wheel where little is installed: every command says in one line what it lacks, and the command that brings it."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from breastseg_deploy.extras import DISTRIBUTION
from breastseg_deploy.io.images import png_bytes
from breastseg_deploy.nvidia import NoGpu, look_for_gpu
from breastseg_deploy.phantom import phantom_frame

ROOT = Path(__file__).resolve().parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMMANDS = sorted(PROJECT["entry-points"]["breastseg.commands"])

ARGUMENTS: dict[str, tuple[str, ...]] = {
    "ablate": ("--data", "DATA", "--output", "OUT"),
    "benchmark": ("BUNDLE",),
    "cross-site": ("--data", "DATA", "--output", "OUT"),
    "import-data": ("bmgd", "DATA", "--output", "OUT"),
    "compare-runs": ("RUN", "--output", "OUT"),
    "dataset-stats": ("DATA",),
    "doctor": (),
    "evaluate": ("demo", "--data", "DATA"),
    "export": ("demo", "--output", "OUT"),
    "fit-gate": ("demo", "--data", "DATA", "--output", "OUT"),
    "gpu-check": ("BUNDLE", "--output", "OUT"),
    "inspect": ("BUNDLE",),
    "package": ("BUNDLE", "--for", "cpp", "--output", "OUT"),
    "phantoms": ("--output", "OUT"),
    "sign": ("BUNDLE", "--key", "KEY"),
    "segment": ("BUNDLE", "FRAMES", "--output", "OUT"),
    "train": ("--data", "DATA", "--output", "OUT"),
    "verify": ("BUNDLE",),
    "watch": ("BUNDLE", "FRAMES", "--output", "OUT", "--once"),
}
"""A call of each command; the words in capitals are places."""

EXTRA = {
    "train": ("ablate", "compare-runs", "cross-site", "dataset-stats", "evaluate", "fit-gate", "import-data", "train"),
    "export": ("export", "package"),
    "cpu": ("phantoms", "segment", "verify", "watch"),
    "benchmark": ("benchmark",),
    "signing": ("sign",),
}
"""The extra that a command names first where nothing is installed."""


RUN_EACH = """
import json, sys
from breastseg_deploy.cli.main import main
for call in json.loads(sys.argv[1]):
    print(call[0], main(call), flush=True)
"""
"""In one process: the libraries take seconds to load."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(place)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (built,) = place.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installation(tmp_path_factory.mktemp("bare"), wheel, brought_by() - {DISTRIBUTION})


def installation(place: Path, wheel: Path, distributions: Iterable[str]) -> Path:
    """The bin/ of a virtual environment with the wheel and these distributions of this one; nothing is downloaded."""
    venv.create(place, symlinks=True)
    (site,) = place.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    for name in distributions:
        installed = distribution(name)
        for top in {file.parts[0] for file in installed.files or () if file.parts[0] not in ("..", "__pycache__")}:
            if not (site / top).exists():  # several distributions may share a folder
                (site / top).symlink_to(Path(str(installed.locate_file(top))))
    for script, target in PROJECT["scripts"].items():
        module, _, function = target.partition(":")
        (place / "bin" / script).write_text(f"import sys\nfrom {module} import {function}\nsys.exit({function}())\n")
    return place / "bin"


@pytest.fixture
def places(demo_bundle: Path, tmp_path: Path) -> dict[str, str]:
    frames = tmp_path / "frames"
    frames.mkdir()
    (tmp_path / "key").write_bytes(b"nobody looks into it without the library")
    (frames / "a.png").write_bytes(png_bytes(phantom_frame(0, (128, 128)).frame))
    return {
        "BUNDLE": str(demo_bundle),
        "FRAMES": str(frames),
        "DATA": str(tmp_path / "data"),
        "RUN": str(tmp_path / "run"),
        "OUT": str(tmp_path / "out"),
        "KEY": str(tmp_path / "key"),
    }


def call(bare: Path, script: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([bare / "python", bare / script, *words], capture_output=True, text=True, check=False)


def words_of(command: str, places: dict[str, str]) -> list[str]:
    return [places.get(word, word) for word in ARGUMENTS[command]]


def test_every_command_is_tried_here() -> None:
    assert sorted(ARGUMENTS) == COMMANDS
    asked = [command for commands in EXTRA.values() for command in commands]
    assert sorted([*asked, "doctor", "gpu-check", "inspect"]) == COMMANDS


@pytest.mark.parametrize(("extra", "command"), [(extra, command) for extra, some in EXTRA.items() for command in some])
def test_a_command_without_its_libraries_ends_with_4_and_the_command_that_brings_them(
    bare: Path, places: dict[str, str], extra: str, command: str
) -> None:
    done = call(bare, "breastseg", command, *words_of(command, places))
    assert done.returncode == 4, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert f"is needed here and not installed: pip install '{DISTRIBUTION}[{extra}]'" in line
    assert not Path(places["OUT"]).exists()


def test_gpu_check_asks_for_a_gpu_before_it_asks_for_libraries(bare: Path, places: dict[str, str]) -> None:
    """Nobody should install gigabytes to learn that there is no GPU."""
    found = look_for_gpu()
    wanted = f"needs an NVIDIA GPU: {found.reason}" if isinstance(found, NoGpu) else "cupy is needed here"
    done = call(bare, "breastseg", "gpu-check", places["BUNDLE"], "--output", places["OUT"])
    assert done.returncode == 4, done.stderr
    (line,) = done.stderr.splitlines()
    assert wanted in line
    assert not Path(places["OUT"]).exists()


@pytest.mark.parametrize(
    ("head", "extra"), [(b"II*\0", "slides"), (b"ZISRAWFILE", "czi"), (128 * b"\0" + b"DICM", "slides")]
)
def test_a_slide_without_its_readers_library_ends_with_4_and_the_extra_that_brings_it(
    bare: Path, tmp_path: Path, head: bytes, extra: str
) -> None:
    (tmp_path / "slide").write_bytes(head)
    done = call(bare, "breastseg", "inspect", str(tmp_path / "slide"))
    assert done.returncode == 4, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.endswith(f"is needed here and not installed: pip install '{DISTRIBUTION}[{extra}]'")


def test_breastseg_export_without_its_libraries_ends_with_4_and_its_json_object(
    bare: Path, places: dict[str, str]
) -> None:
    done = call(bare, "breastseg-export", *words_of("export", places), "--json")
    assert done.returncode == 4
    found = json.loads(done.stdout)
    assert found["kind"] == "MachineError"
    assert found["error"].endswith(f"pip install '{DISTRIBUTION}[export]'")
    assert done.stderr == f"error: {found['error']}\n"


def test_doctor_without_any_engine_ends_with_4_and_names_every_backends_extra(bare: Path) -> None:
    done = call(bare, "breastseg", "doctor")
    assert done.returncode == 4
    for extra in ("cpu", "openvino"):
        assert f"to have it: pip install '{DISTRIBUTION}[{extra}]'" in done.stdout


def test_inspect_and_help_need_no_library(bare: Path, places: dict[str, str]) -> None:
    assert call(bare, "breastseg", "inspect", places["BUNDLE"]).returncode == 0
    for script in PROJECT["scripts"]:
        assert call(bare, script, "--help").returncode == 0


@pytest.mark.parametrize("extra", ["train", "export"])
def test_the_extra_that_a_command_names_is_enough_for_it(extra: str, wheel: Path, tmp_path: Path) -> None:
    """With it, the command goes on to what is not there: data, or the checkpoint."""
    scripts = installation(tmp_path / "environment", wheel, brought_by(extra) - {DISTRIBUTION})
    missing = {word: str(tmp_path / word) for word in ("DATA", "RUN", "OUT", *(["demo"] if extra == "export" else []))}
    calls = [[command, *words_of(command, missing)] for command in EXTRA[extra]]
    told = [scripts / "python", "-c", RUN_EACH, json.dumps(calls)]
    done = subprocess.run(told, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [f"{command} 1" for command in EXTRA[extra]], done.stderr
    assert "not installed" not in done.stderr


def brought_by(*extras: str) -> set[str]:
    """Distributions that the base installation and some extras bring, with all that these need in turn."""
    brought: set[str] = set()
    waiting = [(DISTRIBUTION, frozenset({"", *extras}))]
    while waiting:
        name, wanted = waiting.pop()
        brought.add(name)
        for text in requires(name) or ():
            needed = Requirement(text)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in wanted):
                other = canonicalize_name(needed.name)
                if other not in brought and _is_installed(other):
                    waiting.append((other, frozenset({"", *needed.extras})))
    return brought


def _is_installed(name: str) -> bool:
    try:
        return bool(distribution(name))
    except PackageNotFoundError:  # what it needs on another system, or with a GPU
        return False


def calls_of_require() -> list[tuple[str, ...]]:
    """(file, module, extra) of every `require` in the wheel that has both in words."""
    found: list[tuple[str, ...]] = []
    for folder in ("breastseg_deploy", "train", "export", "benchmarks/breastseg_benchmark"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "require":
                    words = [word.value for word in node.args if isinstance(word, ast.Constant)]
                    found += [(path.name, *words)] if len(words) == 2 else []
    return found


def test_an_extra_brings_the_library_that_it_is_named_for() -> None:
    homes = packages_distributions()
    asked = calls_of_require()
    assert {extra for *_, extra in asked} >= {"cpu", "gpu", "openvino", "int8"}
    for file, module, extra in asked:
        declared = {canonicalize_name(Requirement(text).name) for text in PROJECT["optional-dependencies"][extra]}
        owners = {canonicalize_name(owner) for owner in homes.get(module.partition(".")[0], [module])}
        owners |= {"onnxruntime-gpu"} if module == "onnxruntime" else set()
        owners |= {"cupy-cuda13x"} if module == "cupy" else set()
        assert owners & (declared | brought_by(extra)), f"{file}: {module} does not come with {extra}"


BROKEN: dict[str, Callable[[str], str]] = {
    "needs something that is missing": lambda name: "import a_missing_dependency",
    "misses a part of itself": lambda name: f"import {name}.core",
    "cannot load": lambda name: "raise ImportError('libcuda.so.1')",
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_library_that_is_installed_and_broken_keeps_its_own_error(tmp_path: Path, fault: str) -> None:
    (tmp_path / "matplotlib").mkdir()
    (tmp_path / "matplotlib" / "__init__.py").write_text(BROKEN[fault]("matplotlib"))
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from breastseg_deploy.cli.main import main; "
    code += "sys.exit(main(['compare-runs', 'a', '--output', 'b.png']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "pip install" not in done.stderr
