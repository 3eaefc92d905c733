"""Checkpoints come back as they were saved, and nothing else is taken for one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from breastseg_deploy.errors import CheckpointError
from breastseg_deploy.gabor import GaborParameters
from breastseg_train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from breastseg_train.model import Architecture, SegmentationModel

NARROW = Architecture("efficientnet-b0", (16, 16, 16, 16, 16), GaborParameters(zero_mean=True))


@pytest.fixture(scope="module")
def model() -> SegmentationModel:
    torch.manual_seed(0)
    return SegmentationModel(NARROW).eval()


@pytest.fixture
def saved(model: SegmentationModel, tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_checkpoint(Checkpoint(model, 0.4, {"data": "discs"}), path)
    return path


def test_a_checkpoint_comes_back_whole(model: SegmentationModel, saved: Path) -> None:
    loaded = load_checkpoint(saved)
    assert (loaded.threshold, loaded.details) == (0.4, {"data": "discs"})
    assert loaded.model.architecture == NARROW
    assert not loaded.model.training
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in loaded.model.state_dict().items())


def test_half_stores_float16_and_computes_in_float32(model: SegmentationModel, tmp_path: Path, saved: Path) -> None:
    half = tmp_path / "half.safetensors"
    save_checkpoint(Checkpoint(model), half, half=True)
    assert half.stat().st_size < 0.55 * saved.stat().st_size
    loaded = load_checkpoint(half).model
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    tensor = torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.allclose(torch.sigmoid(loaded(tensor)), torch.sigmoid(model(tensor)), atol=0.01)


def test_a_weight_beyond_float16_is_not_stored_in_half(tmp_path: Path) -> None:
    model = SegmentationModel(NARROW)
    with torch.no_grad():
        next(model.parameters())[0] = 1e6
    with pytest.raises(CheckpointError, match="beyond float16; save this checkpoint in float32"):
        save_checkpoint(Checkpoint(model), tmp_path / "half.safetensors", half=True)


def test_a_torch_pickle_is_refused_and_the_way_to_convert_it_given(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"is a torch pickle.*weights_only=True.*save_checkpoint"):
        load_checkpoint(tmp_path / "model.pt")


def test_a_truncated_file_is_refused(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="no complete safetensors file"):
        load_checkpoint(saved)


def test_tensors_of_another_architecture_than_the_header_names_are_refused(saved: Path, tmp_path: Path) -> None:
    with safe_open(saved, framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        header = file.metadata()
    header["breastseg"] = header["breastseg"].replace("efficientnet-b0", "resnet18")
    other = tmp_path / "other.safetensors"
    save_file(state, other, metadata=header)
    with pytest.raises(CheckpointError, match="do not fit the encoder and decoder its header names"):
        load_checkpoint(other)


def test_safetensors_of_someone_else_is_no_checkpoint(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="no breastseg checkpoint"):
        load_checkpoint(tmp_path / "foreign.safetensors")


def test_a_newer_format_asks_for_an_update(saved: Path, tmp_path: Path) -> None:
    with safe_open(saved, framework="pt") as file:
        header = {"breastseg": file.metadata()["breastseg"].replace("checkpoint-1", "checkpoint-2")}
    save_file({"weight": torch.zeros(1)}, tmp_path / "newer.safetensors", metadata=header)
    with pytest.raises(CheckpointError, match="breastseg-checkpoint-2, expected breastseg-checkpoint-1; update"):
        load_checkpoint(tmp_path / "newer.safetensors")


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint .*missing\.safetensors"):
        load_checkpoint(tmp_path / "missing.safetensors")


def test_a_folder_that_does_not_exist_cannot_take_a_checkpoint(model: SegmentationModel, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot write the checkpoint"):
        save_checkpoint(Checkpoint(model), tmp_path / "nowhere" / "model.safetensors")


def test_the_demo_checkpoint_is_small_and_says_what_it_is_not_for() -> None:
    demo = load_checkpoint("demo")
    assert "never for clinical" in demo.details["intended_use"]
    assert {entry["licence"] for entry in demo.details["licences"]} >= {"CC0", "CC-BY-4.0", "BSD-3-Clause"}
