from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from breastseg_benchmark.frames import benchmark_frames, decoding
from breastseg_benchmark.growth import GrowthPlan
from breastseg_benchmark.implementations import Implementation, backend_implementations
from breastseg_benchmark.measure import Plan, measure, runtime_choice
from breastseg_benchmark.results import Results
from breastseg_deploy.backends.registry import BACKENDS
from breastseg_deploy.bundle import Bundle
from breastseg_deploy.cli.main import main
from breastseg_deploy.errors import ArgumentError, BackendError
from breastseg_deploy.machine import Machine
from breastseg_deploy.nvidia import NoGpu


@pytest.fixture(scope="module")
def measured(demo_bundle: Path) -> Results:
    """One short measurement of the demo bundle on the CPU that every test here looks at."""
    few = GrowthPlan(batches=(1, 2), rounds=1, frames=8, sizes=(demo_bundle,))
    return measure(Plan(demo_bundle, "a test", most_frames=2, rounds=2, backends=("onnxruntime",), growth=few))


def test_the_runtime_is_measured_from_frame_to_mask(measured: Results) -> None:
    (row,) = measured.rows
    assert (row.name, row.not_run, measured.runtime) == ("onnxruntime", None, "onnxruntime")
    assert row.latency is not None
    assert len(row.latency.seconds) == 2
    assert {"contract", "total"} < row.stages_s.keys()  # and the backend's own
    assert row.open_s is not None
    assert row.first_frame_s is not None


def test_masks_are_held_to_the_goldens_and_to_the_truth(measured: Results, demo_bundle: Path) -> None:
    (row,) = measured.rows
    assert row.agreement is not None
    assert row.agreement.frames == len(Bundle.open(demo_bundle).manifest.goldens)
    assert row.agreement.worst_dice >= 0.9999
    assert row.truth is not None
    assert (row.truth.frames, row.truth.frames_with_cells) == (2, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_the_runtimes_own_without_pytorch(measured: Results) -> None:
    (row,) = measured.rows
    assert row.memory is not None
    assert row.memory.resident_peak_bytes is not None
    assert row.memory.resident_peak_bytes < 400_000_000  # importing torch alone takes that


def test_growth_is_measured_over_batches_sizes_and_frames(measured: Results) -> None:
    growth = measured.growth
    assert growth is not None
    assert [one.batch for one in growth.batches] == [1, 2]
    assert [one.size_px for one in growth.sizes] == [(128, 128)]
    if sys.platform == "linux":
        assert growth.memory is not None
        assert (growth.memory.frames, len(growth.memory.resident_bytes)) == (8, 9)


def test_peers_are_measured_in_turn_with_the_runtime_or_say_why_not(demo_bundle: Path) -> None:
    runtime = backend_implementations(Bundle.open(demo_bundle), ["onnxruntime"])[0]
    peers = (
        replace(runtime, name="a twin", kind="peer"),
        Implementation("a broken one", "peer", ("-c", "raise SystemExit('no weights')")),
        Implementation("one for a GPU", "peer", (), on_gpu=True, not_run="no GPU"),
    )
    nothing = GrowthPlan(batches=(), frames=0)
    said: list[str] = []
    found = measure(
        Plan(demo_bundle, "a test", most_frames=1, rounds=2, backends=("onnxruntime",), peers=peers, growth=nothing),
        said.append,
    )
    assert [step for step in said if "onnxruntime" in step or "twin" in step] == [
        "onnxruntime alone",
        "2 rounds of onnxruntime",
        "a twin alone",
        "2 rounds of a twin, onnxruntime",
    ]
    _, twin, broken, for_gpu = found.rows
    assert twin.ratio_to_runtime is not None
    assert twin.ratio_to_runtime.pairs == 2
    assert twin.agreement is not None
    assert twin.agreement.worst_dice >= 0.9999
    assert broken.not_run is not None
    assert "no weights" in broken.not_run
    assert for_gpu.not_run == "no GPU"


NOTING = """
import sys
from pathlib import Path
import numpy as np
from breastseg_benchmark.serving import Segmented, serve

class Noting:
    facts = {}
    def __call__(self, rgb):
        with open(sys.argv[1], "a") as file:
            print(len(rgb), file=file)
        return Segmented((rgb[..., 0] > 127).astype(np.uint8), {})

sys.exit(serve(Noting, Path(sys.argv[2])))
"""
"""Notes how many frames each call has."""


@pytest.mark.parametrize(("on_gpu", "sizes"), [(True, {"1", "2", "5"}), (False, {"1"})])
def test_a_gpu_backend_runs_every_batch_size_before_its_memory_is_read(
    demo_bundle: Path, tmp_path: Path, on_gpu: bool, sizes: set[str]
) -> None:
    """The budget of memory is for all of them; growth, which runs them as well, is measured of another backend."""
    noted = tmp_path / "noted"
    one = Implementation("noting", "backend", ("-c", NOTING, str(noted)), on_gpu=on_gpu)
    few = GrowthPlan(batches=(1, 2, 5), rounds=1, frames=0)
    plan = Plan(demo_bundle, "a test", most_frames=1, rounds=1, backends=("onnxruntime",), growth=few)
    measure(replace(plan, peers=(one,)))
    assert set(noted.read_text().split()) == sizes


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_masks_of_the_reference_and_of_each_implementation_are_counted_by_frames(demo_bundle: Path) -> None:
    runtime = backend_implementations(Bundle.open(demo_bundle), ["onnxruntime"])[0]
    reference = replace(runtime, name="slow reference")
    nothing = GrowthPlan(batches=(), frames=0)
    plan = Plan(demo_bundle, "a test", most_frames=1, rounds=1, backends=("onnxruntime",), growth=nothing)
    with redirect_stderr(Terminal()) as terminal:
        measure(replace(plan, reference=reference))
    count = len(Bundle.open(demo_bundle).manifest.goldens) + 1
    for step in ("masks of the slow reference", "onnxruntime alone"):
        assert re.search(rf"{step}: 100%\|[^|]*\| {count}/{count} ", terminal.getvalue()), step


def test_backends_that_cannot_run_say_why(demo_bundle: Path) -> None:
    machine = Machine(gpu=NoGpu("no NVIDIA driver", expected=False))
    by_name = {one.name: one for one in backend_implementations(Bundle.open(demo_bundle), machine=machine)}
    assert list(by_name) == list(BACKENDS)
    gpu = [one for one in by_name.values() if one.on_gpu]
    assert gpu
    assert {one.not_run for one in gpu} == {"no GPU (no NVIDIA driver)"}
    assert by_name["onnxruntime"].not_run is None


def backend(name: str, **fields: Any) -> Implementation:
    return Implementation(name, "backend", (), **fields)


def test_what_is_served_by_name_only_is_never_the_runtimes_choice() -> None:
    reduced, whole = backend("reduced", by_name_only=True), backend("whole")
    assert runtime_choice([reduced], lambda: "reduced") is None
    assert runtime_choice([reduced, whole], lambda: "reduced") == whole


def test_among_several_backends_the_runtimes_choice_is_what_it_opens_by_itself() -> None:
    slow, fast, broken = backend("slow"), backend("fast"), backend("broken", not_run="no GPU")
    assert runtime_choice([broken, slow, fast], lambda: "fast") == fast
    assert runtime_choice([slow, fast], lambda: None) is None


def test_a_backend_that_nobody_knows_is_refused(demo_bundle: Path) -> None:
    with pytest.raises(BackendError, match="no backend 'tensorflow'; choose from tensorrt"):
        measure(Plan(demo_bundle, "a test", backends=("tensorflow",)))


def test_too_few_frames_for_growth_are_refused_before_anything_is_measured() -> None:
    with pytest.raises(ArgumentError, match="at least 8 frames, got 3"):
        GrowthPlan(frames=3)
    assert GrowthPlan(batches=(), frames=0).is_empty


def test_frames_are_goldens_then_phantoms_with_their_truth(demo_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(demo_bundle)
    goldens = bundle.goldens()
    frames = benchmark_frames(bundle, None, tmp_path, most=2)
    assert frames.rgb.shape == (len(goldens) + 2, *bundle.manifest.frame.size_px, 3)
    np.testing.assert_array_equal(frames.rgb[0], goldens[0].frame)
    assert [known is not None for known in frames.references] == [True] * len(goldens) + [False] * 2
    assert frames.truths[-2] is not None
    assert frames.truths[-2].any()
    found = decoding(frames, 3)
    assert found is not None
    assert len(found.seconds) == 3


def test_the_command_writes_a_report_and_one_json_object(
    demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    budgets = tmp_path / "budgets.toml"
    budgets.write_text(
        '[[budget]]\nname = "masks"\nof = "cpu"\nfigure = "worst_dice"\nat_least = 0.9999\n'
        '[[budget]]\nname = "impossible"\nof = "cpu"\nfigure = "resident_peak_gb"\nat_most = 0.001\n'
    )
    report = tmp_path / "out.html"
    command = ["benchmark", str(demo_bundle), "--backend", "onnxruntime", "--rounds", "1"]
    command += ["--growth-frames", "0", "--largest-batch", "0"]
    code = main([*command, "--budgets", str(budgets), "--report", str(report), "--json"])
    told = capsys.readouterr()
    document = Results.model_validate(json.loads(told.out))
    assert code == 1
    assert "error: impossible (onnxruntime)" in told.err
    assert [one.status for one in document.verdicts] == ["passed", "missed"]
    assert document.growth is None
    assert report.read_text().startswith("<!doctype html>")


def test_a_report_without_a_folder_is_refused_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["benchmark", "no bundle", "--report", str(tmp_path / "none" / "out.html")])
    assert code == 1
    assert "out.html: no such file or directory; make its folder or choose another place" in capsys.readouterr().err


@pytest.mark.parametrize("library", ["psutil", "pynvml", "jinja2", "matplotlib"])
def test_an_installation_without_the_extra_is_told_what_to_install(
    library: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, library, None)  # as if it were not installed
    code = main(["benchmark", "no bundle"])
    assert code == 4
    assert f"{library} is needed here and not installed: pip install 'breastseg-deploy[benchmark]'" in (
        capsys.readouterr().err
    )


def test_every_module_of_the_benchmark_imports_without_its_extra() -> None:
    code = """
import importlib, pkgutil, sys
for library in ("psutil", "pynvml", "jinja2", "matplotlib", "pytest"):
    sys.modules[library] = None
import breastseg_benchmark
for module in pkgutil.iter_modules(breastseg_benchmark.__path__, "breastseg_benchmark."):
    importlib.import_module(module.name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
