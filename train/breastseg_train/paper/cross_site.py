"""Leave one source out: what a model is worth on a laboratory, microscope or tissue that it never saw.

The paper names validation over several institutions as future work; sources stand in for them here.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from breastseg_deploy.errors import DataError
from breastseg_deploy.storage import make_folder, write_whole
from breastseg_train.data.dataset import Sample, read_data_set
from breastseg_train.data.sources import MANIFEST, MOSAICS, sources
from breastseg_train.evaluate.evaluation import evaluate, summary
from breastseg_train.evaluate.frame_figures import FrameFigures
from breastseg_train.evaluate.otsu import otsu_predictors
from breastseg_train.network.checkpoint import load_checkpoint
from breastseg_train.paper.ablation import TABLE, TABLE_JSON, ablate
from breastseg_train.run.configuration import Configuration
from breastseg_train.run.experiment import experiment_predictor
from breastseg_train.run.module import THRESHOLD
from breastseg_train.run.run_folder import BEST

WITHIN, WITHOUT = "within", "without"
_VIEW = "data"


def cross_site(
    data_root: Path,
    output: Path,
    configurations: Sequence[Configuration],
    *,
    train_on: Sequence[str] = ("train",),
    validate_on: Sequence[str] = ("val",),
    test_on: Sequence[str] = ("test",),
    only: Sequence[str] = (),
    encoder_weights: Mapping[str, str] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Train with all sources and without each in turn; measure both on the frames of that source.

    Neither training nor validation sees a frame of the source that is left out. Finished runs stay, interrupted ones go
    on, see `ablation.ablate`.

    Args:
        data_root: see `data.read_data_set`; its manifest names the sources, see `sources`.
        output: holds a folder for the runs with all sources, one for those without each, and the table.
        configurations: what to train, in the order of the table's columns.
        train_on: splits to train on.
        validate_on: splits that choose each run's best checkpoint.
        test_on: splits that are measured, source by source.
        only: the sources to leave out in turn; all that have test frames by default.
        encoder_weights: see `ablation.ablate`.
        say: told about each step, in a sentence.

    Returns:
        One row per source: `source`, `otsu`, and `presets`, by name with `within` and `without`; each a summary, see
        `evaluation.summary`.

    Raises:
        DataError: fewer than two sources, or one of `only` that has no test frames.
        ArgumentError, OutputError, TrainingError: see `ablation.ablate`.
    """
    splits = [*train_on, *validate_on, *test_on]
    data = read_data_set(data_root, splits, max(c.crop_px for c in configurations))
    tested = data.samples(test_on)
    left_out = _sources_to_leave_out(data_root, tested, only)
    chosen = {"train_on": train_on, "validate_on": validate_on, "test_on": test_on}
    settings = {"encoder_weights": encoder_weights, "say": say}
    ablate(data_root, output / "all", configurations, **chosen, **settings)  # type: ignore[arg-type]
    within = {c.preset: _by_source(output / "all" / c.preset, data_root, tested) for c in configurations}
    rows = []
    for source in left_out:
        say(f"leaving out {source}")
        folder = output / f"without-{source}"
        kept = _view_without(source, data_root, folder / _VIEW, chosen)
        runs = ablate(folder / _VIEW, folder, configurations, **kept, **settings)  # type: ignore[arg-type]
        without = {row["preset"]: row["evaluation"] for row in runs}
        own = [s for s, named in zip(tested, sources(data_root, tested), strict=True) if named == source]
        otsu = next(iter(otsu_predictors(own).values()))
        rows.append(
            {
                "source": source,
                "otsu": summary(evaluate(otsu, own, THRESHOLD)),
                "presets": {
                    c.preset: {WITHIN: summary(within[c.preset][source]), WITHOUT: without[c.preset]}
                    for c in configurations
                },
            }
        )
        write_whole(output / TABLE_JSON, json.dumps(rows, indent=1).encode())
        write_whole(output / TABLE, cross_site_table(rows).encode())
    return rows


def cross_site_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of `cross_site` as a Markdown table; Dice over frames with cells with 95 % bootstrap intervals."""
    presets = list(rows[0]["presets"])
    header = ["source", "frames with cells", "Otsu, threshold of the frame"]
    header += [f"`{preset}`, {role} the source" for preset in presets for role in (WITHIN, WITHOUT)]
    lines = [header, ["---"] * len(header)]
    for row in rows:
        found = [row["otsu"], *(row["presets"][preset][role] for preset in presets for role in (WITHIN, WITHOUT))]
        lines.append([row["source"], str(row["otsu"]["with_cells"]["frames"]), *(_dice(one) for one in found)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _dice(found: Mapping[str, Any]) -> str:
    dice = found["with_cells"]["dice"]
    return "-" if dice is None else "{:.3f} ({:.3f} to {:.3f})".format(dice["mean"], *dice["ci95"])


def _sources_to_leave_out(data_root: Path, tested: Sequence[Sample], only: Sequence[str]) -> list[str]:
    known = sorted(set(sources(data_root, tested)) - {""})
    if len(known) < 2:
        raise DataError(
            f"leaving one source out needs test frames of two sources at least, got {', '.join(known) or 'none'}; name "
            f"them in {data_root / MANIFEST}, in the columns split, name and dataset"
        )
    if unknown := sorted(set(only) - set(known)):
        raise DataError(f"no test frame comes from {', '.join(unknown)}; choose from {', '.join(known)}")
    return [source for source in known if source in only or not only]


def _by_source(run: Path, data_root: Path, tested: Sequence[Sample]) -> dict[str, list[FrameFigures]]:
    """Figures of a run's best checkpoint on the test frames, by their source."""
    checkpoint = load_checkpoint(run / BEST)
    figures = evaluate(experiment_predictor(checkpoint), tested, checkpoint.threshold)
    found: dict[str, list[FrameFigures]] = {}
    for source, one in zip(sources(data_root, tested), figures, strict=True):
        found.setdefault(source, []).append(one)
    return found


def _view_without(
    source: str, data_root: Path, view: Path, roles: Mapping[str, Sequence[str]]
) -> dict[str, tuple[str, ...]]:
    """Lay out a data set of links: the source's frames to test on, all others to train and validate on.

    Returns:
        The splits that hold frames, by role.
    """
    shutil.rmtree(view, ignore_errors=True)  # links alone
    kept: dict[str, tuple[str, ...]] = {}
    for role, splits in roles.items():
        kept[role] = ()
        for split, samples in read_data_set(data_root, splits).splits.items():
            named = zip(samples, sources(data_root, samples), strict=True)
            wanted = [sample for sample, its in named if (its == source) == (role == "test_on")]
            _link(view / split, wanted)
            kept[role] += (split,) if wanted else ()
    for table in (MANIFEST, MOSAICS):
        if (data_root / table).is_file():
            (view / table).symlink_to((data_root / table).resolve())
    return kept


def _link(folder: Path, samples: Iterable[Sample]) -> None:
    for sample in samples:
        for kind, path in (("images", sample.image), ("masks", sample.mask)):
            make_folder(folder / kind)
            (folder / kind / path.name).symlink_to(path.resolve())
