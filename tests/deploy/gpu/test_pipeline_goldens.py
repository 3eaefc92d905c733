"""The goldens in the GPU pipeline: every batch size runs them before it serves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from host_network import (
    FRAMES,
    SIDE,
    Float16Network,
    HostNetwork,
    Recorded,
    opposite,
)
from numpy.typing import NDArray
from surgery import alter_golden

from breastseg_deploy import ParityError
from breastseg_deploy.bundle import FP16, Bundle
from breastseg_deploy.errors import BreastsegError
from breastseg_deploy.gpu.pipeline import GpuPipeline, SelfTest


def open_pipeline(bundle: Bundle, network: HostNetwork, verdicts: SelfTest) -> GpuPipeline:
    return GpuPipeline(bundle, lambda stream: network, verdicts)


def test_each_batch_size_runs_the_goldens_before_it_serves(
    cupy_on_cpu: ModuleType, bundle: Bundle, float16: Float16Network
) -> None:
    verdicts = Recorded()
    pipeline = open_pipeline(bundle, float16, verdicts)
    goldens = len(bundle.manifest.goldens)
    assert float16.runs == [1] + [1] * goldens
    assert list(verdicts.recorded) == [1]
    float16.runs.clear()
    pipeline.infer(FRAMES)
    assert float16.runs == [8, 8, *[1, 8] * 3, 8]  # preparation, goldens, timed in turn, frames
    assert list(verdicts.recorded) == [1, 8]
    assert all(result.dice >= 0.99 for results in verdicts.recorded.values() for result in results)
    float16.runs.clear()
    pipeline.infer(FRAMES)
    assert float16.runs == [8]


def test_a_batch_size_that_has_passed_before_is_not_tested_again(
    cupy_on_cpu: ModuleType, bundle: Bundle, float16: Float16Network
) -> None:
    verdicts = Recorded(known={1})
    pipeline = open_pipeline(bundle, float16, verdicts)
    pipeline.infer(FRAMES[:1])
    assert float16.runs == [1, 1, 1]  # preparation, a black frame, the frame
    assert verdicts.recorded == {}


def test_a_network_that_does_not_reproduce_the_goldens_refuses_to_open(
    cupy_on_cpu: ModuleType, bundle: Bundle, float16: Float16Network
) -> None:
    verdicts = Recorded()
    float16.spoil = opposite
    with pytest.raises(ParityError) as failure:
        open_pipeline(bundle, float16, verdicts)
    assert "by the network under test in batches of 1, the limit is 0.99; do not use its" in str(failure.value)
    assert verdicts.recorded == {}


def test_a_batch_size_that_does_not_reproduce_the_goldens_never_serves(
    cupy_on_cpu: ModuleType, bundle: Bundle, float16: Float16Network
) -> None:
    pipeline = open_pipeline(bundle, float16, Recorded())

    def wrong_in_eights(logits: NDArray[np.float32]) -> None:
        if len(logits) == 8:
            opposite(logits)

    float16.spoil = wrong_in_eights
    for _ in range(2):
        with pytest.raises(ParityError, match="in batches of 8"):
            pipeline.infer(FRAMES[:3])
    assert len(pipeline.infer(FRAMES[:1]).probability) == 1


@pytest.mark.parametrize(
    ("limit", "words"), [("worst_dice", "has Dice .*, the limit is 1.01"), ("mean_dice", "a mean Dice of .* is 1.01")]
)
def test_the_limits_are_the_float16_networks_for_the_worst_golden_and_for_their_mean(
    cupy_on_cpu: ModuleType, bundle: Bundle, float16: Float16Network, limit: str, words: str
) -> None:
    limits = bundle.manifest.limits_of(FP16).model_copy(update={limit: 1.01})
    artefacts = tuple(
        artefact.model_copy(update={"limits": limits}) if artefact.role == FP16 else artefact
        for artefact in bundle.manifest.artefacts
    )
    strict = replace(bundle, manifest=bundle.manifest.model_copy(update={"artefacts": artefacts}))
    with pytest.raises(ParityError, match=words):
        open_pipeline(strict, float16, Recorded())


def test_a_golden_that_says_otherwise_refuses_to_open(
    cupy_on_cpu: ModuleType, bundle_copy: Path, float16: Float16Network
) -> None:
    name = alter_golden(bundle_copy, number=-1, frame=np.full((SIDE, SIDE, 3), 255, np.uint8) - FRAMES[0])
    with pytest.raises(ParityError, match=name):
        open_pipeline(Bundle.open(bundle_copy), float16, Recorded())


def test_goldens_with_logits_that_are_no_numbers_refuse_to_open(
    cupy_on_cpu: ModuleType, bundle: Bundle, float16: Float16Network
) -> None:
    float16.spoil = lambda logits: logits.fill(np.nan)
    with pytest.raises(BreastsegError, match="NaN or infinite"):
        open_pipeline(bundle, float16, Recorded())
