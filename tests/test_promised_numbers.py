"""Every number that the paper, the README or the docs state, held to the code: one row each, with its source."""

# ruff: noqa: E501  # a table reads by its rows
from __future__ import annotations

import inspect
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from breastseg_deploy import (
    accounts,
    contract,
    drift,
    expected_width,
    fingerprint,
    gate,
    instance_metrics,
    instances,
    latency,
    manifest,
    metrics,
    progress,
    selftest,
    stream,
    verify,
    watch,
)
from breastseg_deploy.backends import fastest
from breastseg_deploy.cli import command, start
from breastseg_deploy.cli import watch as watch_command
from breastseg_deploy.cli.segment import EXIT_UNCERTIFIED
from breastseg_deploy.engines import build, request
from breastseg_deploy.errors import BreastsegError, MachineError, ParityError
from breastseg_deploy.fleet import ledger
from breastseg_deploy.gpu import pipeline
from breastseg_deploy.instances import DEFAULTS
from breastseg_deploy.io import open_slide
from breastseg_deploy.preprocess import gabor
from breastseg_deploy.segmenter import Segmenter
from breastseg_deploy.slide import certificate, foreground
from breastseg_deploy.slide.writers import ome_tiff, overview
from breastseg_deploy.stream import Stream
from breastseg_export import cells, named_frames, parity, runners
from breastseg_export.formats import format as candidates
from breastseg_export.formats import gate as gate_format
from breastseg_export.formats import int8
from breastseg_export.formats import slide as slide_format
from breastseg_export.precision import islands, ranges, sums
from breastseg_train.data import augment, import_frames, mask_statistics, sources, wide_augment
from breastseg_train.evaluate import error_analysis, evaluation, frame_figures, prediction
from breastseg_train.network import front, model
from breastseg_train.paper import ablation, active_learning, loss_variants
from breastseg_train.run import configuration, curves, loss, stabilise
from breastseg_train.run import gate as fitted_gate

BUDGETS = Path(__file__).resolve().parents[1] / "benchmarks" / "budgets.toml"
PAPER = configuration.PRESETS["paper"]
BANK = gabor.GaborParameters()


def patience(of: Any) -> Any:
    return inspect.signature(of).parameters["patience_s"].default


def weight(cells: int, border_share: int) -> float:
    """Sampling weight of a frame whose cells are of 100 px, or of 1 px where all of them are border."""
    area = 1 if border_share else 100
    return mask_statistics.MaskStatistics(
        512 * 512, cells * area, (area,) * cells, cells * area * border_share
    ).complexity


def limits(of: Any) -> tuple[float, float, float]:
    return of.worst_dice, of.mean_dice, of.dice_change


def measures_of_tiles() -> tuple[int, int]:
    """Tile and halo of a network for frames of 512 px, in pixels."""
    grid = slide_format.windows_for(512, None).grid
    return grid.tile_px, grid.halo_px


ALGORITHM_1 = [
    ("line 3, clamp of the logits", loss.LOGIT_LIMIT, 10.0),
    ("line 1, epsilon", loss.EPSILON, 1e-7),
    ("line 2, smoothing", loss.SMOOTH, 1.0),
    ("line 8, weight of false positives and false negatives", (loss.TVERSKY_FALSE_POSITIVE, loss.TVERSKY_FALSE_NEGATIVE), (0.7, 0.3)),
    ("line 21, largest positive weight", loss.MAX_POSITIVE_WEIGHT, 50.0),
    ("line 7, weights of Dice, cross entropy and Tversky", (loss.DICE_WEIGHT, loss.BCE_WEIGHT, loss.TVERSKY_WEIGHT), (0.5, 0.3, 0.2)),
]  # fmt: skip

PAPER_SECTION_III = [
    ("eq. (4), wavelengths", BANK.wavelengths_px, (4.0, 10.0, 20.0)),
    ("eq. (4), orientations", BANK.orientations, 8),
    ("eq. (4), sigma, gamma, psi; DC kept", (BANK.sigma_px, BANK.gamma, BANK.psi_rad, BANK.zero_mean), (5.0, 0.5, 0.0, False)),
    ("C, encoder", PAPER.encoder, "efficientnet-b7"),
    ("C, decoder channels", PAPER.decoder_channels, (256, 128, 64, 32, 16)),
    ("C, channels into the projection", front.INPUT_CHANNELS, 4),
    ("E, frames a step, accumulated", (PAPER.batch_size, PAPER.accumulation), (4, 2)),
    ("E, epochs", PAPER.epochs, 200),
    ("E, learning rate, its least, weight decay", (PAPER.lr_max, PAPER.lr_min, PAPER.weight_decay), (3e-4, 3e-7, 1e-4)),
    ("E, warm-up, clipping", (PAPER.warmup_share, PAPER.clip_norm), (0.1, 0.5)),
    ("F, eq. (6), alpha", stabilise.EMA_ALPHA, 0.9),
    ("G, factor for small structures", mask_statistics.SMALL_STRUCTURE_FACTOR, 1.5),
    ("H, elastic deformation, alpha and sigma", (augment.ELASTIC_ALPHA_PX, augment.ELASTIC_SIGMA_PX), (120.0, 9.0)),
    ("H, brightness and contrast", PAPER.brightness_contrast, 0.2),
    ("Fig. 2, lines", curves.TARGET_LINES, (0.94, 0.95)),
    ("Table II, Dice of its own model", ablation.PAPER_DICE["paper"], 0.955),
    ("IV, tiny structures", error_analysis.TINY_STRUCTURE_PX, 50),
    ("IV, views that are averaged", len(prediction.seven_views(np.zeros((8, 8, 3), np.uint8))), 7),
]  # fmt: skip

DECISIONS = [
    ("preprocessing: kernel", gabor.KERNEL_PX, 31),
    ("preprocessing: normalisation", (contract.IMAGENET_MEAN, contract.IMAGENET_STD), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))),
    ("preprocessing: multiple of both sides", contract.SIDE_MULTIPLE_PX, 32),
    ("training: width of the projection", front.PROJECTION_WIDTH, 16),
    ("training: reduction in SCSE", model.SCSE_REDUCTION, 16),
    ("training: outlier, robust deviations", stabilise.OUTLIER_DEVIATIONS, 3.0),
    ("training: outlier, window, least, floor", (stabilise.RECENT_EPOCHS, stabilise.MIN_RECENT_EPOCHS, stabilise.MIN_SD), (10, 5, 0.002)),
    ("training: robust deviation of a median distance", stabilise.MAD_TO_SD, 1.4826),
    ("training: small structures", mask_statistics.SMALL_STRUCTURE_PX, 100),
    ("training: weight of a frame with 25 whole cells, with 50 of nothing but border under 100 px", (weight(25, 0), weight(50, 1)), (1.5, 3.0)),
    ("training: factor of the boundary-aware loss", loss_variants.BOUNDARY_FACTOR, 3.0),
    ("training: half of the crops on a cell", augment.CELL_PATCH_SHARE, 0.5),
    ("training: labels of active learning", active_learning.LABELLED_SHARE, 0.5),
    ("evaluation: low contrast, window", (error_analysis.LOW_CONTRAST, error_analysis.CONTRAST_WINDOW_PX), (5 / 255, 31)),
    ("evaluation: surface Dice, tolerance", metrics.BOUNDARY_TOLERANCE_PX, 3),
    ("evaluation: Hausdorff percentile", frame_figures.HAUSDORFF_PERCENTILE, 95),
    ("evaluation: intervals", (evaluation.CONFIDENCE, evaluation.BOOTSTRAP_ROUNDS), (0.95, 2000)),
]  # fmt: skip

PROMISES = [
    ("bundle.md: float32 worst, mean, change", limits(parity.FP32_LIMITS), (0.9999, 0.9999, 0.001)),
    ("bundle.md: float16 worst, mean, change", limits(parity.FP16_LIMITS), (0.99, 0.999, 0.001)),
    ("bundle.md: bfloat16 worst, mean, change", limits(parity.BF16_LIMITS), (0.99, 0.999, 0.001)),
    ("bundle.md: float16 sums, hardest frames", islands.SEARCH_FRAMES, 3),
    ("bundle.md: sets of islands that are tried on all frames", candidates.ATTEMPTS, 3),
    ("bundle.md: schema of a manifest", manifest.SCHEMA_VERSION, 3),
    ("bundle.md: float16 sums worst, mean, change", limits(parity.FLOAT16_SUMS_LIMITS), (0.99, 0.99, 0.01)),
    ("bundle.md: float16 sums, products between two roundings", sums.PRODUCTS, 16),
    ("bundle.md: INT8 worst, mean, change", limits(parity.INT8_LIMITS), (0.97, 0.99, 0.002)),
    ("bundle.md: edge channel against float64", runners._EDGE_TOLERANCE, 1e-5),
    ("bundle.md: islands, share of the allowed error", islands.halved(parity.FP16_LIMITS).mean_dice, 0.9995),
    ("bundle.md: islands, largest share in float32", islands.LARGEST_SHARE, 0.5),
    ("bundle.md: islands, margin of a range", ranges.MARGIN, 8.0),
    ("bundle.md: frames with cells that judge a change", verify.LEAST_JUDGED, 8),
    ("bundle.md: phantoms", named_frames.PHANTOM_COUNT, 10),
    ("cells.md: defaults", (DEFAULTS.neck, DEFAULTS.depth, DEFAULTS.least_area, DEFAULTS.least_piece, DEFAULTS.largest_hole, DEFAULTS.unit), (0.95, 0.4, 30, 60, 10, "px")),
    ("cells.md: probability of a distance map of its own", instances.SURE, 0.9),
    ("cells.md: largest box", instances.LARGEST_BOX_PX, 4096 * 4096),
    ("cells.md: the grid", (cells.NECKS, cells.LEAST_PIECES_PX, cells.LARGEST_HOLES_PX), ((0.8, 0.9, 0.95, 0.97), (30, 60, 120), (0, 10, 100))),
    ("cells.md: what the watershed may lose on a source", cells.LARGEST_LOSS, 0.02),
    ("cells.md: least IoU, least area, close pairs", (instance_metrics.LEAST_IOU, instance_metrics.LEAST_AREA_PX, instance_metrics.CLOSE_PX), (0.5, 30, 3)),
    ("gate.md: recall", fitted_gate.RECALL, 0.995),
    ("gate.md: margin of a score", gate_format.SCORE_MARGIN, 1e-3),
    ("gate.md: chance under which a promise is contradicted", gate.LEAST_CHANCE, 0.01),
    ("int8.md: frames to calibrate on", int8.LEAST_CALIBRATION_FRAMES, 32),
    ("int8.md: a golden against its Dice at the export", selftest.GOLDEN_SLACK, 0.005),
    ("int8.md: largest weight of 7 bits", int8._LARGEST_WEIGHT, 64),
    ("drift.md: frames of a window, standard errors", (drift.WINDOW_FRAMES, drift.LIMIT), (32, 4.0)),
    ("drift.md: frames of a fingerprint, of a scale", (fingerprint.LEAST_FRAMES, expected_width.LEAST_FRAMES), (16, 100)),
    ("streams.md: seconds of patience, of closing, of last steps", (patience(Stream), patience(Segmenter.stream), stream.CLOSE_S, stream._LAST_STEPS_S), (60.0, 60.0, 10.0, 0.5)),
    ("streams.md: reports that wait", accounts.MOST_REPORTS, 1000),
    ("streams.md: growth of a bucket of latencies", latency._GROWTH, 1.05),
    ("streams.md: seconds between looks, until unreadable, until a mask is tried again, between counters", (watch.POLL_S, watch.SETTLE_S, watch.RETRY_S, watch_command._EVERY_S), (0.5, 5.0, 10.0, 10.0)),
    ("streams.md: quantiles of a latency, counters that hold it", (latency.QUANTILES, latency._BUCKETS), ((0.5, 0.95, 0.99), 500)),
    ("fleets.md: deaths of its workers that set an input aside", ledger.DEATHS, 5),
    ("gpu.md: batch sizes, of the pipeline and of a plan", (pipeline.MAX_BATCH, request.MAX_BATCH), (8, 8)),
    ("gpu.md: workspace and optimisation level of a build", (request.WORKSPACE_BYTES, build._THOROUGH), (2**30, 5)),
    ("cli.md: seconds until a step says so, between two lines", (progress.FIRST_S, progress.EVERY_S), (5.0, 10.0)),
    ("cli.md: exit codes 1, 2, 3, 4, 130, 143", (BreastsegError.exit_code, command.EXIT_USAGE, ParityError.exit_code, MachineError.exit_code, *(code for _, code in start._ENDS.values())), (1, 2, 3, 4, 130, 143)),
    ("training.md: proportions of the splits", tuple(import_frames.PROPORTIONS.values()), (599, 130, 100)),
    ("training.md: scale and share of empty frames of the wide augmentation", (wide_augment.SCALE, sources.EMPTY_SHARE), ((0.5, 2.0), 0.15)),
    ("architecture.md: rounds and seconds of the choice on a CPU", (fastest.ROUNDS, fastest.BUDGET_S), (5, 8.0)),
]  # fmt: skip

SLIDES = [
    ("share of the tiles and least number that the certificate computes", (certificate.SHARE, certificate.LEAST_TILES), (0.02, 16)),
    ("grey levels that an empty tile varies by", foreground.LARGEST_RANGE, 3),
    ("pixels of the picture: of the slide in one, least on its longest side", (foreground.LARGEST_FACTOR, foreground.LEAST_PX), (32, 1024)),
    ("level under which an overview outlines cells, side of a tile in a file", (overview.OUTLINED_BELOW, ome_tiff.TILE_PX), (3.0, 512)),
    ("exit code over the certificate's limit", EXIT_UNCERTIFIED, 3),
    ("pixel sizes that count as the same", open_slide.SAME_PIXEL_SIZE, 0.01),
    ("widest window, and what the halo reaches beyond half of it", (slide_format.LARGEST_WINDOW_PX, slide_format.LARGEST_REACH_PX), (512, 128)),
    ("tile and halo for frames of 512 px", measures_of_tiles(), (1536, 384)),
    ("change of Dice by local pools", slide_format.LIMITS.dice_change, 0.002),
    ("limits of flipped pixels, and how often what the export found", (slide_format.LEAST_LIMIT_PPM, slide_format.LARGEST_LIMIT_PPM, slide_format.SLACK), (100.0, 3000.0, 3)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("found", "promised"),
    [
        pytest.param(found, promised, id=f"{source}: {what}")
        for source, rows in (
            ("Algorithm 1", ALGORITHM_1),
            ("paper, section III", PAPER_SECTION_III),
            ("docs/decisions", DECISIONS),
            ("docs", PROMISES),
            ("docs/slides.md", SLIDES),
        )
        for what, found, promised in rows
    ],
)
def test_the_code_keeps_the_promised_number(found: object, promised: object) -> None:
    assert found == promised


@pytest.mark.parametrize(
    ("name", "key", "promised"),
    [
        ("resident memory", "at_most", 4.2),  # the paper, section IV
        ("time against the paper's pipeline: openvino", "at_most", 0.40),  # README
        ("edge channel by FFT", "at_least", 3.0),  # README
    ],
)
def test_the_budget_is_the_promised_one(name: str, key: str, promised: float) -> None:
    (budget,) = [one for one in tomllib.loads(BUDGETS.read_text())["budget"] if one["name"] == name]
    assert budget[key] == promised
