"""Checkpoints come back as they were saved, and nothing else is taken for one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from breastseg_deploy.errors import CheckpointError
from breastseg_deploy.preprocess.gabor import GaborParameters
from breastseg_train.network.architecture import Architecture
from breastseg_train.network.checkpoint import Checkpoint, checkpoint_path, load_checkpoint, save_checkpoint
from breastseg_train.network.model import SegmentationModel

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


def test_statistics_beyond_float16_are_kept_in_half(tmp_path: Path) -> None:
    model = SegmentationModel(NARROW).eval()
    name, variance = next((name, one) for name, one in model.named_buffers() if name.endswith("running_var"))
    variance.fill_(1e6)
    save_checkpoint(Checkpoint(model), tmp_path / "half.safetensors", half=True)
    assert torch.equal(load_checkpoint(tmp_path / "half.safetensors").model.get_buffer(name), variance)


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
    assert all(licence in demo.details["licence"] for licence in ("CC0", "CC-BY-4.0", "BSD-3-Clause"))


def rewritten(saved: Path, place: Path, **changes: object) -> Path:
    """The saved checkpoint with other entries in its header; None takes an entry away."""
    with safe_open(saved, framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        header = json.loads(file.metadata()["breastseg"]) | changes
    header = {key: value for key, value in header.items() if value is not None}
    save_file(state, place, metadata={"breastseg": json.dumps(header)})
    return place


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"threshold": 2.0}, "threshold: input should be less than 1"),
        ({"threshold": None}, "threshold: field required"),
        ({"details": [1]}, "details: input should be a valid dictionary"),
        ({"architecture": {"encoder": 5}}, "architecture.encoder: input should be a valid string"),
        ({"architecture": {"gabor": {"orientations": 8.5}}}, "architecture.gabor.orientations: input should be"),
        ({"architecture": {"gabor": {"wavelengths_px": [1]}}}, "each Gabor wavelength must be over 2 px"),
    ],
)
def test_a_damaged_header_is_refused_with_the_entry_that_is_wrong(
    saved: Path, tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    with pytest.raises(CheckpointError, match=r"the header of .* is damaged") as caught:
        load_checkpoint(rewritten(saved, tmp_path / "damaged.safetensors", **changes))
    assert words in str(caught.value)


@pytest.mark.parametrize("new_format", [True, False])
def test_both_forms_of_a_torch_pickle_are_recognised(tmp_path: Path, new_format: bool) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / "model.pt", _use_new_zipfile_serialization=new_format)
    with pytest.raises(CheckpointError, match=r"is a torch pickle.*SegmentationModel\(Architecture\("):
        load_checkpoint(tmp_path / "model.pt")


def test_a_header_whose_length_looks_like_a_pickle_is_no_pickle(saved: Path, tmp_path: Path) -> None:
    length = int.from_bytes(saved.read_bytes()[:8], "little")
    looks_like_a_pickle = 0x0280  # the first two bytes of a pickle of protocol 2, read as a number
    missing = (looks_like_a_pickle - length) % 65536
    place = rewritten(saved, tmp_path / "long.safetensors", details={"data": "discs" + "." * missing})
    assert place.read_bytes()[:2] == b"\x80\x02"
    assert load_checkpoint(place).threshold == 0.4


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    model = SegmentationModel(NARROW)
    with torch.no_grad():
        model.projection[3].weight[0] = float("nan")
    save_checkpoint(Checkpoint(model), tmp_path / "nan.safetensors")
    with pytest.raises(CheckpointError, match=r"projection\.3\.weight holds NaN or infinite weights"):
        load_checkpoint(tmp_path / "nan.safetensors")


def test_demo_is_the_shipped_checkpoint_beside_a_folder_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "demo").mkdir()  # as `make demo` leaves it
    monkeypatch.chdir(tmp_path)
    assert checkpoint_path("demo").name == "demo.safetensors"
