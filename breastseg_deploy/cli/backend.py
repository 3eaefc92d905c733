"""What the commands that open a bundle share: the choice of a backend, and being told what it does."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from breastseg_deploy.bundle import Bundle
    from breastseg_deploy.segmenter import Segmenter

_STRICT_HELP = "refuse to serve by a lesser backend where a better one fails, or by the CPU where a GPU ought to"

_LOSS_HELP = "the mean Dice that --backend fastest may lose, e.g. 0.002"
_GATE_HELP = "leave the decoder out for frames that the bundle's empty-frame gate finds empty (CPU alone)"
_PUBLIC_KEY_HELP = (
    "of whoever must have signed the bundle (`breastseg sign`); nothing of it is used before that is checked"
)


def add_backend_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --backend, --max-dice-loss, --strict, --gate and --public-key."""
    parser.add_argument(
        "--backend", default="auto", metavar="NAME", help="see `breastseg doctor`, or fastest; default: %(default)s"
    )
    parser.add_argument("--max-dice-loss", type=float, metavar="X", help=_LOSS_HELP)
    parser.add_argument("--strict", action="store_true", help=_STRICT_HELP)
    parser.add_argument("--gate", action="store_true", help=_GATE_HELP)
    add_public_key_argument(parser)


def add_public_key_argument(parser: argparse.ArgumentParser) -> None:
    """Add --public-key."""
    parser.add_argument("--public-key", type=Path, metavar="PEM", help=_PUBLIC_KEY_HELP)


def open_segmenter(bundle: Path | Bundle, arguments: argparse.Namespace) -> Segmenter:
    """A Segmenter as the arguments ask; a bundle that is open already is not checked again."""
    from breastseg_deploy.progress import Progress
    from breastseg_deploy.segmenter import Segmenter

    with Progress(f"opening {bundle if isinstance(bundle, Path) else bundle.path}"):
        return Segmenter.open(
            bundle,
            arguments.backend,
            strict=arguments.strict,
            gate=arguments.gate,
            max_dice_loss=arguments.max_dice_loss,
            public_key=arguments.public_key if isinstance(bundle, Path) else None,
        )


@contextmanager
def told_on_stderr() -> Iterator[None]:
    """Show what the runtime logs (which backend and why, engines being built) on stderr, one line each."""
    log, handler = logging.getLogger("breastseg_deploy"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.addFilter(lambda record: record.name == log.name)  # TensorRT's own messages have a logger below
    before = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False  # or a program that set up logging would show every line twice
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before[0])
        log.propagate = before[1]
