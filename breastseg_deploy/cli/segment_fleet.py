"""`breastseg segment` with --workers, --part or --ray: a fleet works through the inputs, docs/fleets.md."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from breastseg_deploy.cli.backend import open_segmenter, told_on_stderr
from breastseg_deploy.cli.command import print_json

if TYPE_CHECKING:
    from breastseg_deploy.bundle import Bundle
    from breastseg_deploy.fleet.ledger import Line
    from breastseg_deploy.fleet.task import Do, Outcome, Task
    from breastseg_deploy.io.inputs import Inputs
    from breastseg_deploy.segmenter import Segmenter

_LIST = ".txt"
_UNCERTIFIED = "the certificate lies over the bundle's limit"
_SETTINGS = (
    "channel", "bit_depth", "window", "mpp", "rescale", "write", "every_tile", "overlay", "backend", "max_dice_loss",
    "gate",
)  # fmt: skip
"""Arguments that an output depends on."""


def add_fleet_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --workers, --part, --ray and --retries."""
    fleet = parser.add_argument_group("fleets", "many inputs, many processes; docs/fleets.md")
    fleet.add_argument("--workers", type=_at_least(1), metavar="N", help="processes of this machine, or actors on Ray")
    fleet.add_argument("--part", metavar="I/N", help="part I of N of the inputs, for one job of a scheduler")
    fleet.add_argument("--ray", nargs="?", const="local", metavar="ADDRESS", help="work on Ray; default: a local one")
    fleet.add_argument(
        "--retries", type=_at_least(0), default=1, metavar="R", help="after a failure; default: %(default)s"
    )


def asks_for_fleet(arguments: argparse.Namespace) -> bool:
    """Whether a fleet is to do the work."""
    return any(asked is not None for asked in (arguments.workers, arguments.part, arguments.ray))


def with_lists(places: Sequence[Path]) -> list[Path]:
    """The places, with the paths that a .txt file lists in its stead, one per line; blank lines do not count.

    Raises:
        FrameError: a list that cannot be read.
    """
    from breastseg_deploy.errors import FrameError

    found: list[Path] = []
    for place in places:
        if place.suffix.lower() != _LIST or place.is_dir():
            found.append(place)
            continue
        try:
            lines = place.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as err:
            raise FrameError(f"cannot read {place} ({err}); expected a list of paths, one per line") from err
        found += [Path(line.strip()) for line in lines if line.strip()]
    return found


def run_fleet(bundle: Bundle, inputs: Inputs, arguments: argparse.Namespace) -> int:
    """Settle every input, or this job's part of them; prints and returns what `breastseg segment` would."""
    from breastseg_deploy.fleet.ledger import LEDGER, Ledger
    from breastseg_deploy.fleet.on_ray import work_on_ray
    from breastseg_deploy.fleet.processes import work_in_processes
    from breastseg_deploy.fleet.task import Task, parse_part, part_of

    tasks = [Task(file.name, file.path.resolve()) for file in inputs.frames]
    tasks += [Task(_slide_name(path), path.resolve()) for path in inputs.slides]
    if arguments.part is not None:
        tasks = part_of(tasks, *parse_part(arguments.part))
    output, workers = arguments.output.resolve(), arguments.workers or 1
    job = SegmentJob(_own(arguments, output), _key(bundle, arguments))
    ledger = Ledger(output)
    if arguments.ray is None:
        work_in_processes(tasks, job, output, workers, arguments.retries)
    else:
        work_on_ray(tasks, job, output, workers, arguments.retries, arguments.ray)
    settled = [line for task in tasks if (line := ledger.settled(task, job.key))]
    ledger.compact()
    return _told(settled, output / LEDGER, as_json=arguments.json)


def _told(settled: Sequence[Line], ledger: Path, *, as_json: bool) -> int:
    aside = [line for line in settled if line.state == "set aside"]
    uncertified = [line for line in settled if line.state == "done" and line.reason]
    for line in aside:
        print(f"error: {line.path}: {line.reason}", file=sys.stderr)
    for line in uncertified:
        print(f"{line.path}: {line.reason}", file=sys.stderr)
    if as_json:
        failed = [{"input": line.path, "error": line.reason} for line in aside]
        done = [line.name for line in settled if line.state == "done"]
        print_json(
            {"done": done, "failed": failed, "uncertified": [line.name for line in uncertified], "ledger": str(ledger)}
        )
    else:
        print(f"{len(settled) - len(aside)} inputs done, {len(aside)} set aside; {ledger} says more")
    if aside:
        return 1
    return 3 if uncertified else 0


@dataclass(frozen=True)
class SegmentJob:
    """What each worker does: open the bundle once, then segment frames and slides.

    Attributes:
        arguments: of `breastseg segment`.
        key: see `fleet.task.Job`.
    """

    arguments: argparse.Namespace
    key: str

    @contextmanager
    def open(self) -> Iterator[Do]:
        """Open the bundle."""
        with told_on_stderr(), open_segmenter(self.arguments.bundle, self.arguments) as segment:
            yield lambda task: self._segment(segment, task)

    def _segment(self, segment: Segmenter, task: Task) -> Outcome:
        from breastseg_deploy.cli.segment_frames import segment_frame_file
        from breastseg_deploy.cli.segment_slides import segment_slide_file
        from breastseg_deploy.fleet.task import Outcome
        from breastseg_deploy.io.images import FrameFile
        from breastseg_deploy.io.inputs import sort_inputs

        if sort_inputs([task.path], segment.manifest.frame.size_px).frames:
            segment_frame_file(segment, FrameFile(task.path), self.arguments)
            return Outcome()
        result = segment_slide_file(segment, task.path, self.arguments)
        return Outcome("" if result.certified else _UNCERTIFIED)


def _slide_name(path: Path) -> str:
    from breastseg_deploy.io.inputs import slide_name

    return slide_name(path)


def _own(arguments: argparse.Namespace, output: Path) -> argparse.Namespace:
    """What travels to the workers, with places that hold from everywhere."""
    names = (*_SETTINGS, "strict")
    kept: dict[str, Any] = {name: getattr(arguments, name) for name in names}
    public_key = None if arguments.public_key is None else arguments.public_key.resolve()
    return argparse.Namespace(**kept, bundle=arguments.bundle.resolve(), public_key=public_key, output=output)


def _key(bundle: Bundle, arguments: argparse.Namespace) -> str:
    """Of the bundle and all arguments that an output depends on."""
    from breastseg_deploy.bundle import MANIFEST, file_entry

    settings = {name: getattr(arguments, name) for name in _SETTINGS}
    manifest = file_entry(bundle.path / MANIFEST).sha256
    return hashlib.sha256(json.dumps([manifest, settings], sort_keys=True, default=str).encode()).hexdigest()


def _at_least(least: int) -> Callable[[str], int]:
    def count(text: str) -> int:
        if not text.strip().isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number from {least} on, got {text!r}")
        return int(text)

    return count
