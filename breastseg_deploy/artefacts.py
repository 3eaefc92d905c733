"""What artefacts say of themselves beyond what all have in common: a model for each role that needs one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self, TypeVar

from pydantic import BaseModel, Field, ValidationError, model_validator

from breastseg_deploy.errors import ArgumentError, BundleError
from breastseg_deploy.gate import Gate
from breastseg_deploy.manifest import Manifest, Parity, Part
from breastseg_deploy.tiling import Grid

Details = TypeVar("Details", bound=BaseModel)


def details_of(manifest: Manifest, role: str, model: type[Details]) -> list[Details]:
    """The details of each artefact of a role.

    Raises:
        BundleError: they are not what this version knows.
    """
    try:
        return [model.model_validate(artefact.details) for artefact in manifest.artefacts_of(role)]
    except ValidationError as err:
        first = err.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"the manifest's {role} artefact: {field}: {first['msg']}; export the bundle again") from err


class IslandTrial(Part):
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


class HalfPrecision(Part):
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
    activations: dict[str, float] = Field(default_factory=dict)
    necessary: dict[str, int] = Field(default_factory=dict)
    groups: tuple[str, ...] = ()
    search: tuple[IslandTrial, ...] = ()
    search_frames: tuple[str, ...] = ()


class Bf16Precision(Part):
    """What of `model.onnx` stays in float32 where a processor multiplies in bfloat16.

    Attributes:
        fp32_islands: nodes of its network that stay in float32.
        groups: of layers that they are; the head always is one.
        search, search_frames: as in `HalfPrecision`.
    """

    fp32_islands: tuple[str, ...]
    groups: tuple[str, ...]
    search: tuple[IslandTrial, ...]
    search_frames: tuple[str, ...]


class Int8Precision(Part):
    """How the INT8 network was quantised after training, and what stayed in float32.

    Attributes:
        quantised: convolutions in 8-bit integers, by the name of their weight in the network's ONNX graph.
        float32: convolutions that stayed in float32; everything that is no convolution did as well.
        calibration: what the ranges were measured on.
        method: of the quantisation, with the version of what did it.
    """

    quantised: tuple[str, ...] = Field(min_length=1)
    float32: tuple[str, ...]
    calibration: str
    method: str


class EngineEntry(Part):
    """A TensorRT engine of the bundle, and all that it is tied to. Its SHA-256 stands among the manifest's files.

    Attributes:
        file: the plan's name inside the bundle.
        flavour: which TensorRT built it.
        version: of that TensorRT; no other runs it.
        compute_capability: of the GPU that it was built for, e.g. "8.6".
        precision: of the network.
        min_batch, max_batch: frames per call: the least and the most; it is tuned for both.
        workspace_bytes: scratch memory that the builder might plan with.
        gpu: the GPU's name, which TensorRT ties its engines to; empty for TensorRT-RTX.
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
    max_batch: int = Field(ge=1)
    workspace_bytes: int = Field(ge=1)
    gpu: str
    network_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    layer_types: dict[str, dict[str, int]]
    build_seconds: float = Field(ge=0)
    verified: bool
    verification: str


class TilingAgreement(Part):
    """How far two answers to whole images agree that were computed with tiles at other places.

    Attributes:
        images: what they are, in words.
        tiles: that were computed a second time, on a grid moved by half a step.
        pixels: that these hold.
        flipped_ppm: pixels whose mask differs between the two grids, in parts per million, over all of them.
        worst_flipped_ppm: the same of the worst tile.
        dice: between the masks of both grids, over all pixels.
    """

    images: str
    tiles: int = Field(ge=1)
    pixels: int = Field(ge=1)
    flipped_ppm: float = Field(ge=0)
    worst_flipped_ppm: float = Field(ge=0)
    dice: float = Field(ge=0, le=1)


class SlideTiles(Part):
    """How slides are cut for the slide artefact, and what was measured of it at the export.

    Attributes:
        tile_px, halo_px: see `tiling.Grid`.
        window_px: side of the windows that the network's pools are.
        pools: how many global pools these stand for; 0 for a network that was trained with local ones.
        parity: the artefact against PyTorch with the same pools, each image in one piece.
        agreement: of two grids.
        whole_flipped_ppm: pixels that differ between the tiles' mask and that of PyTorch on the images in one piece.
        limit_ppm: flipped pixels that the certificate of a slide may show.
    """

    tile_px: int
    halo_px: int
    window_px: int
    pools: int = Field(ge=0)
    parity: Parity
    agreement: TilingAgreement
    whole_flipped_ppm: float = Field(ge=0)
    limit_ppm: float = Field(gt=0)

    @property
    def golden_px(self) -> int:
        """Side of the golden tile: half of a tile, a quarter of its file."""
        return self.tile_px // 2

    @property
    def grid(self) -> Grid:
        """The measures of a plan."""
        return Grid(self.tile_px, self.halo_px)

    @model_validator(mode="after")
    def _makes_a_grid(self) -> Self:
        try:
            _ = self.grid
        except ArgumentError as err:
            raise ValueError(str(err)) from err
        return self


_MODELS: Mapping[str, type[BaseModel]] = {
    "fp16": HalfPrecision,
    "bf16": Bf16Precision,
    "int8": Int8Precision,
    "gate": Gate,
    "gate-bf16": Gate,
    "gate-int8": Gate,
    "engine": EngineEntry,
    "slide": SlideTiles,
}
"""By role."""


def check_details(manifest: Manifest) -> None:
    """Refuse a manifest whose artefacts say of themselves what this version cannot read.

    Raises:
        BundleError: the first that does, by field.
    """
    for role, model in _MODELS.items():
        details_of(manifest, role, model)
