"""Checkpoints: one safetensors file, all that is no tensor as JSON in its header. Nothing is unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from breastseg_deploy.errors import BreastsegError, CheckpointError, OutputError
from breastseg_deploy.gate import GateCalibration
from breastseg_deploy.storage import write_whole
from breastseg_train.network.architecture import Architecture
from breastseg_train.network.model import SegmentationModel
from breastseg_train.run.gate import FittedGate, gate_for

FORMAT = "breastseg-checkpoint-1"
DEMO = "demo"
"""The word that names the checkpoint shipped with the project, wherever a checkpoint is taken."""

_HEADER_KEY = "breastseg"
_GATE = "gate."
"""How the names of a gate's tensors begin."""
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_REASON_LENGTH = 200
_LENGTH_BYTES = 8
"""A safetensors file starts with its header's length, which can look like a pickle; then comes a brace."""


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint.

    Attributes:
        model: in evaluation mode, float32, on the CPU.
        threshold: a pixel belongs to the mask where its probability is >= threshold.
        details: what training recorded (data, licence, metrics); JSON values only.
        gate: an empty-frame gate, where one was fitted.
    """

    model: SegmentationModel
    threshold: float = 0.5
    details: Mapping[str, Any] = field(default_factory=dict)
    gate: FittedGate | None = None


class _Header(BaseModel):
    """What stands in a checkpoint's header; what a bundle could not take is refused here."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    format: str
    architecture: Architecture
    threshold: float = Field(gt=0, lt=1)
    details: dict[str, Any]
    gate: GateCalibration | None = None


def save_checkpoint(checkpoint: Checkpoint, path: Path, *, half: bool = False) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        checkpoint: what to write.
        path: the file's place.
        half: store weights as float16; they are computed in float32 all the same. Running statistics of batch norm stay
            float32: variances of wide layers lie beyond float16.

    Raises:
        CheckpointError: the file cannot be written, or a weight does not fit float16.
    """
    header = {
        "format": FORMAT,
        "architecture": asdict(checkpoint.model.architecture),
        "threshold": checkpoint.threshold,
        "details": dict(checkpoint.details),
    }
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.model.state_dict().items()}
    if half:
        weights = {name for name, _ in checkpoint.model.named_parameters()}
        state = {name: tensor.half() if name in weights else tensor for name, tensor in state.items()}
        unfit = [name for name in sorted(weights) if not state[name].isfinite().all()]
        if unfit:
            raise CheckpointError(f"{unfit[0]} holds values beyond float16; save this checkpoint in float32")
    if checkpoint.gate is not None:
        header["gate"] = checkpoint.gate.calibration.model_dump(mode="json")
        gate = checkpoint.gate.gate.state_dict()
        state |= {f"{_GATE}{name}": tensor.detach().cpu().contiguous() for name, tensor in gate.items()}
        own = checkpoint.model.state_dict().items()
        if half and not all(torch.equal(state[name].to(tensor.dtype), tensor.cpu()) for name, tensor in own):
            raise CheckpointError(
                "rounding this model to float16 moves the scores that its gate was calibrated on; save it in float16 "
                "without the gate, and fit the gate to that checkpoint"
            )
    try:
        write_whole(path, save(state, metadata={_HEADER_KEY: json.dumps(header)}))
    except (OutputError, SafetensorError) as err:
        raise CheckpointError(f"cannot write the checkpoint {path}: {err}") from err


def load_checkpoint(name: str | Path) -> Checkpoint:
    """Load a checkpoint by path, or the project's own by the word "demo".

    Raises:
        CheckpointError: missing, truncated, a torch pickle, another format, tensors of another architecture, or weights
            that are not finite.
    """
    path = checkpoint_path(name)
    try:
        _refuse_pickle(path)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError) as err:
        raise CheckpointError(f"{path} is no complete safetensors file ({err}); copy or train it again") from err
    header = _header(path, metadata)
    own = {name: tensor for name, tensor in state.items() if not name.startswith(_GATE)}
    gates = {name.removeprefix(_GATE): tensor for name, tensor in state.items() if name.startswith(_GATE)}
    model = _model(path, header.architecture, own).eval()
    return Checkpoint(model, header.threshold, header.details, _gate(path, model, header.gate, gates))


def checkpoint_path(name: str | Path) -> Path:
    """Path of a checkpoint given by path or by the word "demo".

    Raises:
        CheckpointError: there is no such file.
    """
    path = Path(name)
    if str(name) == DEMO and not path.is_file():  # a folder of that name is what `make demo` leaves behind
        path = Path(str(resources.files("breastseg_train") / "demo.safetensors"))
    if not path.is_file():
        raise CheckpointError(f"no checkpoint {path}; expected a .safetensors file of breastseg, or the word {DEMO!r}")
    return path


def _refuse_pickle(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(_LENGTH_BYTES + 1)
    if start.startswith(_PICKLE_STARTS) and start[_LENGTH_BYTES:] != b"{":
        raise CheckpointError(
            f"{path} is a torch pickle, which can run code when it is loaded; convert it where you trust it: "
            "model = SegmentationModel(Architecture(encoder, decoder_channels)); "
            "model.load_state_dict(torch.load(path, weights_only=True)); "
            "save_checkpoint(Checkpoint(model), Path('model.safetensors')), "
            "with breastseg_train.network.model and .checkpoint"
        )


def _header(path: Path, metadata: Mapping[str, str]) -> _Header:
    try:
        header = json.loads(metadata[_HEADER_KEY])
        version = header["format"]
    except (KeyError, ValueError, TypeError, RecursionError) as err:
        raise CheckpointError(
            f"{path} is safetensors but no breastseg checkpoint (no readable {_HEADER_KEY!r} entry in its header); "
            "write it with breastseg_train.network.checkpoint.save_checkpoint"
        ) from err
    if version != FORMAT:
        raise CheckpointError(f"{path} has the format {version}, expected {FORMAT}; update this package")
    try:
        return _Header.model_validate(header)
    except ValidationError as err:
        first = err.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg'].lower()}"
        raise CheckpointError(f"the header of {path} is damaged ({reason}); save it again") from err
    except BreastsegError as err:
        raise CheckpointError(f"the header of {path} is damaged ({err}); save it again") from err


def _model(path: Path, architecture: Architecture, state: Mapping[str, torch.Tensor]) -> SegmentationModel:
    try:
        model = SegmentationModel(architecture)
        model.load_state_dict(state)
    except (KeyError, TypeError, ValueError, RuntimeError, BreastsegError) as err:
        reason = " ".join(str(err).split())[:_REASON_LENGTH]  # PyTorch lists every tensor
        raise CheckpointError(
            f"the tensors of {path} do not fit the encoder and decoder its header names ({reason}); save it again"
        ) from err
    unfit = [name for name, tensor in model.state_dict().items() if not tensor.isfinite().all()]
    if unfit:
        raise CheckpointError(f"{path}: {unfit[0]} holds NaN or infinite weights; export an earlier checkpoint")
    return model


def _gate(
    path: Path, model: SegmentationModel, calibration: GateCalibration | None, state: Mapping[str, torch.Tensor]
) -> FittedGate | None:
    if calibration is None and not state:
        return None
    if calibration is None:
        raise CheckpointError(f"{path} holds a gate that its header says nothing of; fit it again (breastseg fit-gate)")
    try:
        gate = gate_for(model)
        gate.load_state_dict(state)
    except (RuntimeError, BreastsegError) as err:
        reason = " ".join(str(err).split())[:_REASON_LENGTH]
        raise CheckpointError(f"the gate of {path} does not fit its encoder ({reason}); fit it again") from err
    if not all(tensor.isfinite().all() for tensor in gate.state_dict().values()):
        raise CheckpointError(f"the gate of {path} holds NaN or infinite weights; fit it again (breastseg fit-gate)")
    return FittedGate(gate.eval(), calibration)
