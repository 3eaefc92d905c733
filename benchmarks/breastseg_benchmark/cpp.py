"""The C++ package against the Python runtime, both on OpenVINO, on the same frame in turn.

    python -m breastseg_benchmark.cpp BUNDLE --output DIR [--rounds 20]

Packages the bundle, builds the program, and prints one JSON object last. Needs g++, cmake and OpenVINO.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from breastseg_benchmark.environment import environment
from breastseg_benchmark.process import Timed, in_turn, seconds_of
from breastseg_benchmark.results import Distribution, Ratio
from breastseg_deploy.backends.openvino_library import load_openvino
from breastseg_deploy.bundle import PORTABLE, Bundle
from breastseg_deploy.cli.command import print_json
from breastseg_deploy.manifest import Manifest
from breastseg_deploy.metrics import dice
from breastseg_deploy.progress import Progress
from breastseg_deploy.segmenter import Segmenter
from breastseg_export.packages.package import write_package
from breastseg_export.packages.registry import PACKAGES

BACKEND, PROCESSOR = "openvino", "processor"
"""The second name is of time that all threads took together: on a busy machine it alone compares."""


class Program:
    """The packaged program, loaded, which segments one frame whenever it is asked.

    Args:
        program: compiled.
        bundle: of the package.
        frame: (H, W, 3) uint8.
        folder: for the frame and the answer.
    """

    def __init__(self, program: Path, bundle: Path, frame: NDArray[np.uint8], folder: Path) -> None:
        height, width, _ = frame.shape
        source, self._answer, self._size_px = folder / "frame.ppm", folder / "probability.f32", (height, width)
        source.write_bytes(f"P6\n{width} {height}\n255\n".encode() + frame.tobytes())
        words = [str(program), str(bundle), str(source), str(self._answer), "--time"]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._asked, self._told = self._process.stdin, self._process.stdout

    def time(self) -> Timed:
        """Seconds of one frame, by the program's own clock."""
        self._asked.write("\n")
        self._asked.flush()
        took, processor = (float(word) / 1000 for word in self._told.readline().split())
        return Timed(took, {PROCESSOR: processor})

    def probability(self) -> NDArray[np.float32]:
        """End it, and give its last answer; (H, W)."""
        self._asked.close()
        self._process.wait()
        return np.fromfile(self._answer, "<f4").reshape(self._size_px)


def build(package: Path, folder: Path) -> Path:
    """The program of a package for C++, compiled with optimisation.

    Raises:
        MachineError: OpenVINO is not installed.
        CalledProcessError: it does not compile; what the compiler said stands above.
    """
    prefix = Path(load_openvino().__file__).parent
    for words in (
        ["cmake", "-S", package, "-B", folder, f"-DCMAKE_PREFIX_PATH={prefix}"],
        ["cmake", "--build", folder],
    ):
        subprocess.run(list(map(str, words)), check=True, stdout=sys.stderr)
    return folder / "breastseg"


def least_dice(manifest: Manifest) -> float:
    """What the export allowed the portable model for its worst frame."""
    artefact = manifest.artefact(PORTABLE)
    assert artefact is not None
    assert artefact.limits is not None
    return artefact.limits.worst_dice


def main(words: Sequence[str] | None = None) -> int:
    """Time both; the exit code is 1 where their masks agree less than the bundle's limit asks."""
    parser = argparse.ArgumentParser(prog="python -m breastseg_benchmark.cpp", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--output", type=Path, required=True, help="a new folder for the package and its program")
    parser.add_argument("--rounds", type=int, default=20, help="calls of each (default: %(default)s)")
    arguments = parser.parse_args(words)
    where = environment()
    write_package(PACKAGES["cpp"], arguments.bundle, arguments.output / "package")
    program = build(arguments.output / "package", arguments.output / "build")
    golden = Bundle.open(arguments.bundle).goldens()[0]
    cpp = Program(program, arguments.output / "package" / "bundle", golden.frame, arguments.output)
    with Segmenter.open(arguments.bundle, BACKEND) as segment, Progress("timing", arguments.rounds, "rounds") as bar:
        python = segment(golden.frame)
        assert python.probability is not None

        def time_python(_: int) -> Timed:
            started, before = time.perf_counter(), time.process_time()
            segment(golden.frame)
            return Timed(time.perf_counter() - started, {PROCESSOR: time.process_time() - before})

        callers = {"C++": lambda _: cpp.time(), "Python": time_python}
        calls, _ = in_turn(callers, arguments.rounds, 1, bar.update)
    found = cpp.probability()
    seconds = {name: seconds_of(of) for name, of in calls.items()}
    processor = {name: [call.stages_s[PROCESSOR] for call in of] for name, of in calls.items()}
    mask = (found >= segment.manifest.threshold).astype(np.uint8)
    agreement, limit = dice(mask, python.mask), least_dice(segment.manifest)
    print_json(
        {
            "environment": where,
            "milliseconds": {name: round(Distribution.of(of).p50_s * 1000, 2) for name, of in seconds.items()},
            "milliseconds of the processor": {
                name: round(float(np.median(of)) * 1000, 2) for name, of in processor.items()
            },
            "C++ / Python": Ratio.of(seconds["C++"], seconds["Python"]).model_dump(),
            "C++ / Python, processor": Ratio.of(processor["C++"], processor["Python"]).model_dump(),
            "largest difference of probabilities": float(np.abs(found - np.asarray(python.probability)).max()),
            "pixels whose mask differs": int((mask != python.mask).sum()),
            "Dice of the masks": agreement,
        }
    )
    return int(agreement < limit)


if __name__ == "__main__":
    sys.exit(main())
