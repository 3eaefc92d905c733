"""The wheel where little is installed: every command says in one line what it lacks, and the command that brings it."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from breastseg_deploy.extras import DISTRIBUTION
from breastseg_deploy.io.images import png_bytes
from breastseg_deploy.phantom import phantom_frame

ROOT = Path(__file__).resolve().parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMMANDS = sorted(PROJECT["entry-points"]["breastseg.commands"])

ARGUMENTS: dict[str, tuple[str, ...]] = {
    "ablate": ("--data", "DATA", "--output", "OUT"),
    "benchmark": ("BUNDLE",),
    "cross-site": ("--data", "DATA", "--output", "OUT"),
    "import-data": ("bmgd", "DATA", "--output", "OUT"),
    "compare-runs": ("RUN", "--output", "OUT"),
    "dataset-stats": ("DATA",),
    "doctor": (),
    "evaluate": ("demo", "--data", "DATA"),
    "export": ("demo", "--output", "OUT"),
    "fit-gate": ("demo", "--data", "DATA", "--output", "OUT"),
    "gpu-check": ("BUNDLE", "--output", "OUT"),
    "inspect": ("BUNDLE",),
    "phantoms": ("--output", "OUT"),
    "sign": ("BUNDLE", "--key", "KEY"),
    "segment": ("BUNDLE", "FRAMES", "--output", "OUT"),
    "train": ("--data", "DATA", "--output", "OUT"),
    "verify": ("BUNDLE",),
}
"""A call of each command; the words in capitals are places."""

EXTRA = {
    "train": ("ablate", "compare-runs", "cross-site", "dataset-stats", "evaluate", "fit-gate", "import-data", "train"),
    "export": ("export",),
    "cpu": ("phantoms", "segment", "verify"),
    "benchmark": ("benchmark",),
    "signing": ("sign",),
