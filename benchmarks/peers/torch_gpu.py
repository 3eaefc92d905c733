"""PyTorch in FP16 on a GPU, edge channel included. Written for a GPU; see its rows for whether one ran it.

"graph" is eager PyTorch in channels_last with preprocessing, network and threshold captured in one CUDA graph.
"tensorrt" is the network compiled by Torch-TensorRT.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from breastseg_deploy.extras import require
from breastseg_train.network.checkpoint import load_checkpoint
from peers import Segment, Setting
from peers.torch_front import TorchFront

_WARM_UP = 3
"""Runs before a capture, as PyTorch's notes on CUDA graphs ask for."""


def open_peer(setting: Setting, variant: str) -> Segment:
    """Compile or capture it.

    Raises:
        MachineError: torch_tensorrt is not installed, for "tensorrt".
    """
    checkpoint = load_checkpoint(setting.checkpoint)
    front: Any = TorchFront(checkpoint.model.architecture.gabor).cuda()
    network: Any = checkpoint.model.cuda().half().eval()
    frame = torch.zeros(1, *setting.size_px, 3, device="cuda", dtype=torch.uint8)
    if variant == "tensorrt":
        example = front(frame).half()
        torch_tensorrt = require("torch_tensorrt", "peers")
        # The types of a model in half are kept.
        network = torch_tensorrt.compile(network, ir="dynamo", inputs=[example], use_explicit_typing=True)
    else:
        network = network.to(memory_format=torch.channels_last)

    def run() -> torch.Tensor:
        tensor = front(frame).half()
        if variant == "graph":
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        return (network(tensor).float().sigmoid()[:, 0] >= checkpoint.threshold).to(torch.uint8)

    with torch.inference_mode():
        compute = _captured(run) if variant == "graph" else run

    def segment(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        masks = []
        with torch.inference_mode():
            for one in torch.from_numpy(rgb):
                frame.copy_(one[None])
                masks.append(compute().cpu().numpy()[0])  # waits for the GPU
        return np.stack(masks)

    return segment


def _captured(run: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    """The same work as one CUDA graph, which writes into the same tensor each time."""
    side: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_UP):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()

    def replay() -> torch.Tensor:
        graph.replay()
        return result

    return replay
