"""Where a network's time goes in OpenVINO: by kind of layer, beside its multiplications and a matrix product's speed.

Times are OpenVINO's own counters of each compiled layer, its fastest call over the rounds. Multiplications are counted
from the shapes of the network as it was read, and laid to the compiled layer that OpenVINO says to have made of it.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from breastseg_benchmark.results import KindOfLayer, Profile
from breastseg_deploy.backends.openvino import NAME_BF16, NAME_INT8, precision_of, read_network, settings_of
from breastseg_deploy.backends.openvino_library import NAME, load_openvino, openvino_border, openvino_title
from breastseg_deploy.backends.registry import BACKENDS
from breastseg_deploy.bundle import Bundle
from breastseg_deploy.errors import BackendError, BreastsegError
from breastseg_deploy.machine import Machine
from breastseg_deploy.preprocess.tensor import network_input
from breastseg_deploy.progress import Progress

PROFILED = (NAME, NAME_BF16, NAME_INT8)
"""Backends whose engine tells the time of each layer."""
_PRODUCTS = {512: 20, 1024: 4}
"""How many products of matrices of so many rows in a round: small ones are done before a busy machine interrupts them,
large ones fill many cores."""
_OPERATIONS = 2
"""Of a multiplication: itself and the addition after it."""
_GIGA, _TICK_S = 1e9, 1e-6
_SIGNED = {"u8": "i8"}
"""Layers of 8 bits are one precision, whatever the sign of what they read."""


@dataclass(frozen=True)
class Work:
    """What an operation of the network multiplies for one frame.

    Attributes:
        kind: of the operation, e.g. "3 x 3 convolution".
        multiplications: number of them.
    """

    kind: str
    multiplications: int


@dataclass(frozen=True)
class Layer:
    """A compiled layer: its kind, what it computes in ("f32", "bf16", "i8"), and its multiplications for one frame."""

    kind: str
    precision: str
    multiplications: int


def profiles(
    bundle: Bundle, names: Sequence[str], frames: NDArray[np.uint8], rounds: int, machine: Machine | None = None
) -> tuple[Profile, ...]:
    """A profile of each backend that has one and can run here; the others say why they have none.

    Args:
        bundle: opened.
        names: of backends; empty for all that can be profiled.
        frames: (F, H, W, 3) uint8.
        rounds: frames that each is profiled on, the matrix product in turn.
        machine: where it runs; None for this one.
    """
    found = []
    for name in [one for one in PROFILED if not names or one in names]:
        role = BACKENDS[name].artefact
        if bundle.manifest.artefact(role) is None:
            found.append(Profile(backend=name, not_run=f"the bundle {bundle.holds_no(role)}"))
            continue
        try:
            BACKENDS[name].check(machine or Machine())
            with Progress(f"profile of {name}", rounds, "rounds") as progress:
                found.append(_profile(bundle, name, frames, rounds, progress))
        except BreastsegError as err:
            found.append(Profile(backend=name, not_run=str(err)))
    return tuple(found)


def _profile(bundle: Bundle, name: str, frames: NDArray[np.uint8], rounds: int, progress: Progress) -> Profile:
    ov, role = load_openvino(), BACKENDS[name].artefact
    gabor = bundle.manifest.gabor.parameters()
    tensors = [network_input(frame[np.newaxis], gabor) for frame in frames[:rounds]]
    with openvino_border("cannot profile", "measure without --profile"):
        core = ov.Core()
        network = read_network(ov, core, bundle, role)
        found = profile_network(ov, core, network, settings_of(role), tensors, rounds, progress.update)
    return found.model_copy(update={"backend": name, "engine": f"{openvino_title(ov)}, asked for {precision_of(role)}"})


def profile_network(
    ov: Any,
    core: Any,
    network: Any,
    settings: Mapping[str, object],
    tensors: Sequence[NDArray[np.float32]],
    rounds: int,
    on_round: Callable[[], object] = lambda: None,
) -> Profile:
    """Run network and matrix products in turn, and keep the fastest call of each layer and of each product.

    What else the machine does can only slow them; in turn, it slows both.

    Args:
        ov: OpenVINO.
        core: its core.
        network: of fixed shapes, with one input.
        settings: of OpenVINO.
        tensors: its inputs, taken in turn.
        rounds: that are counted.
        on_round: called after each of them.
    """
    work = work_of(network)
    counting = {**settings, "PERF_COUNT": True}
    request = core.compile_model(network, "CPU", counting).create_infer_request()
    layers = compiled_layers(request.get_compiled_model(), work)
    precisions = sorted({layer.precision for layer in layers.values() if layer.multiplications})
    products = {
        precision: [_Product(ov, core, precision, side, counting) for side in _PRODUCTS] for precision in precisions
    }
    fastest: dict[str, float] = {}
    for number in range(rounds):
        request.infer({0: tensors[number % len(tensors)]})
        for name, seconds in _counted(request).items():
            fastest[name] = min(seconds, fastest.get(name, seconds))
        for product in chain.from_iterable(products.values()):
            product.run()
        on_round()
    multiplied = sum(one.multiplications for one in work.values())
    peaks = {precision: max(one.operations_per_s for one in products[precision]) for precision in precisions}
    return Profile(
        rounds=rounds,
        layers_s=sum(fastest.values()),
        multiplications=multiplied,
        peak_gops={precision: peak / _GIGA for precision, peak in peaks.items()},
        kinds=_kinds(layers, fastest, peaks, multiplied),
    )


def work_of(network: Any) -> dict[str, Work]:
    """What each convolution and matrix product of a network of fixed shapes multiplies, by its name."""
    found = {}
    for operation in network.get_ordered_ops():
        kind, name = operation.get_type_name(), operation.get_friendly_name()
        if kind in ("Convolution", "GroupConvolution"):
            weight, made = list(operation.input(1).get_shape()), list(operation.output(0).get_shape())
            sides = " x ".join(str(side) for side in weight[-(len(made) - 2) :])
            words = f"{sides} convolution" if kind == "Convolution" else f"{sides} depthwise convolution"
            found[name] = Work(words, made[0] * prod(weight) * prod(made[2:]))
        elif kind == "MatMul":
            rows = list(operation.input(0).get_shape())
            inner = rows[-2] if operation.get_attributes()["transpose_a"] else rows[-1]
            found[name] = Work("matrix product", prod(operation.output(0).get_shape()) * inner)
    return found


def compiled_layers(compiled: Any, work: Mapping[str, Work]) -> dict[str, Layer]:
    """Each layer of a network as OpenVINO compiled it, by the name that its counters use.

    Args:
        compiled: on the CPU.
        work: of `work_of`, of the network that was compiled.
    """
    found = {}
    for operation in compiled.get_runtime_model().get_ordered_ops():
        facts = operation.get_rt_info()
        kind, precision = (facts[name].astype(str) for name in ("layerType", "runtimePrecision"))
        origins = [work[name] for name in facts["originalLayersNames"].astype(str).split(",") if name in work]
        multiplied = sum(one.multiplications for one in origins)
        found[operation.get_friendly_name()] = Layer(
            origins[0].kind if origins else _spaced(kind), _SIGNED.get(precision, precision), multiplied
        )
    return found


class _Product:
    """A product of two square matrices in a precision; its speed is the peak that layers are held to.

    Raises:
        BackendError: OpenVINO computes it in another precision.
    """

    def __init__(self, ov: Any, core: Any, precision: str, side: int, settings: Mapping[str, object]) -> None:
        asked = {**settings, "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32"}
        model = _product_model(ov, side, in_eight_bits=precision == "i8")
        self._request = core.compile_model(model, "CPU", asked).create_infer_request()
        layers = compiled_layers(self._request.get_compiled_model(), work_of(model))
        ((self._name, layer),) = [(name, layer) for name, layer in layers.items() if layer.multiplications]
        if layer.precision != precision:
            raise BackendError(
                f"OpenVINO computes a matrix product in {layer.precision} that was to show the speed of {precision}; "
                "measure without --profile"
            )
        self._operations = _OPERATIONS * layer.multiplications
        self._fastest_s = math.inf
        self._values = np.random.default_rng(0).random((side, side), np.float32)

    def run(self) -> None:
        """A few products."""
        for _ in range(_PRODUCTS[len(self._values)]):
            self._request.infer({0: self._values})
            self._fastest_s = min(self._fastest_s, _counted(self._request)[self._name])

    @property
    def operations_per_s(self) -> float:
        """Of the fastest product so far."""
        return self._operations / self._fastest_s


def _product_model(ov: Any, side: int, *, in_eight_bits: bool) -> Any:
    ops = ov.opset13
    read = ops.parameter([side, side], ov.Type.f32)
    values, weight = read, np.random.default_rng(1).standard_normal((side, side)).astype(np.float32)
    if in_eight_bits:
        bounds = [np.float32(bound) for bound in (0, 1, 0, 1)]
        values = ops.fake_quantize(read, *bounds, 256)
        steps = ops.constant(np.clip(weight * 32, -64, 64).astype(np.int8))
        second = ops.multiply(ops.convert(steps, ov.Type.f32), ops.constant(np.float32(1 / 32)))
    else:
        second = ops.constant(weight)
    return ov.Model([ops.matmul(values, second, False, True)], [read], "product")


def _counted(request: Any) -> dict[str, float]:
    """Seconds of each compiled layer in a request's last call; what was fused into another has none of its own."""
    counted = [one for one in request.get_profiling_info() if one.status == one.Status.EXECUTED]
    return {one.node_name: one.real_time.total_seconds() for one in counted}


def _kinds(
    layers: Mapping[str, Layer], seconds: Mapping[str, float], peaks: Mapping[str, float], work: int
) -> tuple[KindOfLayer, ...]:
    """Kinds of layers in one precision each, the longest time first; `work` is all multiplications of the network."""
    names: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in seconds:
        layer = layers[name]
        names[layer.kind, layer.precision if layer.multiplications else ""].append(name)
    took = sum(seconds.values())
    found = []
    for (kind, precision), own in names.items():
        own_s, multiplied = sum(seconds[name] for name in own), sum(layers[name].multiplications for name in own)
        speed = _OPERATIONS * multiplied / max(own_s, _TICK_S) if multiplied else None
        found.append(
            KindOfLayer(
                kind=kind,
                precision=precision,
                layers=len(own),
                time_share=own_s / took,
                work_share=multiplied / work,
                gops=None if speed is None else speed / _GIGA,
                of_peak=None if speed is None else speed / peaks[precision],
            )
        )
    return tuple(sorted(found, key=lambda one: -one.time_share))


def _spaced(kind: str) -> str:
    """ "RoiPooling" as words."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", kind).lower()
