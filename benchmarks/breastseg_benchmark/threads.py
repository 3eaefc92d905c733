"""Threads and frames side by side: what a frame takes by one thread or by all, and what frames take together.

The network alone, in OpenVINO in float32: one frame by 1, 2, 4, 8 and all cores, and as many frames at once as there
are streams, with the cores shared out among them. All settings are called in turn, so a busy machine slows all of them.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from breastseg_benchmark.results import Distribution, Ratio, SideBySide, Threads
from breastseg_deploy.backends.openvino import read_network
from breastseg_deploy.backends.openvino_library import NAME, SETTINGS, load_openvino, openvino_border
from breastseg_deploy.bundle import PORTABLE, Bundle
from breastseg_deploy.errors import BreastsegError
from breastseg_deploy.machine import Machine
from breastseg_deploy.preprocess.tensor import network_input
from breastseg_deploy.progress import followed

_COUNTS = (1, 2, 4, 8)
_WARM_UP = 2


def measure_threads(bundle: Bundle, frames: NDArray[np.uint8], rounds: int, machine: Machine | None = None) -> Threads:
    """Time every setting on a bundle's network; a machine that cannot says why.

    Args:
        bundle: opened.
        frames: (F, H, W, 3) uint8.
        rounds: calls of each setting, in turn.
        machine: whose cores are shared out; None for this one.
    """
    try:
        ov = load_openvino()
        cores = (machine or Machine()).processor.cores
        gabor = bundle.manifest.gabor.parameters()
        tensors = [network_input(frame[np.newaxis], gabor) for frame in frames[:rounds]]
        with openvino_border("cannot time threads", "measure without --threads"):
            core = ov.Core()
            network = read_network(ov, core, bundle, PORTABLE)
            return threads_of(core, network, tensors, rounds, cores)
    except BreastsegError as err:
        return Threads(backend=NAME, not_run=str(err))


def threads_of(core: Any, network: Any, tensors: list[NDArray[np.float32]], rounds: int, cores: int) -> Threads:
    """Time every setting of a network.

    Args:
        core: OpenVINO's.
        network: of fixed shapes, with one input.
        tensors: its inputs, taken in turn.
        rounds: that are counted, after some that are not.
        cores: that are shared out.
    """
    at_work = {setting: _Requests(core, network, *setting) for setting in settings_for(cores)}
    seconds: dict[tuple[int, int], list[float]] = {setting: [] for setting in at_work}
    for number in followed(range(_WARM_UP + rounds), "threads", "rounds"):
        for setting, requests in at_work.items():
            took = requests.seconds(tensors[number % len(tensors)])
            if number >= _WARM_UP:
                seconds[setting].append(took)
    one_by_all = seconds[1, cores]
    points = [
        SideBySide(
            at_once=at_once,
            threads=threads,
            latency=Distribution.of(took),
            frames_per_s=at_once / Distribution.of(took).p50_s,
            time_per_frame=Ratio.of([one / at_once for one in took], one_by_all),
        )
        for (at_once, threads), took in seconds.items()
    ]
    return Threads(backend=NAME, cores=cores, points=tuple(points))


def settings_for(cores: int) -> list[tuple[int, int]]:
    """Frames at once, and threads for each of them: one frame first, then streams of two cores and of one."""
    alone = [(1, threads) for threads in sorted({*(count for count in _COUNTS if count < cores), cores})]
    shared = {(cores // threads, threads) for threads in (2, 1) if cores // threads > 1}
    return alone + sorted(shared)


class _Requests:
    """A network compiled for so many frames at once, each by so many threads; streams share its weights."""

    def __init__(self, core: Any, network: Any, at_once: int, threads: int) -> None:
        shared_out = {"NUM_STREAMS": at_once, "INFERENCE_NUM_THREADS": at_once * threads}
        compiled = core.compile_model(network, "CPU", {**SETTINGS, **shared_out})
        self._requests = [compiled.create_infer_request() for _ in range(at_once)]

    def seconds(self, tensor: NDArray[np.float32]) -> float:
        """From the start of the first frame to the end of the last."""
        started = time.perf_counter()
        for request in self._requests:
            request.start_async({0: tensor}, share_inputs=True)
        for request in self._requests:
            request.wait()
        return time.perf_counter() - started
