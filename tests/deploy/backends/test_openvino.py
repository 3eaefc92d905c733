"""OpenVINO on the CPU: the masks of the model that was verified, proved before it serves, and no calls home."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from surgery import alter_golden, artefact, edit_manifest, put_constant_model, put_sealed

from breastseg_deploy import BackendError, Machine, MachineError, ParityError, Segmenter
from breastseg_deploy.backends.onnxruntime import OnnxRuntimeCpu
from breastseg_deploy.backends.openvino import OpenVinoCpu, check_openvino, open_openvino
from breastseg_deploy.backends.openvino_library import SETTINGS, compiled_request, load_openvino, run_request
from breastseg_deploy.backends.select import choose
from breastseg_deploy.bundle import MODEL, PORTABLE, Bundle
from breastseg_deploy.cli.main import main
from breastseg_deploy.machine import Processor
from breastseg_deploy.metrics import dice
from breastseg_deploy.phantom import phantom_frames
from breastseg_deploy.version import __version__

SIDE = 128


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An engine cache of the test's own."""
    monkeypatch.setenv("BREASTSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def machine(cache: Path) -> Machine:
    return Machine(cache=cache)


@pytest.fixture(scope="module")
def openvino(bundle: Bundle) -> Iterator[OpenVinoCpu]:
    opened = OpenVinoCpu(bundle)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def frames() -> NDArray[np.uint8]:
    """Five frames that differ: phantoms, noise, black."""
    noise = np.random.default_rng(3).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    phantoms = [np.stack([phantom.frame] * 3, axis=2) for phantom in phantom_frames(3, (SIDE, SIDE))]
    return np.stack([*phantoms, noise, np.zeros_like(noise)])


@pytest.fixture
def self_tests(caplog: pytest.LogCaptureFixture) -> Callable[[], int]:
    """How often the goldens have run until now."""
    caplog.set_level(logging.INFO, "breastseg_deploy")
    return lambda: caplog.text.count("goldens passed on this machine")


def test_masks_are_those_of_onnxruntime_within_the_float32_limits(
    openvino: OpenVinoCpu, bundle: Bundle, frames: NDArray[np.uint8]
) -> None:
    ours = openvino.infer(frames).checked(frames.shape[:3], "openvino")
    theirs = OnnxRuntimeCpu(bundle).infer(frames).probability
    threshold, limits = bundle.manifest.threshold, bundle.manifest.limits_of(PORTABLE)
    figures = [dice(a >= threshold, b >= threshold) for a, b in zip(ours, theirs, strict=True)]
    assert theirs.max() > threshold  # there is something to agree on
    assert min(figures) >= limits.worst_dice
    assert np.abs(ours - theirs).max() < 1e-3


@pytest.mark.parametrize("count", [1, 2, 5, 9])
def test_a_frame_has_the_same_answer_to_the_bit_in_every_batch(
    openvino: OpenVinoCpu, frames: NDArray[np.uint8], count: int
) -> None:
    batch = np.resize(frames, (count, *frames.shape[1:]))
    alone = [openvino.infer(batch[number : number + 1]).probability[0] for number in range(count)]
    np.testing.assert_array_equal(openvino.infer(batch).probability, np.stack(alone))


def test_threads_get_the_answers_of_their_own_frames(openvino: OpenVinoCpu, frames: NDArray[np.uint8]) -> None:
    expected = [openvino.infer(frame[np.newaxis]).probability for frame in frames]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda number: openvino.infer(frames[number % 5][np.newaxis]).probability, range(40)))
    for number, probability in enumerate(found):
        np.testing.assert_array_equal(probability, expected[number % 5])


def test_an_answer_is_not_overwritten_by_the_next_call(openvino: OpenVinoCpu, frames: NDArray[np.uint8]) -> None:
    first = openvino.infer(frames[:1]).probability
    before = first.copy()
    openvino.infer(frames[1:2])
    np.testing.assert_array_equal(first, before)


def test_stages_are_timed(openvino: OpenVinoCpu, frames: NDArray[np.uint8]) -> None:
    seconds = openvino.infer(frames).seconds
    assert list(seconds) == ["preprocess", "network"]
    assert min(seconds.values()) > 0


def test_a_failed_call_is_a_backend_error_and_the_next_one_serves(
    openvino: OpenVinoCpu, frames: NDArray[np.uint8]
) -> None:
    with pytest.raises(BackendError, match=r"^OpenVINO failed: .*; no mask is returned: run `breastseg verify`") as bad:
        openvino.infer(np.zeros((1, SIDE // 2, SIDE, 3), np.uint8))
    assert "\n" not in str(bad.value)
    assert openvino.infer(frames).probability.shape == frames.shape[:3]


def test_the_network_computes_in_float32_or_not_at_all(bundle: Bundle) -> None:
    if "BF16" not in load_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor knows no bfloat16")
    with pytest.raises(BackendError, match=r"must compute in float32, it took|OpenVINO cannot load"):
        OpenVinoCpu(bundle, settings={"INFERENCE_PRECISION_HINT": "bf16"})


def test_opening_leaves_the_callers_rounding_as_it_was(openvino: OpenVinoCpu, frames: NDArray[np.uint8]) -> None:
    openvino.infer(frames[:1])
    assert (np.array([1e-40], np.float32) * np.float32(0.5))[0] > 0  # subnormal numbers are kept


def test_segmenter_serves_by_it_and_closes(bundle: Bundle, frames: NDArray[np.uint8]) -> None:
    with Segmenter.open(bundle.path, "openvino") as segment:
        results = segment.batch(frames)
        assert (results[0].backend, segment.artefact) == ("openvino", PORTABLE)
        assert segment.backend_reason == "openvino: asked for by name"
        assert [result.mask.shape for result in results] == [(SIDE, SIDE)] * len(frames)
        assert len(segment.self_test()) == len(bundle.manifest.goldens)
    segment.close()
    with pytest.raises(BackendError, match="closed"):
        segment.batch(frames)


def test_goldens_run_at_the_first_opening_and_not_again(
    bundle: Bundle, machine: Machine, self_tests: Callable[[], int]
) -> None:
    open_openvino(bundle, machine).close()
    open_openvino(bundle, machine).close()
    assert self_tests() == 1


def test_goldens_run_again_on_another_processor(
    bundle: Bundle, machine: Machine, cache: Path, self_tests: Callable[[], int]
) -> None:
    open_openvino(bundle, machine).close()
    open_openvino(bundle, Machine(processor=Processor("another", 2), cache=cache)).close()
    assert self_tests() == 2


def test_goldens_run_again_for_other_limits(
    bundle: Bundle, bundle_copy: Path, machine: Machine, self_tests: Callable[[], int]
) -> None:
    open_openvino(bundle, machine).close()
    edit_manifest(bundle_copy, lambda raw: artefact(raw, PORTABLE)["limits"].update(worst_dice=0.9998))
    open_openvino(Bundle.open(bundle_copy), machine).close()
    assert self_tests() == 2


def test_a_verdict_depends_on_engine_settings_and_versions(bundle: Bundle, machine: Machine, cache: Path) -> None:
    open_openvino(bundle, machine).close()
    (verdict,) = cache.iterdir()
    depends_on = json.loads(verdict.read_text())["depends_on"]
    assert depends_on["engine"] == f"{check_openvino(machine).removesuffix(' on the CPU')} {SETTINGS}"
    assert (depends_on["numpy"], depends_on["toolkit"]) == (np.__version__, __version__)
    assert depends_on["artefact"] == bundle.manifest.files[MODEL].sha256


def test_goldens_are_held_to_the_limit_of_the_float32_model(bundle_copy: Path) -> None:
    name = alter_golden(bundle_copy, **_inverted(Bundle.open(bundle_copy)))
    for _ in range(2):  # what failed is not remembered as passed
        with pytest.raises(ParityError, match=f"{name} has Dice .* by OpenVINO .* the limit is 0.9999"):
            open_openvino(Bundle.open(bundle_copy), Machine())


def test_auto_passes_over_it_with_words_where_a_golden_misses(bundle_copy: Path) -> None:
    alter_golden(bundle_copy, **_inverted(Bundle.open(bundle_copy)))
    found = choose(Bundle.open(bundle_copy))
    assert (found.name, found.fell_back) == ("onnxruntime", True)
    assert "openvino (failed: golden goldens/golden-1.npz has Dice" in found.reason
    with pytest.raises(ParityError, match="openvino failed, and with strict=True"):
        choose(Bundle.open(bundle_copy), strict=True)


def _inverted(bundle: Bundle) -> dict[str, NDArray[Any]]:
    golden = bundle.goldens()[0]
    probability = np.float32(1) - golden.probability
    return {"probability": probability, "mask": (probability >= bundle.manifest.threshold).astype(np.uint8)}


def test_without_a_cache_folder_it_opens_and_says_that_goldens_run_each_time(
    bundle: Bundle, machine: Machine, cache: Path, self_tests: Callable[[], int], caplog: pytest.LogCaptureFixture
) -> None:
    cache.write_text("a file in the folder's place")
    for _ in range(2):
        open_openvino(bundle, machine).close()
    assert self_tests() == 2
    assert caplog.text.count("its verdicts cannot be read, so the goldens run again: cannot make") == 2
    assert caplog.text.count("the goldens passed, and that cannot be kept: cannot make") == 2


def test_a_verdict_that_others_could_have_written_is_not_trusted(
    bundle: Bundle, machine: Machine, cache: Path, self_tests: Callable[[], int], caplog: pytest.LogCaptureFixture
) -> None:
    open_openvino(bundle, machine).close()
    cache.chmod(0o777)
    open_openvino(bundle, machine).close()
    assert self_tests() == 2
    assert "others may write to" in caplog.text


def test_a_model_without_the_tensors_name_is_refused(bundle_copy: Path) -> None:
    model = onnx.load(bundle_copy / MODEL)
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = ["renamed" if name == "tensor" else name for name in names]
    put_sealed(bundle_copy, MODEL, model.SerializeToString())
    with pytest.raises(BackendError, match=r"must name its network's input 'tensor', and holds no such tensor; use o"):
        OpenVinoCpu(Bundle.open(bundle_copy))


def test_a_model_that_is_no_onnx_is_refused_in_one_line(bundle_copy: Path) -> None:
    put_sealed(bundle_copy, MODEL, b"no model")
    with pytest.raises(
        BackendError, match=r"^OpenVINO cannot load the portable artefact of .*; try another version"
    ) as failure:
        OpenVinoCpu(Bundle.open(bundle_copy))
    assert "\n" not in str(failure.value)


def test_a_model_that_does_not_take_the_cut_is_refused(bundle_copy: Path) -> None:
    put_constant_model(bundle_copy, ["N", 1, SIDE, SIDE], 0.5)
    with pytest.raises(BackendError, match="holds no such tensor"):
        OpenVinoCpu(Bundle.open(bundle_copy))


def test_without_openvino_the_install_command_is_named(monkeypatch: pytest.MonkeyPatch, bundle: Bundle) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    for act in (check_openvino, partial(open_openvino, bundle)):
        with pytest.raises(MachineError, match=r"openvino is needed .* pip install 'breastseg-deploy\[openvino\]'"):
            act(Machine())


def test_a_broken_openvino_is_a_backend_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "openvino"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "openvino.py").write_text("raise ImportError('libopenvino.so:\\n cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BackendError, match=r"OpenVINO cannot be loaded: libopenvino.so: cannot open .*; install it ag"):
        check_openvino(Machine())


def test_openvino_opens_no_connection_and_leaves_nothing_in_the_home_folder(demo_bundle: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    program = (
        "import sys\n"
        "seen = []\n"
        "kinds = ('socket.', 'subprocess.', 'os.fork', 'os.exec', 'os.posix_spawn')\n"
        "sys.addaudithook(lambda event, _: seen.append(event) if event.startswith(kinds) else None)\n"
        "from breastseg_deploy.backends.openvino import OpenVinoCpu\n"
        "from breastseg_deploy.bundle import Bundle\n"
        f"OpenVinoCpu(Bundle.open({str(demo_bundle)!r})).close()\n"
        "print(seen, [name for name in sys.modules if name.startswith('openvino_telemetry')])\n"
    )
    quiet = ("CI", "TF_BUILD", "JENKINS_URL")  # where one of these is set, OpenVINO is silent by itself
    environment = {name: value for name, value in os.environ.items() if name not in quiet}
    done = subprocess.run(
        [sys.executable, "-c", program], env={**environment, "HOME": str(home)}, capture_output=True, text=True
    )
    assert done.stdout == "[] []\n", done.stderr
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("before", [None, "a module"])
def test_hiding_the_telemetry_lasts_no_longer_than_the_import(
    monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    monkeypatch.delitem(sys.modules, "openvino_telemetry", raising=False)
    if before is not None:
        monkeypatch.setitem(sys.modules, "openvino_telemetry", sys)
    load_openvino()
    assert sys.modules.get("openvino_telemetry") is (None if before is None else sys)
    assert ("openvino_telemetry" in sys.modules) == (before is not None)


def test_verify_runs_by_it(demo_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(demo_bundle), "--backend", "openvino"]) == 0
    told = capsys.readouterr()
    assert "is verified on this machine" in told.out
    assert "backend openvino: asked for by name" in told.err


def test_goldens_passed_are_told(bundle: Bundle, machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "breastseg_deploy"):
        open_openvino(bundle, machine).close()
    assert f"{len(bundle.manifest.goldens)} goldens passed on this machine, worst Dice" in caplog.text


def test_the_network_is_computed_by_openvinos_thread_and_not_by_the_callers() -> None:
    """OpenVINO keeps memory for each thread that computes, which grows with eight callers; see `run_request`."""
    ov = load_openvino()
    parameter = ov.opset13.parameter([1, 4, 256, 256], np.float32)
    kernel = ov.opset13.constant(np.full((32, 4, 5, 5), 0.01, np.float32))
    convolution = ov.opset13.convolution(parameter, kernel, [1, 1], [2, 2], [2, 2], [1, 1])
    request = compiled_request(ov, ov.Core(), ov.Model([convolution], [parameter], "network"))
    tensor = np.ones((1, 4, 256, 256), np.float32)
    run_request(request, {0: tensor})
    ours, everybodys = time.thread_time(), time.process_time()
    for _ in range(20):
        answer = run_request(request, {0: tensor})
    ours, everybodys = time.thread_time() - ours, time.process_time() - everybodys
    assert answer[0, 0, 128, 128] == pytest.approx(1, abs=1e-4)
    assert ours < 0.2 * everybodys
