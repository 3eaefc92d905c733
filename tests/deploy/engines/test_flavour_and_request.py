"""What can be asked for, and what the answer is where TensorRT is not installed."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from breastseg_deploy.engines.flavour import FLAVOURS, flavour_named, load
from breastseg_deploy.engines.request import EngineRequest
from breastseg_deploy.errors import ArgumentError, MachineError

RTX = FLAVOURS["tensorrt-rtx"]


def test_tensorrt_is_preferred_to_tensorrt_rtx() -> None:
    assert list(FLAVOURS) == ["tensorrt", "tensorrt-rtx"]


@pytest.mark.parametrize("name", list(FLAVOURS))
def test_flavours_are_found_by_name(name: str) -> None:
    assert flavour_named(name).name == name


def test_a_name_that_is_no_flavour_is_refused() -> None:
    with pytest.raises(ArgumentError, match="no TensorRT flavour 'trt'; choose one of tensorrt, tensorrt-rtx"):
        flavour_named("trt")


@pytest.mark.parametrize("flavour", FLAVOURS.values(), ids=lambda flavour: flavour.name)
def test_a_flavour_that_is_not_installed_names_the_command_that_installs_it(flavour: Any) -> None:
    if importlib.util.find_spec(flavour.module) is not None:
        pytest.skip(f"{flavour.module} is installed")
    with pytest.raises(MachineError, match=rf"pip install 'breastseg-deploy\[{flavour.extra}\]'"):
        load(flavour)


def test_an_engine_takes_one_to_eight_frames_unless_told_otherwise() -> None:
    request = EngineRequest(RTX, "8.6")
    assert (request.min_batch, request.max_batch, request.precision) == (1, 8, "fp16")


def test_an_engine_plans_with_one_gib_of_scratch_memory_unless_told_otherwise() -> None:
    assert EngineRequest(RTX, "8.6").workspace_bytes == 2**30


@pytest.mark.parametrize(
    ("batches", "profiles"),
    [((1, 8), ((1, 1, 1), (1, 8, 8))), ((2, 4), ((2, 2, 2), (2, 4, 4))), ((1, 1), ((1, 1, 1),))],
)
def test_one_profile_is_for_the_least_batch_alone_and_one_is_tuned_for_the_largest(
    batches: tuple[int, int], profiles: tuple[tuple[int, int, int], ...]
) -> None:
    assert EngineRequest(RTX, "8.6", "fp16", *batches).profiles == profiles


@pytest.mark.parametrize("batches", [(0, 8), (2, 1), (1, 0)])
def test_batches_out_of_order_are_refused(batches: tuple[int, int]) -> None:
    with pytest.raises(ArgumentError, match="1 <= min <= max, got"):
        EngineRequest(RTX, "8.6", "fp16", *batches)


@pytest.mark.parametrize("capability", ["86", "sm_86", "8", "8.66", "", "8.6 ", "0.1"])
def test_a_capability_that_is_none_is_refused(capability: str) -> None:
    with pytest.raises(ArgumentError, match=r"written as in 8\.6, got"):
        EngineRequest(RTX, capability)


def test_a_build_without_workspace_is_refused() -> None:
    with pytest.raises(ArgumentError, match="at least one byte, got 0"):
        EngineRequest(RTX, "8.6", workspace_bytes=0)
