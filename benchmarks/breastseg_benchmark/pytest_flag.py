"""`pytest --benchmark` and its options. The project's settings load it with `-p`, before any path is looked at.

It stands here and not in `benchmarks/conftest.py` because pytest reads a conftest only once it knows which words of the
command line are paths, and `--benchmark-bundle demo/bundle` would be taken for one.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

FOLDER = "benchmarks"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The flag, and what is measured."""
    add = parser.getgroup("breastseg benchmarks").addoption
    add("--benchmark", action="store_true", help="run the performance checks in benchmarks/ and nothing else")
    add("--benchmark-bundle", type=Path, metavar="BUNDLE", help="default: the checkpoint, exported for this run")
    add("--benchmark-checkpoint", default="demo", metavar="CHECKPOINT", help="what BUNDLE was exported from")
    add("--benchmark-frames", type=Path, metavar="DIR", help="measure on these frames (default: phantoms)")
    add("--benchmark-bit-depth", type=int, metavar="N", help="bits that 16-bit frames use")
    add("--benchmark-peers", action="store_true", help="measure the peers as well (extra `peers`)")
    add("--benchmark-short", action="store_true", help="few rounds, and ratios only: for a busy machine")
    add("--benchmark-rounds", type=int, default=30, metavar="N", help="calls of each in turn (default: %(default)s)")
    add("--benchmark-growth-frames", type=int, default=2000, metavar="N", help="default: %(default)s; 0 for none")
    add(
        "--benchmark-sizes",
        default="256,384,768,1024",
        metavar="PX,...",
        help="export the checkpoint for these sizes too and measure them (default: %(default)s; empty for none)",
    )
    add(
        "--benchmark-results",
        type=Path,
        default=Path(".benchmarks/results.json"),
        metavar="FILE",
        help="where the JSON goes, the HTML report beside it (default: %(default)s)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """With the flag, collect the benchmarks and nothing else, and let pytest-benchmark time.

    Raises:
        UsageError: the run is to be shared out among processes, which would slow each other down.
    """
    if not config.getoption("benchmark"):
        return
    if getattr(config.option, "numprocesses", None):
        import pytest

        raise pytest.UsageError("--benchmark measures one thing at a time, got --numprocesses; omit it")
    config.option.benchmark_enable = True  # the settings switch it off for the tests
    folder = config.rootpath / FOLDER
    inside = [argument for argument in config.args if _place(config, argument).is_relative_to(folder)]
    config.args = inside or [str(folder)]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Without the flag, nothing of the benchmarks is collected, whatever is asked for."""
    if not config.getoption("benchmark") and collection_path.is_relative_to(config.rootpath / FOLDER):
        return True
    return None


def _place(config: pytest.Config, argument: str) -> Path:
    return (config.invocation_params.dir / argument.partition("::")[0]).resolve()
