"""The GPU path from frame to mask: on the CPU over a stand-in for the device, and, marked `gpu`, on a GPU.

Without a GPU, `cupy_on_cpu` is the device, the kernels run as compiled for the CPU or (where a test is not about them)
as the CPU reference, and the network runs in ONNX Runtime at the very addresses that the pipeline binds.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from host_network import (
    FRAMES,
    SIDE,
    Float16Network,
    HostNetwork,
    all_passed,
    light_probability,
    opposite,
    segmenter,
)

from breastseg_deploy import ParityError
from breastseg_deploy.backends.onnxruntime import OnnxRuntimeCpu
from breastseg_deploy.bundle import FP16, Bundle
from breastseg_deploy.gpu.pipeline import MAX_BATCH, GpuPipeline, run_sizes
from breastseg_deploy.metrics import dice


def test_frames_through_kernels_and_float16_network_give_the_masks_of_the_cpu_backend(
    cupy_on_cpu: ModuleType, bundle: Bundle, float16: Float16Network
) -> None:
    reference = OnnxRuntimeCpu(bundle).infer(FRAMES[:2]).probability
    answer = GpuPipeline(bundle, lambda stream: float16, all_passed).infer(FRAMES[:2])
    assert answer.mask is not None
    for mask, probability, wanted in zip(answer.mask, answer.probability, reference, strict=True):
        assert np.abs(probability - wanted).max() < 0.01
        assert dice(mask, wanted >= bundle.manifest.threshold) >= bundle.manifest.limits_of(FP16).worst_dice
    np.testing.assert_array_equal(answer.mask, answer.probability >= np.float32(bundle.manifest.threshold))
    assert {kernel for kernel, _ in cupy_on_cpu.launches} == {"edge_tensor", "logits_to_mask"}


@pytest.mark.parametrize("count", [*range(1, MAX_BATCH + 1), 9, 17, 29])
def test_every_frame_of_a_batch_gets_its_own_answer(
    pipeline: GpuPipeline, network: HostNetwork, bundle: Bundle, count: int
) -> None:
    frames = FRAMES[np.arange(count) % MAX_BATCH]
    for _ in range(2):
        network.runs.clear()
        answer = pipeline.infer(frames)
        assert answer.mask is not None
        assert answer.mask.shape == (count, SIDE, SIDE)
        np.testing.assert_allclose(answer.probability, light_probability(frames, bundle), rtol=0, atol=1e-6)
        np.testing.assert_array_equal(answer.mask, answer.probability >= np.float32(bundle.manifest.threshold))
    assert set(network.runs) <= {1, MAX_BATCH}
    assert network.runs.count(MAX_BATCH) in (count // MAX_BATCH, count // MAX_BATCH + 1)


@pytest.mark.parametrize(
    ("frames", "padded_from", "sizes"),
    [
        (1, 2, [1]),
        (2, 2, [2]),
        (3, 4, [1, 1, 1]),
        (4, 4, [4]),
        (8, 8, [8]),
        (9, 2, [8, 1]),
        (11, 3, [8, 3]),
        (23, 8, [8, 8, 1, 1, 1, 1, 1, 1, 1]),
    ],
)
def test_a_rest_is_run_whole_or_frame_by_frame(frames: int, padded_from: int, sizes: list[int]) -> None:
    assert run_sizes(frames, padded_from) == sizes


@pytest.mark.parametrize(
    ("one_s", "eight_s", "served"), [(0.004, 0.009, [8]), (0.004, 0.0, [8]), (0.001, 0.009, [1, 1, 1])]
)
def test_the_measured_times_decide_how_a_rest_is_run(
    pipeline: GpuPipeline, network: HostNetwork, one_s: float, eight_s: float, served: list[int]
) -> None:
    network.spoil = lambda logits: time.sleep(one_s if len(logits) == 1 else eight_s)
    pipeline.infer(FRAMES[:3])
    network.runs.clear()
    pipeline.infer(FRAMES[:3])
    assert network.runs == served


def test_without_the_probabilities_none_are_computed_or_copied(
    cupy_on_cpu: ModuleType, pipeline: GpuPipeline, bundle: Bundle
) -> None:
    whole = pipeline.infer(FRAMES[:1])
    copied = {}
    for probability in (True, False):
        cupy_on_cpu.copies.clear()
        answer = pipeline.infer(FRAMES[:1], probability=probability)
        copied[probability] = cupy_on_cpu.copies.count("to host")
        np.testing.assert_array_equal(answer.mask, whole.mask)
    assert answer.probability is None
    assert copied == {True: 3, False: 2}  # mask and flags
    assert segmenter(bundle, pipeline)(FRAMES[0], probability=False).probability is None


def test_frames_are_copied_to_the_gpu_while_others_are_computed(
    cupy_on_cpu: ModuleType, pipeline: GpuPipeline, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = FRAMES[np.arange(24) % MAX_BATCH]
    pipeline.infer(frames)
    copied_before_waiting: list[int] = []
    wait = cupy_on_cpu.cuda.Event.synchronize

    def synchronize(event: Any) -> None:
        copied_before_waiting.append(cupy_on_cpu.copies.count("to device"))
        wait(event)

    monkeypatch.setattr(cupy_on_cpu.cuda.Event, "synchronize", synchronize)
    cupy_on_cpu.copies.clear()
    cupy_on_cpu.streams.late = True
    answer = pipeline.infer(frames)
    assert copied_before_waiting == [2, 3, 3]  # of three runs of eight frames
    np.testing.assert_allclose(answer.probability, light_probability(frames, bundle), rtol=0, atol=1e-6)


def test_answers_are_the_callers_own(pipeline: GpuPipeline) -> None:
    first = pipeline.infer(FRAMES[:1])
    kept = first.probability.copy()
    pipeline.infer(255 - FRAMES[:1])
    np.testing.assert_array_equal(first.probability, kept)


def test_threads_get_the_serial_answers(pipeline: GpuPipeline) -> None:
    serial = [pipeline.infer(FRAMES[n : n + 1]).probability for n in range(4)]
    with ThreadPoolExecutor(4) as pool:
        shared = list(pool.map(lambda n: pipeline.infer(FRAMES[n % 4 : n % 4 + 1]).probability, range(16)))
    for n, found in enumerate(shared):
        np.testing.assert_array_equal(found, serial[n % 4])


def test_no_call_after_the_first_of_its_batch_size_makes_a_buffer(
    cupy_on_cpu: ModuleType, pipeline: GpuPipeline
) -> None:
    for count in (1, 3):
        pipeline.infer(FRAMES[:count])
    made = len(cupy_on_cpu.allocations)
    for count in (1, 3, 1):
        pipeline.infer(FRAMES[:count])
    assert len(cupy_on_cpu.allocations) == made


def test_everything_runs_on_one_stream_that_is_not_the_callers(
    cupy_on_cpu: ModuleType, bundle: Bundle, network: HostNetwork
) -> None:
    streams: list[Any] = []

    def open_network(stream: Any) -> HostNetwork:
        streams.append(stream)
        return network

    pipeline = GpuPipeline(bundle, open_network, all_passed)
    with cupy_on_cpu.cuda.Stream() as callers:
        pipeline.infer(FRAMES[:2])
        assert cupy_on_cpu.cuda.get_current_stream() is callers
    assert {address for _, address in cupy_on_cpu.launches} == {streams[0].ptr}


def test_a_caller_on_another_gpu_is_served_and_stays_there(cupy_on_cpu: ModuleType, pipeline: GpuPipeline) -> None:
    """CuPy enters no stream of a device that is not the current one."""
    here, wanted = cupy_on_cpu.asarray(FRAMES[:1]), pipeline.infer(FRAMES[:1]).probability
    with cupy_on_cpu.cuda.Device(1):
        found = pipeline.infer(FRAMES[:1]), pipeline.infer_on_device(here, is_batch=True)
        assert cupy_on_cpu.cuda.runtime.getDevice() == 1
    for one in found:
        np.testing.assert_array_equal(one.probability, wanted)


def test_timings_name_every_stage_in_order(pipeline: GpuPipeline, bundle: Bundle) -> None:
    stages = ["stage", "upload", "preprocess", "network", "mask", "download"]
    assert list(pipeline.infer(FRAMES[:1]).seconds) == stages
    nine = pipeline.infer(np.concatenate([FRAMES, FRAMES[:1]])).seconds
    assert list(nine) == stages
    assert all(seconds >= 0 for seconds in nine.values())
    answer = segmenter(bundle, pipeline)(FRAMES[0])
    assert list(answer.timings) == ["contract", *stages, "check", "total"]


def test_segmenter_serves_frames_of_the_host_through_a_gpu_backend(pipeline: GpuPipeline, bundle: Bundle) -> None:
    segment = segmenter(bundle, pipeline)
    np.testing.assert_allclose(segment(FRAMES[0]).probability, light_probability(FRAMES[:1], bundle)[0], atol=1e-6)
    for result in segment.batch(FRAMES[:3]):
        np.testing.assert_array_equal(result.mask, result.probability >= np.float32(bundle.manifest.threshold))
    deep = np.rint(FRAMES[0] / 255 * 4095).astype(np.uint16)
    np.testing.assert_array_equal(segment(deep, bit_depth=12).mask, segment(FRAMES[0]).mask)


def test_self_test_by_a_gpu_backend_holds_the_limit_of_the_float16_network(
    cupy_on_cpu: ModuleType, bundle: Bundle, float16: Float16Network
) -> None:
    segment = segmenter(bundle, GpuPipeline(bundle, lambda stream: float16, all_passed))
    assert [golden.name for golden in segment.self_test()] == list(bundle.manifest.goldens)
    float16.spoil = opposite
    with pytest.raises(ParityError, match=r"by tested, the limit is 0.99"):
        segment.self_test()
