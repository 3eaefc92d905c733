"""`breastseg evaluate`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from breastseg_deploy.cli.backend import add_backend_arguments, open_segmenter, told_on_stderr
from breastseg_deploy.cli.command import Command, print_json
from breastseg_deploy.errors import ArgumentError, DataError
from breastseg_deploy.progress import Progress
from breastseg_deploy.storage import check_place, write_whole

if TYPE_CHECKING:
    from breastseg_train.data.dataset import Sample
    from breastseg_train.evaluate.evaluation import CellSplit, Predictor


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="CHECKPOINT|BUNDLE", help="a .safetensors file, the word demo, or a bundle")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder with SPLIT/images, SPLIT/masks")
    parser.add_argument("--splits", nargs="+", default=["test"], metavar="SPLIT", help="splits to evaluate on")
    parser.add_argument("--apart", metavar="PATTERN", help="also report the frames of such names apart, e.g. 'scc_*'")
    parser.add_argument("--panel", type=Path, metavar="FILE", help="draw the best, median and worst frame (PNG)")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write tables, calibration and frames (HTML)")
    parser.add_argument("--tta", action="store_true", help="average over seven views of each frame")
    add_backend_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")


def _run(arguments: argparse.Namespace) -> int:
    from breastseg_train.data.dataset import read_data_set
    from breastseg_train.evaluate.comparison import MODEL, compare
    from breastseg_train.evaluate.evaluation import summary
    from breastseg_train.evaluate.panel import best_median_worst, panel_png
    from breastseg_train.evaluate.prediction import seven_fold
    from breastseg_train.evaluate.report import report_html
    from breastseg_train.evaluate.table import COLUMNS, aligned, rows_of

    if arguments.gate and arguments.tta:
        raise ArgumentError("--gate was calibrated on frames seen once, so --tta cannot go with it; omit one")
    for place in filter(None, (arguments.panel, arguments.report)):
        check_place(place)  # before the work, of which nothing else would be left
    samples = read_data_set(arguments.data, arguments.splits).samples(arguments.splits)
    skips: list[bool] = []
    with _opened(arguments, samples, skips) as (described, predict, threshold, split):
        if arguments.tta:
            predict = seven_fold(predict)
        found = compare(predict, samples, threshold, arguments.data, split)
        figures, compared = found.figures, found.result
        gated = {"skipped_by_the_gate": sum(skips)} if arguments.gate else {}
        facts = {**described, **gated, "splits": arguments.splits, "tta": arguments.tta, "threshold": threshold}
        result = {**facts, **compared["compared"][MODEL], **compared}
        if arguments.apart is not None:
            result["apart"] = {arguments.apart: summary([f for f in figures if fnmatch(f.name, arguments.apart)])}
        by_name = {sample.name: sample for sample in samples}
        chosen = {called: (by_name[frame.name], frame.dice) for called, frame in best_median_worst(figures).items()}
        if arguments.panel is not None and not chosen:
            raise DataError(f"no frame of {', '.join(arguments.splits)} has cells to draw; omit --panel")
        drawn = arguments.panel is not None or arguments.report is not None
        with Progress("drawing the panel"):
            panel = panel_png(predict, chosen, threshold) if chosen and drawn else None
        if arguments.panel is not None and panel is not None:
            write_whole(arguments.panel, panel)
        if arguments.report is not None:
            told = {name: str(value) for name, value in facts.items()}
            page = report_html(f"Evaluation of {arguments.model}", told, compared, panel)
            write_whole(arguments.report, page.encode())
    if arguments.json:
        print_json(result)
    else:
        _print_table("all frames", result)
        if arguments.gate:
            print(f"  frames skipped by the empty-frame gate: {result['skipped_by_the_gate']}")
        for pattern, apart in result.get("apart", {}).items():
            _print_table(pattern, apart)
        print(aligned(("frames", "", *COLUMNS), rows_of(result)))
        print(f"expected calibration error: {result['calibration']['ece']:.4f} over all pixels")
    return 0


@contextmanager
def _opened(
    arguments: argparse.Namespace, samples: Sequence[Sample], skips: list[bool]
) -> Iterator[tuple[dict[str, Any], Predictor, float, CellSplit]]:
    """What is measured, as JSON tells it; its predictor, which adds to `skips` what a gate decides; its threshold; how
    its masks become cells.
    """
    from breastseg_deploy.bundle import MANIFEST, Bundle
    from breastseg_deploy.cell_choice import NOT_CHOSEN, parameters_for
    from breastseg_train.evaluate.evaluation import CellSplit
    from breastseg_train.network.checkpoint import DEMO, load_checkpoint

    path = Path(arguments.model)
    if (path / MANIFEST).is_file() or (path.is_dir() and arguments.model != DEMO):
        from breastseg_export.bundle_prediction import bundle_predictor, check_frame_sizes

        opened = Bundle.open(path, arguments.public_key)
        check_frame_sizes(samples, opened.manifest.frame.size_px)  # before an engine is built for minutes
        with told_on_stderr(), open_segmenter(opened, arguments) as segment:
            manifest, chosen = segment.manifest, segment.manifest.cells
            split = CellSplit(parameters_for(chosen), manifest.frame.pixel_size_um)
            described = {"bundle": str(path), "backend": segment.backend}
            described |= _cells_described(split, NOT_CHOSEN if chosen is None else chosen.chosen_on)
            yield described, bundle_predictor(segment, skips), manifest.threshold, split
        return
    if arguments.backend != "auto" or arguments.strict or arguments.gate or arguments.public_key is not None:
        raise ArgumentError(
            "--backend, --strict, --gate and --public-key are for bundles; a checkpoint runs in PyTorch: omit them"
        )

    from breastseg_train.run.experiment import experiment_predictor

    checkpoint, split = load_checkpoint(arguments.model), CellSplit()
    described = {"checkpoint": arguments.model, "backend": "pytorch", **_cells_described(split, NOT_CHOSEN)}
    yield described, experiment_predictor(checkpoint), checkpoint.threshold, split


def _cells_described(split: CellSplit, chosen_on: str) -> dict[str, Any]:
    return {"cell_parameters": split.parameters.model_dump(mode="json"), "cell_parameters_chosen_on": chosen_on}


def _print_table(title: str, result: dict[str, Any]) -> None:
    cells, empty, small = result["with_cells"], result["empty"], result["small_structures"]
    print(f"{title}: {result['frames']} frames, {cells['frames']} with cells")
    for name in ("dice", "iou", "precision", "recall", "surface_dice", "hd95_px"):
        spread = cells[name]
        if spread is not None:
            low, high = spread["ci95"]
            print(f"  {name:14} {spread['mean']:8.4f}   95 % interval {low:.4f} to {high:.4f}   (frames with cells)")
    if result["all"]["dice"] is not None:
        print(f"  {'dice':14} {result['all']['dice']['mean']:8.4f}   (all frames; an empty pair counts 1)")
    if empty["frames"]:
        print(
            f"  empty frames with predicted cells: {empty['false_positive_rate']:.1%} of {empty['frames']}, "
            f"{empty['mean_predicted_pixels']:.1f} px on average"
        )
    print(f"  small structures found: {small['found']} of {small['count']}")
    if result["cells"] is not None:
        from breastseg_deploy.cell_choice import CellFigures

        print(f"  {CellFigures(**result['cells']).in_words}")
    errors = dict(result["errors"])
    if wrong := errors.pop("wrong_pixels"):
        places = ", ".join(f"{place.replace('_', ' ')} {share:.0%}" for place, share in errors.items())
        print(f"  of {wrong} wrong pixels (places may overlap): {places}")


COMMAND = Command(
    "measure a checkpoint or a bundle on frames with known masks",
    _add_arguments,
    _run,
    loads=("breastseg_train.evaluate.prediction",),
    extra="train",
)
