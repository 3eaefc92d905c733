"""The real thing: each GPU backend that is installed here, from `Segmenter.open` to masks. Needs a GPU, all of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from host_network import FRAMES, GREY, SIDE
from numpy.typing import NDArray

from breastseg_deploy import BackendError, MachineError, Segmenter
from breastseg_deploy.backends.registry import BACKENDS as RECORDS
from breastseg_deploy.bundle import FP16
from breastseg_deploy.io.images import find_frames, png_bytes
from breastseg_deploy.metrics import dice
from breastseg_deploy.verify import check_frames

pytestmark = pytest.mark.gpu

BACKENDS = [name for name, record in RECORDS.items() if record.on_gpu]


@pytest.fixture(scope="module", params=BACKENDS)
def segment(
    request: pytest.FixtureRequest, demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Segmenter]:
    """Opened by name; skipped where the backend's library is not installed. Engines are built once for a backend."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BREASTSEG_CACHE", str(tmp_path_factory.mktemp("cache") / "engines"))
        try:
            opened = Segmenter.open(demo_bundle, request.param)
        except MachineError as err:
            pytest.skip(str(err))
        with opened:
            yield opened


@pytest.fixture(scope="module")
def expected(demo_bundle: Path) -> NDArray[np.float32]:
    """Probabilities of FRAMES by the CPU backend."""
    with Segmenter.open(demo_bundle, "onnxruntime") as reference:
        return np.stack([result.probability for result in reference.batch(FRAMES)])  # type: ignore[misc]


def test_masks_are_those_of_the_cpu_backend(segment: Segmenter, expected: NDArray[np.float32]) -> None:
    """0.01 is ten times the float16 network's own error on these frames; the mask's limit is the export's."""
    threshold, limit = segment.manifest.threshold, segment.manifest.limits_of(FP16).worst_dice
    for frame, wanted in zip(FRAMES, expected, strict=True):
        answer = segment(frame)
        assert np.abs(answer.probability - wanted).max() < 0.01
        assert dice(answer.mask, wanted >= threshold) >= limit
        np.testing.assert_array_equal(answer.mask, answer.probability >= np.float32(threshold))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7, 8, 9, 20])
def test_every_frame_of_a_batch_gets_its_own_answer(
    segment: Segmenter, expected: NDArray[np.float32], count: int
) -> None:
    chosen = np.arange(count) % len(FRAMES)
    for result, wanted in zip(segment.batch(FRAMES[chosen]), expected[chosen], strict=True):
        np.testing.assert_allclose(result.probability, wanted, rtol=0, atol=0.01)


def test_repeated_calls_give_bitwise_the_same(segment: Segmenter) -> None:
    first = segment(FRAMES[0]).probability
    for _ in range(10):
        np.testing.assert_array_equal(segment(FRAMES[0]).probability, first)


def test_threads_get_the_serial_answers(segment: Segmenter) -> None:
    serial = [segment(frame).probability for frame in FRAMES]
    with ThreadPoolExecutor(4) as pool:
        shared = list(pool.map(segment, [*FRAMES] * 4))
    for found, wanted in zip(shared, serial * 4, strict=True):
        np.testing.assert_array_equal(found.probability, wanted)


def test_goldens_come_out_right_and_frames_agree_with_the_cpu(segment: Segmenter, tmp_path: Path) -> None:
    assert len(segment.self_test()) == len(segment.manifest.goldens)
    (tmp_path / "frame.png").write_bytes(png_bytes(GREY[0]))
    assert check_frames(segment, find_frames([tmp_path])).against == "model.onnx in ONNX Runtime on the CPU"


def test_timings_are_the_devices_own_and_lie_within_the_call(segment: Segmenter) -> None:
    segment(FRAMES[0])
    timings = dict(segment(FRAMES[0]).timings)
    total = timings.pop("total")
    assert timings["network"] > 0
    assert sum(timings.values()) <= total * 1.05  # device and host clocks differ a little


@pytest.mark.parametrize("frames", [FRAMES[:1], FRAMES[:3], GREY[:3]], ids=["one", "colour", "grey"])
def test_frames_on_the_gpu_give_what_they_give_from_the_host(segment: Segmenter, frames: NDArray[np.uint8]) -> None:
    import cupy

    on_device = cupy.asarray(frames)
    found = [*segment.batch(on_device), segment(on_device[0])]
    for wanted, result in zip([*segment.batch(frames), segment(frames[0])], found, strict=True):
        np.testing.assert_array_equal(result.probability, wanted.probability)
        np.testing.assert_array_equal(result.mask, wanted.mask)


class ByDlpack:
    """Another library's array: DLPack and a shape, nothing else."""

    def __init__(self, array: Any) -> None:
        self.shape, self._array = array.shape, array

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()


class WithoutStream:
    """As PyTorch's: an interface that does not say which stream the array is made on."""

    def __init__(self, array: Any) -> None:
        self.shape, self._array = array.shape, array

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {**self._array.__cuda_array_interface__, "stream": None}


@pytest.mark.parametrize("way", [lambda array: array, ByDlpack, WithoutStream], ids=["cupy", "dlpack", "no stream"])
@pytest.mark.parametrize("callers", ["null", "blocking", "non-blocking"])
def test_frames_that_are_still_being_made_are_waited_for(segment: Segmenter, way: Any, callers: str) -> None:
    import cupy

    wanted = segment(FRAMES[0]).mask
    null = cupy.cuda.Stream.null
    with null if callers == "null" else cupy.cuda.Stream(non_blocking=callers == "non-blocking"):
        busy = cupy.ones((4096, 4096), np.float32)
        for _ in range(50):
            busy = busy @ busy * 0
        late = cupy.asarray(FRAMES[0]) + busy[:1, :1].astype(np.uint8)
        np.testing.assert_array_equal(segment(way(late)).mask, wanted)


def test_a_full_gpu_is_an_error_and_the_next_call_works(demo_bundle: Path, segment: Segmenter) -> None:
    import cupy

    with Segmenter.open(demo_bundle, segment.backend) as another:
        wanted = another(FRAMES[0]).mask
        pool = cupy.get_default_memory_pool()
        pool.free_all_blocks()
        pool.set_limit(size=pool.total_bytes() + (1 << 10))
        try:
            with pytest.raises(BackendError, match="not enough memory for 6 frames"):
                another(FRAMES[:6])
        finally:
            pool.set_limit(size=0)
        np.testing.assert_array_equal(another(FRAMES[0]).mask, wanted)
        assert another(FRAMES[:6]).mask.shape == (6, SIDE, SIDE)


ILLEGAL_ADDRESS = """
import sys
import cupy, numpy as np
from breastseg_deploy import BackendError, Segmenter
segment = Segmenter.open(sys.argv[1], sys.argv[2])
frame = np.zeros(segment.manifest.frame.size_px, np.uint8)
segment(frame)
code = 'extern "C" __global__ void wild(int *p) { p[(1ll << 40) + threadIdx.x] = 1; }'
cupy.RawModule(code=code).get_function("wild")((1,), (32,), (cupy.zeros(1, np.int32),))
for _ in range(3):
    try:
        segment(frame)
    except BackendError as err:
        print(err)
sys.stdout.flush()
import os; os._exit(0)  # the destroyed context cannot be taken down in order
"""


def test_an_illegal_address_closes_the_segmenter_and_every_call_says_so(demo_bundle: Path, segment: Segmenter) -> None:
    """In a process of its own, since it destroys the process's CUDA context."""
    command = [sys.executable, "-c", ILLEGAL_ADDRESS, str(demo_bundle), segment.backend]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    said = done.stdout.splitlines()
    assert len(said) == 3, done.stderr
    assert len(set(said)) == 1
    assert "the GPU failed for good" in said[0]


def test_auto_takes_a_gpu_backend_here(demo_bundle: Path, segment: Segmenter) -> None:
    with Segmenter.open(demo_bundle, strict=True) as chosen:
        assert RECORDS[chosen.backend].on_gpu
