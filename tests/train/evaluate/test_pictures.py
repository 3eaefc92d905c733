"""The training curves and the qualitative panel."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from breastseg_train.data.dataset import read_data_set
from breastseg_train.evaluate.evaluation import evaluate
from breastseg_train.evaluate.frame_figures import frame_figures
from breastseg_train.evaluate.panel import (
    FALSE_NEGATIVE_RGB,
    FALSE_POSITIVE_RGB,
    HIT_RGB,
    best_median_worst,
    error_map,
    panel_png,
)
from breastseg_train.run.curves import comparison_png, curves_png

DARK = np.zeros((32, 32, 3), np.uint8)


def decoded(png: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR_RGB)


def row(epoch: int, dice: float, outlier: int) -> dict[str, float]:
    names = ("train_loss", "val_loss", "val_dice", "val_dice_with_cells", "val_dice_ema", "val_iou_with_cells")
    return {"epoch": epoch, "outlier": outlier, **dict.fromkeys(names, dice)}


def red_pixels(picture: np.ndarray) -> int:
    """Pixels of the colour that rings outliers (matplotlib's tab:red)."""
    return int((np.abs(picture.astype(int) - (214, 39, 40)).max(axis=2) < 12).sum())


def test_the_curves_ring_outliers_and_nothing_else() -> None:
    rows = [row(1, 0.5, 0), row(2, 0.6, 0), row(3, 0.1, 1)]
    without = [{**each, "outlier": 0} for each in rows]
    assert red_pixels(decoded(curves_png(rows))) > 20
    assert red_pixels(decoded(curves_png(without))) == 0


def test_curves_of_a_single_epoch_are_a_picture() -> None:
    assert decoded(curves_png([row(1, 0.5, 0)])).std() > 0


def test_errors_are_red_where_false_and_blue_where_missed() -> None:
    mask, truth = np.array([[1, 1], [0, 0]], np.uint8), np.array([[1, 0], [1, 0]], np.uint8)
    picture = error_map(mask, truth)
    assert tuple(picture[0, 0]) == HIT_RGB
    assert tuple(picture[0, 1]) == FALSE_POSITIVE_RGB
    assert tuple(picture[1, 0]) == FALSE_NEGATIVE_RGB
    assert tuple(picture[1, 1]) == (0, 0, 0)


def test_best_median_and_worst_are_chosen_among_frames_with_cells() -> None:
    truth, empty = np.zeros((32, 32), np.uint8), np.zeros((32, 32), np.uint8)
    truth[8:24, 8:24] = 1
    figures = [frame_figures("empty", DARK, empty, empty)]
    for rows_kept in (4, 16, 10):
        mask = truth.copy()
        mask[8 + rows_kept :] = 0
        figures.append(frame_figures(f"keeps {rows_kept}", DARK, mask, truth))
    chosen = {called: frame.name for called, frame in best_median_worst(figures).items()}
    assert chosen == {"best": "keeps 16", "median": "keeps 10", "worst": "keeps 4"}


def test_no_frame_with_cells_means_no_rows() -> None:
    empty = np.zeros((32, 32), np.uint8)
    assert best_median_worst([frame_figures("empty", DARK, empty, empty)]) == {}


def test_the_panel_shows_missed_cells_in_blue(data_root: Path) -> None:
    samples = read_data_set(data_root, ["test"]).splits["test"]

    def blind(frames: np.ndarray) -> np.ndarray:
        return np.zeros(frames.shape[:3], np.float32)

    dice = {figures.name: figures.dice for figures in evaluate(blind, samples, 0.5)}
    picture = decoded(panel_png(blind, {"worst": (samples[0], dice[samples[0].name])}, 0.5))
    blue = np.abs(picture.astype(int) - FALSE_NEGATIVE_RGB).max(axis=2) < 12
    assert blue.mean() > 0.005


def test_the_eleventh_run_side_by_side_does_not_look_like_the_first() -> None:
    """Matplotlib's own colours start again after ten."""

    def drawn(high: int) -> np.ndarray:
        """The part of the picture above all runs but one."""
        heights = [0.8 if number == high else 0.1 for number in range(11)]
        runs = {f"run {number}": [row(1, dice, 0), row(2, dice, 0)] for number, dice in enumerate(heights)}
        return decoded(comparison_png(runs))[80:180].astype(int)

    assert np.abs(drawn(0) - drawn(10)).max() > 100
