"""`slide`: the network for tiles of a slide, whose pools are local windows so that a pixel's answer is its own.

A global pool makes each pixel's answer depend on the whole tile, and so on where the grid of tiles lies. Here the pools
of squeeze-and-excitation and of SCSE become means over a window, without any training (test-time local converter, arXiv
2112.04491), as wide as the frames. A network that was trained with local pools keeps its own windows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from breastseg_deploy.artefacts import SlideTiles, TilingAgreement
from breastseg_deploy.bundle import SLIDE, SLIDE_GOLDEN, SLIDE_NETWORK, TENSOR, Golden, golden_bytes
from breastseg_deploy.errors import ArgumentError, ParityError
from breastseg_deploy.manifest import Parity, ParityLimits
from breastseg_deploy.metrics import flipped_ppm
from breastseg_deploy.preprocess.tensor import network_input
from breastseg_deploy.progress import Progress
from breastseg_deploy.slide.agreement import added, agreement, answered_elsewhere
from breastseg_deploy.slide.tile_input import ReadRgb, tile_input
from breastseg_deploy.tiling import Box, Grid, Plan, Tile
from breastseg_export.formats.format import PROBABILITY_SPEC, TENSOR_SPEC, ArtefactNotes, Candidate, Work
from breastseg_export.graph import export_tile_network, global_pools
from breastseg_export.named_frames import NamedFrame, NamedFrames
from breastseg_export.parity import FP32_LIMITS, Compared, ParityRun, failures, frame_parity, stricter, summary
from breastseg_export.runners import Frame, Probability, reference, session
from breastseg_train.network.local_pools import CELL_PX, pool_locally, squeeze_locally
from breastseg_train.network.model import SegmentationModel

Infer = Callable[[NDArray[np.float32]], Probability]
"""Tensor (1, 4, H, W) to probability (H, W)."""

LARGEST_WINDOW_PX = 512
LARGEST_REACH_PX = 128
AGAINST = "ONNX Runtime against the global pools"
LIMITS = ParityLimits(worst_dice=0.0, mean_dice=0.0, dice_change=0.002)
"""Against the global pools. Masks may differ; what counts is the truth, so `dice_change` is held where there is one."""
UNHELD = LIMITS.model_copy(update={"dice_change": 1.0})
"""On phantoms, which are no evidence of what local pools cost."""
LEAST_LIMIT_PPM, LARGEST_LIMIT_PPM = 100.0, 3000.0
"""A slide may flip three times what the export found on frames, within these. Phantoms prove nothing about tissue: an
export on them states the larger one."""
SLACK = 3


@dataclass(frozen=True)
class Windows:
    """What the pools of a slide artefact become, and the tiles that go with it."""

    window_px: int
    grid: Grid


def windows_for(size_px: int, trained_px: int | None) -> Windows:
    """The windows and tiles of a network for frames of `size_px`, trained with windows of `trained_px` if any.

    Smaller windows find cells on empty frames, even where SCSE alone pools (docs/LOG.md).

    The halo holds half a window and what the convolutions see besides; a tile keeps half of each side, so that a pixel
    is computed four times. Of the measures that were tried (docs/LOG.md), none agreed better at that cost.
    """
    cell = 2 * CELL_PX
    window = trained_px or min(LARGEST_WINDOW_PX, -(-size_px // cell) * cell)
    halo = window // 2 + min(LARGEST_REACH_PX, -(-size_px // 4 // CELL_PX) * CELL_PX)
    return Windows(window, Grid(4 * halo, halo))


def with_local_pools(model: SegmentationModel, window_px: int) -> tuple[SegmentationModel, int]:
    """A copy of a model whose global pools are windows, and how many were replaced."""
    local = copy.deepcopy(model).eval()
    pools = squeeze_locally(local.unet.encoder, window_px)
    if model.architecture.pool_window_px is None:
        pools += pool_locally(local.unet.decoder, window_px)
    return local, pools


class Slide:
    """See the module; a `Format`."""

    after_parity = False

    def check(self, frames: NamedFrames) -> None:
        """Nothing that could be wrong."""

    def make(self, work: Work) -> Candidate:
        """The network with local pools. How far two grids agree is measured after parity, on frames laid out large.

        Raises:
            ArgumentError: the network pools globally in a way that this version cannot replace.
        """
        model = work.checkpoint.model
        windows = windows_for(work.settings.size_px, model.architecture.pool_window_px)
        local, pools = with_local_pools(model, windows.window_px)
        with Progress("tracing the slide artefact"):
            graph = export_tile_network(local)
        refuse_global_pools(graph)
        infer = tiles_in_onnxruntime(graph)
        trial = _Trial(work, windows, local, pools, infer)

        def run(frame: Frame) -> Probability:
            return infer(network_input(frame[np.newaxis], work.gabor))

        return Candidate(
            SLIDE,
            {SLIDE_NETWORK: graph.SerializeToString, SLIDE_GOLDEN: trial.golden},
            (TENSOR_SPEC,),
            (PROBABILITY_SPEC,),
            (Compared(SLIDE_NETWORK, AGAINST, run, UNHELD if work.frames.are_phantoms else LIMITS),),
            trial.notes,
            advice="--no-slide exports without the slide artefact",
        )


def refuse_global_pools(graph: onnx.ModelProto) -> None:
    """Refuse a network that still pools over whole tiles.

    Raises:
        ArgumentError: it does, in a way that this version cannot replace.
    """
    if left := global_pools(graph):
        raise ArgumentError(
            f"the network pools over whole tiles at {left[0]}, so that masks of slides would depend on where tiles "
            "lie, and this version cannot replace that pool; export with --no-slide"
        )


def tiles_in_onnxruntime(graph: onnx.ModelProto) -> Infer:
    """The exported network in ONNX Runtime."""
    onnx_session = session(graph)

    def infer(tensor: NDArray[np.float32]) -> Probability:
        return np.asarray(onnx_session.run(None, {TENSOR: tensor})[0][0, 0])

    return infer


@dataclass
class _Trial:
    """The artefact on an image larger than a tile: against PyTorch with the same pools, and against itself."""

    work: Work
    windows: Windows
    local: SegmentationModel
    pools: int
    infer: Infer
    _golden: bytes = b""

    def golden(self) -> bytes:
        """The golden tile's file; it is there once `notes` has run."""
        return self._golden

    def notes(self, run: ParityRun) -> ArtefactNotes:
        """See `SlideTiles`.

        Raises:
            ParityError: on a tile, the artefact is not what PyTorch gives with the same pools.
        """
        side = self.windows.grid.tile_px
        image, of = self._image(run)
        tile = np.ascontiguousarray(image[: side // 2, : side // 2])
        with Progress("slide artefact: grids against each other and one piece"):
            parity = self._parity(tile)
            agreement, tiled = self._agreement(image, of)
            whole = reference(self.local)(image) >= self.work.checkpoint.threshold
        details = SlideTiles(
            tile_px=side,
            halo_px=self.windows.grid.halo_px,
            window_px=self.windows.window_px,
            pools=self.pools,
            parity=parity,
            agreement=agreement,
            whole_flipped_ppm=flipped_ppm(tiled, whole),
            limit_ppm=self._limit_ppm(agreement),
        )
        return ArtefactNotes(details, slide_facts(details))

    def _limit_ppm(self, agreement: TilingAgreement) -> float:
        if self.work.frames.are_phantoms:
            return LARGEST_LIMIT_PPM
        return min(LARGEST_LIMIT_PPM, max(LEAST_LIMIT_PPM, SLACK * agreement.flipped_ppm))

    def _image(self, run: ParityRun) -> tuple[Frame, str]:
        """An image that needs several tiles, of frames with cells where there are any; and what it is."""
        grid, given = self.windows.grid, self.work.frames
        with_cells = {figures.name for figures in next(iter(run.figures.values())) if figures.with_cells}
        needed = grid.tile_px, grid.tile_px + grid.step_px
        if min(self.work.size_px) >= needed[1]:
            tile = next((one for one in given if one.name in with_cells), given[0])
            return tile.frame, f"the frame {tile.name} of {given.description}"
        # Frames are smaller than a tile: laid side by side they give an image that takes two.
        down, right = (-(-side // self.work.settings.size_px) for side in needed)
        chosen = [one.frame for one in given if one.name in with_cells or not with_cells][: down * right]
        frames = [chosen[number % len(chosen)] for number in range(down * right)]
        rows = [np.concatenate(frames[row * right : (row + 1) * right], axis=1) for row in range(down)]
        image = np.concatenate(rows)[: needed[0], : needed[1]]
        return np.ascontiguousarray(image), f"{needed[0]} x {needed[1]} px of frames side by side: {given.description}"

    def _parity(self, tile: Frame) -> Parity:
        """The golden tile: ONNX Runtime against PyTorch with the same pools."""
        threshold, limits = self.work.checkpoint.threshold, stricter(FP32_LIMITS, self.work.settings.min_dice)
        expected = reference(self.local)(tile)
        found = self.infer(network_input(tile[np.newaxis], self.work.gabor))
        figures = frame_parity(NamedFrame("the golden tile", tile, None), expected, found, threshold)
        parity = summary("ONNX Runtime", limits, [figures])
        if missed := failures({f"{SLIDE_NETWORK} in ONNX Runtime": parity}):
            raise ParityError(f"{'; '.join(missed)}; no bundle was written: --no-slide exports without it")
        mask = (expected >= threshold).astype(np.uint8)
        self._golden = golden_bytes(Golden(SLIDE_GOLDEN, tile, expected, mask))
        return parity

    def _agreement(self, image: Frame, of: str) -> tuple[TilingAgreement, NDArray[np.uint8]]:
        """Two grids on one image, and the mask by the first of them."""
        size_px, grid = image.shape[:2], self.windows.grid
        answers: dict[Box, NDArray[np.bool_]] = {}  # both grids share the tiles at the image's borders

        def core(tile: Tile) -> NDArray[np.bool_]:
            if tile.seen not in answers:
                tensor = tile_input(_reader(image), size_px, tile.seen, self.work.gabor)
                answers[tile.seen] = self.infer(tensor) >= self.work.checkpoint.threshold
            return tile.kept(answers[tile.seen])

        tiled, plan, found = np.zeros(size_px, np.uint8), Plan(size_px, grid), []
        for tile in plan:
            tile.core.of(tiled)[:] = core(tile)
        for tile in Plan(size_px, grid, moved=True):
            compared = answered_elsewhere(plan, tile)
            found.append(agreement(tile.core.of(tiled)[compared], core(tile)[compared].astype(np.uint8)))
        total = added(found)
        worst = max(one.flipped_ppm for one in found)
        between_grids = TilingAgreement(
            images=of,
            tiles=len(found),
            pixels=total.pixels,
            flipped_ppm=total.flipped_ppm,
            worst_flipped_ppm=worst,
            dice=total.dice,
        )
        return between_grids, tiled


def _reader(image: Frame) -> ReadRgb:
    return lambda top, left, height, width: image[top : top + height, left : left + width]


def slide_facts(tiles: SlideTiles) -> tuple[tuple[str, str], ...]:
    """What report and `breastseg inspect` say of it."""
    held = tiles.agreement
    grids = f"{held.flipped_ppm:.0f} ppm flipped between two, {tiles.whole_flipped_ppm:.0f} ppm to one piece"
    over = "" if held.flipped_ppm <= tiles.limit_ppm else "; not certified: the export itself lies over it"
    return (
        ("slide tiles", f"{tiles.tile_px} px with a halo of {tiles.halo_px} px"),
        ("slide pools", f"windows of {tiles.window_px} px; {tiles.pools} global pools were replaced"),
        ("slide grids", f"{grids}, on {held.images}"),
        ("slide limit", f"{tiles.limit_ppm:.0f} ppm{over}"),
    )
