"""`pytest --benchmark`: one measurement of everything this machine can run, which the checks here are held to."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from breastseg_benchmark.budgets import judge, read_budgets
from breastseg_benchmark.frames import write_phantoms
from breastseg_benchmark.growth import GrowthPlan
from breastseg_benchmark.implementations import Implementation, why_no_gpu
from breastseg_benchmark.measure import Plan, measure
from breastseg_benchmark.report import report_html
from breastseg_benchmark.results import Results
from breastseg_benchmark.tables import implementations_text, verdicts_text
from breastseg_deploy.bundle import Bundle
from breastseg_deploy.machine import Machine
from breastseg_deploy.nvidia import Gpu
from breastseg_deploy.progress import Progress
from breastseg_deploy.storage import make_folder, write_whole
from edge_channel import edge_channel_figures
from peers import PAPER, PEERS, REFERENCE

BENCHMARKS = Path(__file__).resolve().parent
BUDGETS = BENCHMARKS / "budgets.toml"
RESULTS = pytest.StashKey[Results]()

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin while they wait slow the next in turn down

SHORT_ROUNDS, SHORT_FRAMES = 5, 2
SHORT_GROWTH = GrowthPlan(batches=(1, 2), rounds=1, frames=8)
EXPORT_FRAMES = 2
"""Phantoms that the parity of a bundle for another size is measured on: one with cells, one without."""


@pytest.fixture(scope="session")
def aloud(pytestconfig: pytest.Config) -> Callable[[], AbstractContextManager[None]]:
    """A block of long work whose progress reaches the person at the terminal, or the log, and not pytest alone."""
    uncaptured: Callable[[], AbstractContextManager[None]]
    uncaptured = pytestconfig.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled
    return uncaptured


@pytest.fixture(scope="session")
def say(aloud: Callable[[], AbstractContextManager[None]]) -> Callable[[str], None]:
    """Tells the person at the terminal how far it is."""

    def tell(step: str) -> None:
        with aloud():
            print(f"  {step}", file=sys.stderr, flush=True)

    return tell


@pytest.fixture(scope="session")
def checkpoint_name(pytestconfig: pytest.Config) -> str:
    return str(pytestconfig.getoption("--benchmark-checkpoint"))


@pytest.fixture(scope="session")
def bundle(
    pytestconfig: pytest.Config,
    checkpoint_name: str,
    tmp_path_factory: pytest.TempPathFactory,
    say: Callable[[str], None],
    aloud: Callable[[], AbstractContextManager[None]],
) -> Path:
    given: Path | None = pytestconfig.getoption("--benchmark-bundle")
    if given is not None:
        return given
    place = tmp_path_factory.mktemp("benchmark") / "bundle"
    with aloud():
        _export(checkpoint_name, place, None, None, say)
    return place


@pytest.fixture(scope="session")
def other_sizes(
    pytestconfig: pytest.Config,
    checkpoint_name: str,
    tmp_path_factory: pytest.TempPathFactory,
    say: Callable[[str], None],
    aloud: Callable[[], AbstractContextManager[None]],
) -> tuple[Path, ...]:
    """Bundles of the checkpoint for other frame sizes: a bundle takes frames of one size only."""
    if pytestconfig.getoption("--benchmark-short"):
        return ()
    places = []
    for size in filter(None, pytestconfig.getoption("--benchmark-sizes").split(",")):
        scratch = tmp_path_factory.mktemp(f"size-{size}")
        write_phantoms(scratch / "frames", EXPORT_FRAMES, (int(size), int(size)))
        places.append(scratch / "bundle")
        with aloud():
            _export(checkpoint_name, places[-1], int(size), scratch / "frames", say)
    return tuple(places)


@pytest.fixture(scope="session")
def results(
    pytestconfig: pytest.Config,
    bundle: Path,
    checkpoint_name: str,
    other_sizes: tuple[Path, ...],
    tmp_path_factory: pytest.TempPathFactory,
    say: Callable[[str], None],
    aloud: Callable[[], AbstractContextManager[None]],
) -> Results:
    """The measurement, made once; JSON and report are written as soon as it is there."""
    option = pytestconfig.getoption
    short = bool(option("--benchmark-short"))
    shared = tmp_path_factory.mktemp("peers")
    asked = [name for name in PEERS if name not in (PAPER, REFERENCE)] if option("--benchmark-peers") else []
    if asked:
        with aloud(), Progress("plain export"):
            _export_plainly(checkpoint_name, shared, Bundle.open(bundle).manifest.frame.height_px, say)
    growth = GrowthPlan(sizes=other_sizes, frames=option("--benchmark-growth-frames"))
    plan = Plan(
        bundle=bundle,
        command=" ".join(["pytest", *map(str, pytestconfig.invocation_params.args)]),
        frames=option("--benchmark-frames"),
        bit_depth=option("--benchmark-bit-depth"),
        most_frames=SHORT_FRAMES if short else None,
        rounds=SHORT_ROUNDS if short else option("--benchmark-rounds"),
        reference=_implementation(REFERENCE, checkpoint_name, shared),
        paper=_implementation(PAPER, checkpoint_name, shared),
        peers=tuple(_implementation(name, checkpoint_name, shared) for name in asked),
        growth=SHORT_GROWTH if short else growth,
        short=short,
    )
    with aloud():
        found = measure(plan, say)
        found = found.model_copy(update={"extra": edge_channel_figures(plan.rounds)})
    found = found.model_copy(update={"verdicts": judge(found, read_budgets(BUDGETS))})
    place: Path = option("--benchmark-results")
    make_folder(place.parent)
    write_whole(place, found.model_dump_json(indent=1).encode())
    write_whole(place.with_suffix(".html"), report_html(found).encode())
    pytestconfig.stash[RESULTS] = found
    return found


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The verdict table, last."""
    if RESULTS not in config.stash:
        return
    found = config.stash[RESULTS]
    place: Path = config.getoption("--benchmark-results")
    terminalreporter.section("implementations")
    terminalreporter.write_line(implementations_text(found))
    terminalreporter.section("verdicts")
    terminalreporter.write_line(verdicts_text(found.verdicts))
    terminalreporter.write_line(f"figures: {place}")
    terminalreporter.write_line(f"report: {place.with_suffix('.html')}")


def _implementation(name: str, checkpoint: str, shared: Path) -> Implementation:
    peer = PEERS[name]
    return Implementation(
        peer.title,
        "paper" if name == PAPER else "peer",
        (str(BENCHMARKS / "serve_peer.py"), name, checkpoint, str(shared)),
        on_gpu=peer.on_gpu,
        not_run=why_no_gpu(Machine()) if peer.on_gpu else None,
    )


def _export_plainly(checkpoint: str, shared: Path, side_px: int, say: Callable[[str], None]) -> None:
    """What several peers start from; where it fails they say that there is none, and the others run."""
    say(f"plain torch.onnx.export of {checkpoint} for {side_px} x {side_px}")
    command = [sys.executable, "-m", "peers.plain_export", checkpoint, str(shared), str(side_px)]
    done = subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        say(f"it failed: {(done.stderr.strip().splitlines() or ['silently'])[-1]}")


def _export(checkpoint: str, place: Path, size: int | None, frames: Path | None, say: Callable[[str], None]) -> None:
    from breastseg_export.exporter import export_bundle
    from breastseg_export.settings import ExportSettings

    precision = "fp16" if isinstance(Machine().gpu, Gpu) else "fp32"  # what runs here needs no more
    settings = ExportSettings(checkpoint, place, precision=precision, frames=frames)
    if size is not None:
        settings = ExportSettings(checkpoint, place, precision=precision, frames=frames, size_px=size)
    say(f"exporting {checkpoint} for {settings.size_px} x {settings.size_px}")
    export_bundle(settings)
