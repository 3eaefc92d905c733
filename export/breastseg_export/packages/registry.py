"""The packages there are, by the name that the command line gives them."""

from __future__ import annotations

from collections.abc import Mapping

from breastseg_export.packages.bioimageio import BIOIMAGEIO
from breastseg_export.packages.cpp import CPP
from breastseg_export.packages.package import Package
from breastseg_export.packages.triton import TRITON
from breastseg_export.packages.web import WEB

PACKAGES: Mapping[str, Package] = {"bioimageio": BIOIMAGEIO, "triton": TRITON, "web": WEB, "cpp": CPP}
