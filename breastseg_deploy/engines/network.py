"""A strongly typed network as TensorRT's parser reads it, and the types of its layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator

from breastseg_deploy.engines import log
from breastseg_deploy.engines.api import Builder, ILayer, INetworkDefinition, ITensor, OnnxParser, TensorRT
from breastseg_deploy.errors import BackendError

TypeHistogram = dict[str, dict[str, int]]
"""Number of layers by kind and type of their first output, e.g. {"CONVOLUTION": {"HALF": 357, "FLOAT": 3}}."""


@log.heard()
def parse_network(trt: TensorRT, builder: Builder, network_onnx: bytes) -> tuple[INetworkDefinition, OnnxParser]:
    """Read a network, its types exactly as they stand in the file.

    Returns:
        The network, and the parser, which must live as long as the network: it owns its weights.

    Raises:
        BackendError: no ONNX, an operation that TensorRT has not, types that it does not mix, or a network that is not
            one float32 (N, C, H, W) tensor in, one tensor out.
    """
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log.logger(trt))
    if not parser.parse(network_onnx):
        raise BackendError(f"{_complaint(parser)}; no engine is built: export the checkpoint again with this version")
    if network.num_inputs != 1 or network.num_outputs != 1:
        raise BackendError(
            f"an engine is built of a network with one input and one output, got {network.num_inputs} and "
            f"{network.num_outputs}; export the checkpoint again with this version"
        )
    tensor = network.get_input(0)
    shape = tuple(tensor.shape)
    if len(shape) != 4 or shape[0] != -1 or min(shape[1:]) < 1 or tensor.dtype != trt.DataType.FLOAT:
        raise BackendError(
            f"an engine's input must be a float32 tensor (N, C, H, W) with only N open, got {tensor.dtype.name} "
            f"{shape}; export the checkpoint again with this version"
        )
    return network, parser


def checked_types(trt: TensorRT, network: INetworkDefinition, islands: Collection[str]) -> TypeHistogram:
    """The types of a network's layers, once it is sure that they are those that were asked for.

    Args:
        trt: the flavour that parsed it.
        network: as parsed; the file's types are the engine's, because the network is strongly typed.
        islands: names of the nodes that may compute in float32.

    Raises:
        BackendError: a convolution or matrix product outside the islands is not HALF, or none at all is.
    """
    # What is not HALF among these, which hold a network's work, runs at a fraction of the speed asked for.
    heavy = (trt.LayerType.CONVOLUTION, trt.LayerType.DECONVOLUTION, trt.LayerType.MATRIX_MULTIPLY)
    half = trt.DataType.HALF.name
    histogram: dict[str, Counter[str]] = {}
    wrong, right = [], 0
    for layer in layers(network):
        types = {tensor.dtype.name for tensor in _tensors(layer)}
        histogram.setdefault(layer.type.name, Counter())[layer.get_output(0).dtype.name] += 1
        if layer.type in heavy and types == {half}:
            right += 1
        elif layer.type in heavy and layer.name not in islands:
            wrong.append(f"{layer.name} ({', '.join(sorted(types))})")
    if wrong:
        raise BackendError(
            f"{len(wrong)} of the network's convolutions and matrix products must be HALF and are not, the first is "
            f"{wrong[0]}; no engine is built: export the checkpoint again with --precision fp16"
        )
    if not right:
        raise BackendError(
            "no convolution of the network is HALF, so the engine would not be float16; "
            "export the checkpoint again with --precision fp16"
        )
    return {kind: dict(sorted(counts.items())) for kind, counts in sorted(histogram.items())}


def layers(network: INetworkDefinition) -> Iterator[ILayer]:
    """The layers of a network, in its order."""
    return (network.get_layer(index) for index in range(network.num_layers))


def _tensors(layer: ILayer) -> Iterator[ITensor]:
    """Inputs and outputs of a layer; an input that was left out is None in TensorRT."""
    inputs = (layer.get_input(index) for index in range(layer.num_inputs))
    yield from (tensor for tensor in inputs if tensor is not None)
    yield from (layer.get_output(index) for index in range(layer.num_outputs))


def _complaint(parser: OnnxParser) -> str:
    """The parser's first complaint, in one line."""
    if not parser.num_errors:
        return f"TensorRT cannot read the network: {log.first_error()}"
    error = parser.get_error(0)
    node = f" at the node {error.node_name()!r} ({error.node_operator()})" if error.node_operator() else ""
    return f"TensorRT cannot read the network{node}: {' '.join(error.desc().split())}"
