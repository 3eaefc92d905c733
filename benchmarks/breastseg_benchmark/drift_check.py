"""`python -m breastseg_benchmark.drift_check BUNDLE DATA STAINED MEASURES`: what the drift watch finds on real frames.

DATA has SPLIT/images, STAINED the same in H&E. The fingerprint comes from the splits train, the limit was
chosen on val, windows are of test. Measures go to the file MEASURES, and are taken from it where it has them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from breastseg_deploy.drift import LIMIT, WINDOW_FRAMES, outside
from breastseg_deploy.errors import DataError
from breastseg_deploy.extras import require
from breastseg_deploy.fingerprint import Fingerprint, fingerprint, measure, noise_sigma
from breastseg_deploy.io.images import FrameFile, find_frames, read_frame
from breastseg_deploy.progress import followed
from breastseg_deploy.segmenter import Segmenter
from breastseg_deploy.storage import write_whole

Frame = NDArray[np.uint8]
Change = Callable[[Frame], Frame]

CALIBRATION, LIMITS, HELD_BACK = ("train", "train_extra"), ("val", "val_extra"), ("test", "test_extra")
SOURCES = ("aits", "bbbc039", "coelho_gnf", "coelho_ic100", "scc_human", "scc_mouse")
WINDOWS = 1000
PLAIN = "as they are"
Known = dict[str, list[dict[str, Any]]]
"""Measures with the frame's name, by set."""


def blurred(frame: Frame, sigma_px: float) -> Frame:
    return np.asarray(require("cv2", "cpu").GaussianBlur(frame, (0, 0), sigma_px), np.uint8)


def gained(frame: Frame, gain: float) -> Frame:
    return np.asarray(np.clip(np.rint(frame * gain), 0, 255), np.uint8)


def nearer(frame: Frame) -> Frame:
    """Pixels 1.5 times smaller than they ought to be; the noise is that of the frame, as a camera's would be."""
    cv2 = require("cv2", "cpu")
    rows, columns = (round(side / 6) for side in frame.shape)
    inner = frame[rows : frame.shape[0] - rows, columns : frame.shape[1] - columns]
    return _with_noise_of(frame, cv2.resize(inner, frame.shape[::-1], interpolation=cv2.INTER_CUBIC))


def farther(frame: Frame) -> Frame:
    """Pixels 1.5 times larger; the frame's mirror images stand for what lies around it."""
    cv2 = require("cv2", "cpu")
    rows, columns = (round(side / 1.5) for side in frame.shape)
    small = cv2.resize(frame, (columns, rows), interpolation=cv2.INTER_AREA)
    top, left = (frame.shape[0] - rows) // 2, (frame.shape[1] - columns) // 2
    border = (top, frame.shape[0] - rows - top, left, frame.shape[1] - columns - left)
    return _with_noise_of(frame, cv2.copyMakeBorder(small, *border, cv2.BORDER_REFLECT))


def noisy(frame: Frame, sigma: float) -> Frame:
    made = np.random.default_rng(frame.size).normal(0, sigma, frame.shape)
    return np.clip(np.rint(frame + made), 0, 255).astype(np.uint8)


def _with_noise_of(original: Frame, frame: Frame) -> Frame:
    lost = noise_sigma(original) ** 2 - noise_sigma(frame) ** 2
    return noisy(frame, float(np.sqrt(max(lost, 0.0))))


CHANGES: Mapping[str, Change] = {
    PLAIN: lambda frame: frame,
    "blur, sigma 2 px": lambda frame: blurred(frame, 2),
    "gain 0.5": lambda frame: gained(frame, 0.5),
    "gain 2": lambda frame: gained(frame, 2),
    "10 bits taken for 12": lambda frame: gained(frame, 1023 / 4095),
    "12 bits taken for 16": lambda frame: gained(frame, 4095 / 65535),
    "inverted": lambda frame: np.asarray(255 - frame, np.uint8),
    "pixels 1.5 times smaller": nearer,
    "pixels 1.5 times larger": farther,
    "blur, sigma 1 px": lambda frame: blurred(frame, 1),
    "gain 0.8": lambda frame: gained(frame, 0.8),
    "offset of 10 grey values": lambda frame: np.clip(frame.astype(int) + 10, 0, 255).astype(np.uint8),
    "noise, sigma 5 grey values": lambda frame: noisy(frame, 5),
    "turned by 90 degrees": lambda frame: np.ascontiguousarray(np.rot90(frame)),
}
STAINED, STAINED_GREY = "H&E", "H&E, one channel"


def measured(
    segment: Segmenter, files: Sequence[FrameFile], what: str, change: Change, *, grey: bool = True
) -> list[dict[str, Any]]:
    """The measures of each frame with its name; smaller frames are filled up by their mirror image."""
    found: list[dict[str, Any]] = []
    for file in followed(files, what, "frames"):
        frame = read_frame(file.path)
        height, width = segment.manifest.frame.size_px
        rows, columns = max(0, height - frame.shape[0]), max(0, width - frame.shape[1])
        around = [(rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2), (0, 0)]
        frame = np.pad(frame, around[: frame.ndim], mode="symmetric")
        if grey and frame.ndim == 3:
            frame = np.asarray(np.rint(frame @ np.array([0.299, 0.587, 0.114])), np.uint8)
        frame = change(frame)
        answer = segment(frame)
        found.append({"name": file.name, **measure(frame, answer.mask, answer.probability)})
    return found


def sets(data: Path, stained: Path) -> Iterator[tuple[str, list[FrameFile], Change, bool]]:
    """Name, frames, what is done to them, and whether they are made grey, of each set of measures."""
    calibration, limits, held_back = (
        find_frames([data / split for split in splits]) for splits in (CALIBRATION, LIMITS, HELD_BACK)
    )
    he = find_frames([stained / split for split in ("train", "val", "test")])
    yield "val", limits, CHANGES[PLAIN], True
    yield STAINED, he, CHANGES[PLAIN], False
    yield STAINED_GREY, he, CHANGES[PLAIN], True
    for what, change in CHANGES.items():
        yield what, held_back, change, True
        if what == PLAIN:  # early, because all else is compared with it
            yield "train", calibration, change, True


def windows_outside(
    against: Fingerprint, frames: Sequence[Mapping[str, Any]], limit: float, size: int = WINDOW_FRAMES
) -> tuple[float, dict[str, float]]:
    """Share of windows with any feature outside the limits, and for each feature the share outside; seeded draws."""
    draws = np.random.default_rng(0)
    counts = dict.fromkeys(against.spreads, 0)
    any_of_them = 0
    for _ in range(WINDOWS):
        chosen = draws.choice(len(frames), size, replace=len(frames) < size)
        found = outside(against, [frames[one] for one in chosen], limit)
        any_of_them += bool(found)
        for drift in found:
            counts[drift.feature] += 1
    return any_of_them / WINDOWS, {name: count / WINDOWS for name, count in counts.items()}


SOURCE_WINDOW = 16
LIMITS_TRIED = (3.0, 3.5, 4.0, 4.5, 5.0)


def limits_table(known: Known) -> list[str]:
    """False alarms on the frames that the limit is chosen on, for each limit that was tried: all sources, and one."""
    lines = ["| standard errors | windows of val outside | one source at a time: mean (range) |", "|---|---|---|"]
    against = _fingerprint(known["train"])
    for limit in LIMITS_TRIED:
        share, _ = windows_outside(against, known["val"], limit)
        lines.append(f"| {limit} | {share:.1%} | {_one_at_a_time(known, 'val', limit)} |")
    return lines


def changes_table(known: Known) -> list[str]:
    """For each change the share of windows that are outside, and by which features."""
    against = _fingerprint(known["train"])
    lines = [f"| frames | windows of {WINDOW_FRAMES} outside | by | one source at a time |", "|---|---|---|---|"]
    for what in (*CHANGES, STAINED, STAINED_GREY):
        share, by = windows_outside(against, known[what], LIMIT)
        named = sorted((name for name in by if by[name] >= 0.05), key=lambda name: -by[name])
        told = ", ".join(f"{name} {by[name]:.0%}" for name in named[:4]) or "-"
        apart = _one_at_a_time(known, what, LIMIT) if what in CHANGES else "-"
        lines.append(f"| {what} | {share:.1%} | {told} | {apart} |")
    return lines


def sources_table(known: Known) -> list[str]:
    """For each source: its frames, false alarms, and what a wrong pixel size makes of it."""
    columns = (PLAIN, "pixels 1.5 times smaller", "pixels 1.5 times larger")
    lines = [f"| source | frames of train, of test | {' | '.join(columns)} |", "|---|---|---|---|---|"]
    for source in SOURCES:
        shares = [_outside_in(known, what, source, LIMIT) for what in columns]
        counts = [sum(source in one["name"] for one in known[what]) for what in ("train", PLAIN)]
        lines.append(f"| {source} | {counts[0]}, {counts[1]} | {' | '.join(f'{share:.1%}' for share in shares)} |")
    return lines


def _one_at_a_time(known: Known, what: str, limit: float) -> str:
    shares = [_outside_in(known, what, source, limit) for source in SOURCES]
    return f"{np.mean(shares):.1%} ({min(shares):.1%} to {max(shares):.1%})"


def _outside_in(known: Known, what: str, source: str, limit: float) -> float:
    """Share of one source's windows that are outside the limits of that source's fingerprint."""
    calibration, frames = ([one for one in known[name] if source in one["name"]] for name in ("train", what))
    return windows_outside(_fingerprint(calibration), frames, limit, SOURCE_WINDOW)[0]


def _fingerprint(frames: Sequence[Mapping[str, Any]]) -> Fingerprint:
    made = fingerprint(frames)
    if made is None:
        raise DataError(f"{len(frames)} frames are too few for a fingerprint; give more")
    return made


def main(words: Sequence[str]) -> int:
    """Measure what MEASURES lacks, then print the tables."""
    bundle, data, stained, place = (Path(word) for word in words)
    known: Known = json.loads(place.read_text()) if place.exists() else {}
    with Segmenter.open(bundle) as segment:
        for what, files, change, grey in sets(data, stained):
            if what not in known:
                known[what] = measured(segment, files, what, change, grey=grey)
                write_whole(place, json.dumps(known).encode())
    for table in (limits_table, changes_table, sources_table):
        print("\n".join(table(known)), end="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
