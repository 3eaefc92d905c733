"""What every backend of the registry owes, whichever it is; those that this machine lacks something for are skipped.

A new backend is held to it by its record alone; what it does beyond that has a test file of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from surgery import alter_golden

from breastseg_deploy import Machine, MachineError, ParityError, Segmenter
from breastseg_deploy.backends.registry import BACKENDS, BackendRecord
from breastseg_deploy.bundle import Bundle
from breastseg_deploy.inference import Backend
from breastseg_deploy.metrics import dice


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(cache=tmp_path / "cache")


@pytest.fixture(params=BACKENDS)
def name(request: pytest.FixtureRequest, bundle: Bundle, machine: Machine) -> str:
    name = str(request.param)
    if bundle.manifest.artefact(BACKENDS[name].artefact) is None:
        pytest.skip(f"the demo bundle {bundle.holds_no(BACKENDS[name].artefact)}")
    try:
        BACKENDS[name].check(machine)
    except MachineError as err:
        pytest.skip(str(err))
    return name


@pytest.fixture
def record(name: str) -> BackendRecord:
    return BACKENDS[name]


@pytest.fixture
def backend(record: BackendRecord, bundle: Bundle, machine: Machine) -> Iterator[Backend]:
    opened = record.open(bundle, machine)
    yield opened
    opened.close()


def test_it_reproduces_each_golden_within_the_limits_of_what_it_serves(
    backend: Backend, record: BackendRecord, bundle: Bundle
) -> None:
    limits = bundle.manifest.limits_of(record.artefact)
    for golden in bundle.goldens():
        answer = backend.infer(golden.frame[np.newaxis]).checked((1, *golden.mask.shape), "this backend")
        assert dice(answer[0] >= bundle.manifest.threshold, golden.mask) >= limits.worst_dice


def test_it_answers_each_frame_of_a_batch_as_it_answers_it_alone(
    backend: Backend, record: BackendRecord, bundle: Bundle
) -> None:
    frames = np.stack([golden.frame for golden in bundle.goldens()])
    answers = backend.infer(frames).checked(frames.shape[:3], "this backend")
    for frame, answer in zip(frames, answers, strict=True):
        (alone,) = backend.infer(frame[np.newaxis]).checked((1, *answer.shape), "this backend")
        np.testing.assert_allclose(answer, alone, rtol=0, atol=1e-4)


def test_it_says_how_long_each_stage_took(backend: Backend, bundle: Bundle) -> None:
    seconds = backend.infer(bundle.goldens()[0].frame[np.newaxis]).seconds
    assert seconds
    assert all(spent >= 0 for spent in seconds.values())


def test_closed_twice_is_closed(record: BackendRecord, bundle: Bundle, machine: Machine) -> None:
    backend = record.open(bundle, machine)
    backend.close()
    backend.close()


def test_it_does_not_pass_for_good_where_a_golden_says_otherwise(
    name: str, bundle_copy: Path, machine: Machine
) -> None:
    golden = Bundle.open(bundle_copy).goldens()[0]
    alter_golden(bundle_copy, mask=1 - golden.mask, probability=(1 - golden.mask).astype(np.float32))
    with pytest.raises(ParityError), Segmenter.open(bundle_copy, name, machine=machine) as segment:
        segment.self_test()
