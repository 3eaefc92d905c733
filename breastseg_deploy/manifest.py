"""What a bundle says about itself: `manifest.json`, checked field by field before anything else is read."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from breastseg_deploy.errors import BundleError
from breastseg_deploy.gate import Gate
from breastseg_deploy.preprocess.gabor import GaborParameters

SCHEMA_VERSIONS = (1, 2)
"""2, which is what an export writes, may hold an empty-frame gate and an INT8 network, and its parity the change of
Dice over frames with cells: a runtime that knows 1 alone would refuse them as unknown fields."""

Precision = Literal["fp32", "fp16", "int8"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FrameContract(_Part):
    """What a frame must be; see `contract.rgb_batch` for how grey and 16-bit frames come to it."""

    height_px: int = Field(gt=0, multiple_of=32)
    width_px: int = Field(gt=0, multiple_of=32)
    dtype: Literal["uint8"] = "uint8"
    colour_order: Literal["RGB"] = "RGB"
    pixel_size_um: float | None = Field(default=None, gt=0)

    @property
    def size_px(self) -> tuple[int, int]:
        """(H, W)."""
        return self.height_px, self.width_px


class GaborBank(_Part):
    """Parameters of the edge channel, and the hash of the bank they make (`gabor.bank_sha256`)."""

    wavelengths_px: tuple[float, ...]
    orientations: int
    sigma_px: float
    gamma: float
    psi_rad: float
    zero_mean: bool
    sha256: str

    def parameters(self) -> GaborParameters:
        """The parameters as `gabor.gabor_bank` takes them."""
        return GaborParameters(**self.model_dump(exclude={"sha256"}))


class Normalisation(_Part):
    """Mean and standard deviation of R, G, B in [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class FileEntry(_Part):
    """Size and SHA-256 of one file of the bundle."""

    bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class ParityLimits(_Part):
    """What an artefact had to meet against the float32 reference (README, parity).

    `dice_change` holds for both means of the change against the truth, see `Parity`.
    """

    worst_dice: float
    mean_dice: float
    dice_change: float


class Parity(_Part):
    """Measured agreement of one artefact with the float32 PyTorch model, over `frames` frames from raw uint8.

    Dice figures compare masks, reference against artefact. `dice_change` is the mean over frames of the change of Dice
    against the ground truth, None without ground truth; `dice_change_with_cells` the same over frames whose truth holds
    cells. `artefact` is the bundle's file, `engine` what ran it. `frames_with_cells` counts frames whose reference is
    not empty.
    """

    artefact: str
    engine: str
    frames: int
    frames_with_cells: int
    mean_dice: float
    worst_dice: float
    mean_dice_with_cells: float | None
    worst_flipped_ppm: float
    worst_surface_dice: float
    largest_probability_error: float
    dice_change: float | None
    dice_change_with_cells: float | None = None
    limits: ParityLimits

    @property
    def change_in_words(self) -> str:
        """The change against the truth over frames with cells, to end a line with; empty where it was not measured."""
        change = self.dice_change_with_cells
        return "" if change is None else f", Dice to the truth changed by {change:+.6f} on frames with cells"


class IslandTrial(_Part):
    """One set of layers that was tried in float32, on the frames of the search.

    Attributes:
        groups: of layers, beside those that must be float32 anyway.
        float32_share: of the network's multiply-adds that are in float32 then, 0 to 1.
        worst_dice, mean_dice, largest_probability_error: as in `Parity`, over the frames of the search.
        accepted: whether the set keeps to half of the error that the limits allow.
    """

    groups: tuple[str, ...]
    float32_share: float
    worst_dice: float
    mean_dice: float
    largest_probability_error: float
    accepted: bool


class HalfPrecision(_Part):
    """How the float16 network keeps its range and its precision.

    Attributes:
        fp32_islands: nodes of the graph that stay in float32.
        largest_activation: the largest magnitude any layer reached on the parity frames; float16 ends at 65504.
        largest_activation_layer: the layer that reached it.
        layers: number of layers whose largest magnitude was measured.
        activations: those that reached furthest.
        necessary: number of nodes that must be float32 whatever a Dice says, by reason.
        groups: of layers that are float32 for the Dice; see `IslandTrial`.
        search: every set that was tried, in that order.
        search_frames: what they were tried on.
    """

    fp32_islands: tuple[str, ...]
    largest_activation: float
    largest_activation_layer: str
    layers: int = 0
    activations: dict[str, float] = {}
    necessary: dict[str, int] = {}
    groups: tuple[str, ...] = ()
    search: tuple[IslandTrial, ...] = ()
    search_frames: tuple[str, ...] = ()


class Int8Precision(_Part):
    """How the INT8 network was quantised after training, and what stayed in float32.

    Attributes:
        quantised: convolutions in 8-bit integers, by the name of their weight in the network's ONNX graph.
        float32: convolutions that stayed in float32; everything that is no convolution did as well.
        calibration: what the ranges were measured on.
        method: of the quantisation, with the version of what did it.
        golden_dice: mask Dice of each golden against float32 where it was exported, in the manifest's order.
    """

    quantised: tuple[str, ...] = Field(min_length=1)
    float32: tuple[str, ...]
    calibration: str
    method: str
    golden_dice: tuple[Annotated[float, Field(ge=0, le=1)], ...]


class EngineEntry(_Part):
    """A TensorRT engine of the bundle, and all that it is tied to. Its SHA-256 stands among the manifest's files.

    Attributes:
        file: the plan's name inside the bundle.
        flavour: which TensorRT built it.
        version: of that TensorRT; no other runs it.
        compute_capability: of the GPU that it was built for, e.g. "8.6".
        precision: of the network.
        min_batch, opt_batch, max_batch: frames per call: the least, those it is tuned for, the most.
        network_sha256: of the network that it was built from.
        layer_types: number of the network's layers by kind and type, read back after parsing.
        build_seconds: wall time of the build.
        verified: whether parity was measured with it. A runtime tests an engine that was not before it serves.
        verification: the same in words.
    """

    file: str
    flavour: Literal["tensorrt", "tensorrt-rtx"]
    version: str
    compute_capability: str = Field(pattern=r"^[1-9][0-9]?\.[0-9]$")
    precision: Literal["fp16"]
    min_batch: int = Field(ge=1)
    opt_batch: int = Field(ge=1)
    max_batch: int = Field(ge=1)
    network_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    layer_types: dict[str, dict[str, int]]
    build_seconds: float = Field(ge=0)
    verified: bool
    verification: str


class Manifest(_Part):
    """The whole of `manifest.json`."""

    schema_version: Literal[1, 2] = 2
    name: str
    encoder: str
    decoder_channels: tuple[int, ...]
    pool_window_px: int | None = None
    frame: FrameContract
    gabor: GaborBank
    normalisation: Normalisation
    threshold: float = Field(gt=0, lt=1)
    precision: Precision
    opset: int
    half: HalfPrecision | None
    parity: tuple[Parity, ...]
    parity_frames: str
    goldens: tuple[str, ...] = Field(min_length=1)
    engines: tuple[EngineEntry, ...] = ()
    gate: Gate | None = None
    int8: Int8Precision | None = None
    files: dict[str, FileEntry]
    built_with: dict[str, str]
    built_at: str
    licence: str
    intended_use: str
    training: dict[str, Any]

    def limits_of(self, artefact: str) -> ParityLimits:
        """The limits that a file of the bundle had to meet when it was exported.

        Raises:
            BundleError: its parity was never measured.
        """
        for parity in self.parity:
            if parity.artefact == artefact:
                return parity.limits
        raise BundleError(f"the manifest holds no parity of {artefact}; export the bundle again")

    @field_validator("files")
    @classmethod
    def _inside_the_bundle(cls, files: dict[str, FileEntry]) -> dict[str, FileEntry]:
        for name in files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or not path.parts or "\\" in name or ":" in name:
                raise ValueError(f"file name {name!r} leads out of the bundle")
        return files

    @model_validator(mode="after")
    def _agrees_on_int8(self) -> Self:
        if (self.precision == "int8") != (self.int8 is not None):
            raise ValueError("precision and int8 must agree on whether there is an INT8 network")
        if self.int8 is not None and len(self.int8.golden_dice) != len(self.goldens):
            raise ValueError("int8 must say how each golden came out")
        return self


def parse_manifest(text: str, place: str) -> Manifest:
    """Read a manifest; the schema version is looked at first, so that a newer bundle gets a clear answer.

    Args:
        text: the content of manifest.json.
        place: what to call it in messages.

    Raises:
        BundleError: no JSON, another schema version, or a field that is missing, unknown or out of range.
    """
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as err:
        raise BundleError(f"{place} is no JSON ({err}); copy the bundle again or export it again") from err
    if not isinstance(raw, dict) or "schema_version" not in raw:
        raise BundleError(f"{place} must be a JSON object with a schema_version; it was not made by breastseg-export")
    version = raw["schema_version"]
    if version not in SCHEMA_VERSIONS:
        raise BundleError(
            f"{place} has schema version {version!r}, this version reads {' and '.join(map(str, SCHEMA_VERSIONS))}; "
            "update breastseg-deploy, or export the checkpoint again with this version"
        )
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as err:
        first = err.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"{place}: {field}: {first['msg']} ({err.error_count()} in all); export it again") from err
