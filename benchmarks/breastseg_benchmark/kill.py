"""`python -m breastseg_benchmark.kill PLACE`: exports, segment runs and trainings killed at random moments."""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from breastseg_deploy.bundle import Bundle
from breastseg_deploy.cli.command import print_json
from breastseg_deploy.errors import BreastsegError
from breastseg_deploy.io.images import png_bytes, read_mask
from breastseg_deploy.phantom import phantom_frame
from breastseg_deploy.progress import followed
from breastseg_deploy.storage import make_folder, write_whole
from breastseg_train.network.architecture import Architecture
from breastseg_train.network.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from breastseg_train.network.model import SegmentationModel

SIDE_PX = 64
_EVERY = 5
"""After so many kills the command runs to its end, over what they left."""

_EPOCHS = 4
_ENTRY = "import sys; from {module} import main; sys.exit(main())"
_TINY_PRESET = (
    "from breastseg_train.run.configuration import PRESETS, Configuration; PRESETS['tiny'] = Configuration("
    f"'tiny', 'resnet18', (16,) * 5, crop_px=64, batch_size=2, epochs={_EPOCHS}, validate_every_epochs=1, "
    "precision='32-true', workers=0); "
)


@dataclass(frozen=True)
class Victim:
    """A command that is killed.

    Attributes:
        name: what it is.
        code: Python that runs it.
        words: its command line.
        output: the folder it fills.
        problems: what is wrong with what a killed one has left there; nothing where all of it is whole.
        again: the words that go on, or start again, after a kill.
        left_over: what lies beside a finished output and ought not to.
    """

    name: str
    code: str
    words: tuple[str, ...]
    output: Path
    problems: Callable[[], list[str]]
    again: Callable[[], tuple[str, ...]]
    left_over: Callable[[], list[str]]

    def start(self, words: Sequence[str]) -> subprocess.Popen[str]:
        """The command in a process of its own."""
        command = [sys.executable, "-c", self.code, *words]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def run(self, words: Sequence[str]) -> tuple[float, int, str]:
        """It runs to its end: seconds, exit code, stderr."""
        started = time.monotonic()
        child = self.start(words)
        _, told = child.communicate()
        return time.monotonic() - started, child.returncode, told

    def kill(self, after_s: float, number: signal.Signals = signal.SIGKILL) -> bool:
        """It is ended after so many seconds; whether it was still running."""
        child = self.start(self.again())
        try:
            child.communicate(timeout=after_s)
        except subprocess.TimeoutExpired:
            child.send_signal(number)
            child.communicate()
            return True
        return False


def export_victim(place: Path) -> Victim:
    """An export of a small random network."""
    make_folder(place)
    checkpoint, output = place / "small.safetensors", place / "exports" / "bundle"
    if not checkpoint.exists():
        torch.manual_seed(0)  # other weights may mark no pixel, which no export takes as evidence
        save_checkpoint(Checkpoint(SegmentationModel(Architecture("resnet18", (16,) * 5))), checkpoint)
    words = (str(checkpoint), "--output", str(output), "--size", str(SIDE_PX), "--precision", "fp32")

    def problems() -> list[str]:
        return _problem(lambda: Bundle.open(output)) if output.exists() else []

    def left_over() -> list[str]:
        return sorted(path.name for path in output.parent.iterdir() if path != output)

    code = _ENTRY.format(module="breastseg_export.main")
    return Victim("export", code, words, output, problems, lambda: (*words, "--force"), left_over)


def segment_victim(place: Path, bundle: Path, frames: int = 40) -> Victim:
    """A segment run over phantoms.

    Args:
        place: for its frames and masks.
        bundle: of any frame size.
        frames: how many.
    """
    size_px = Bundle.open(bundle).manifest.frame.size_px
    source, output = place / "frames", place / "masks"
    make_folder(source)
    for number in range(frames):
        write_whole(source / f"{number:03d}.png", png_bytes(phantom_frame(number % 10, size_px).frame))
    words = ("segment", str(bundle), str(source), "--output", str(output), "--force", "--backend", "onnxruntime")

    def problems() -> list[str]:
        masks = sorted(output.glob("*.png")) if output.exists() else []
        return [one for mask in masks for one in _problem(lambda mask=mask: _is_mask(mask, size_px))]  # type: ignore[misc]

    def again() -> tuple[str, ...]:
        for path in output.glob(".*.partial"):  # as if it were started again after two hours: `storage.clear_partials`
            os.utime(path, (time.time() - 7200,) * 2)
        return words

    def left_over() -> list[str]:
        return sorted(path.name for path in output.iterdir() if path.suffix != ".png")

    code = _ENTRY.format(module="breastseg_deploy.cli.main")
    return Victim("segment", code, words, output, problems, again, left_over)


def train_victim(place: Path) -> Victim:
    """A training of a tiny network for four epochs."""
    data, output = place / "data", place / "run"
    for split, first, count in (("train", 0, 4), ("val", 10, 2)):
        for kind in ("images", "masks"):
            make_folder(data / split / kind)
        for number in range(first, first + count):
            phantom = phantom_frame(number, (SIDE_PX, SIDE_PX))
            write_whole(data / split / "images" / f"{number}.png", png_bytes(phantom.frame))
            write_whole(data / split / "masks" / f"{number}.png", png_bytes(phantom.mask * 255))
    words = ("train", "--data", str(data), "--output", str(output), "--preset", "tiny")

    def problems() -> list[str]:
        found = []
        for model in ("best.safetensors", "last.safetensors"):
            if (output / model).exists():
                found += _problem(lambda model=model: load_checkpoint(output / model))  # type: ignore[misc]
        if (output / "run.json").exists():
            found += _problem(lambda: json.loads((output / "run.json").read_text()))
        return found

    def again() -> tuple[str, ...]:
        figures = output / "metrics.csv"
        ended = figures.exists() and len(figures.read_text().splitlines()) > _EPOCHS
        if (output / "resume.ckpt").exists() and not ended:
            return (*words, "--resume")
        for path in output.iterdir() if output.exists() else ():  # all is over, or no epoch was: it starts anew
            path.unlink()
        return words

    def left_over() -> list[str]:
        return sorted(path.name for path in output.iterdir() if path.name.startswith("."))

    code = _TINY_PRESET + _ENTRY.format(module="breastseg_deploy.cli.main")
    return Victim("train", code, words, output, problems, again, left_over)


def kill_at(victim: Victim, moments_s: Sequence[float]) -> dict[str, object]:
    """Kill at each moment, look at what is left, and let it run to its end now and then.

    Returns:
        How many were killed while they ran, what was wrong after a kill, runs that did not end with 0, and what was
        left over after runs that did.
    """
    killed, problems, failed, left_over = 0, [], [], []
    for number, moment_s in enumerate(followed(moments_s, victim.name, "kills"), start=1):
        killed += victim.kill(moment_s)
        problems += [f"after {moment_s:.1f} s: {one}" for one in victim.problems()]
        if number % _EVERY == 0 or number == len(moments_s):
            _, code, told = victim.run(victim.again())
            if code != 0:
                failed.append((told.strip().splitlines() or ["silently"])[-1])
            problems += victim.problems()
            left_over += victim.left_over()
    return {
        "victim": victim.name, "moments": len(moments_s), "killed": killed, "problems": problems, "failed": failed,
        "left_over": left_over,
    }  # fmt: skip


def _problem(look: Callable[[], object]) -> list[str]:
    try:
        look()
    except (BreastsegError, ValueError, OSError) as err:
        return [str(err)]
    return []


def _is_mask(path: Path, size_px: tuple[int, int]) -> None:
    mask = read_mask(path)
    if mask.shape != size_px or not np.isin(mask, (0, 1)).all():
        raise ValueError(f"{path} is no mask of {size_px}")


def main(words: Sequence[str] | None = None) -> int:
    """Kill each command at 30 random moments of its run; the exit code is 1 where anything was not as it should be."""
    parser = argparse.ArgumentParser(prog="python -m breastseg_benchmark.kill", description=__doc__)
    parser.add_argument("place", type=Path, help="a new folder to work in")
    parser.add_argument("--moments", type=int, default=30, help="of each command (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--only", choices=("export", "segment", "train"), action="append")
    arguments = parser.parse_args(words)
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    chance, bad = random.Random(arguments.seed), False
    exported = export_victim(arguments.place / "export")
    makers: dict[str, Callable[[], Victim]] = {
        "export": lambda: exported,
        "segment": lambda: segment_victim(arguments.place / "segment", exported.output),
        "train": lambda: train_victim(arguments.place / "train"),
    }
    if not exported.output.exists():
        exported.run(exported.words)
    for name in arguments.only or makers:
        victim = makers[name]()
        whole_s, code, told = victim.run(victim.again())
        if code != 0:
            print(told, file=sys.stderr)
            return 1
        moments_s = sorted(chance.uniform(0, whole_s) for _ in range(arguments.moments))
        chance.shuffle(moments_s)
        found = kill_at(victim, moments_s) | {"whole_s": round(whole_s, 1)}
        bad = bad or bool(found["problems"] or found["failed"] or found["left_over"])
        print_json(found)
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
