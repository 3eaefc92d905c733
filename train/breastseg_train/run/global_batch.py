"""What makes several processes train like one: a loss and batch statistics over the batch of all of them."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from breastseg_deploy.errors import ArgumentError


def process_count() -> int:
    """Number of processes that train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def gathered(tensor: Tensor) -> Tensor:
    """A tensor of every process, one after the other along the first axis; the same on each, and differentiable.

    Each process that computes one loss from it, the same on all, gets `process_count()` times the loss's gradient by
    its own part: the mean over processes that DistributedDataParallel takes is then the gradient of the loss itself.

    Args:
        tensor: (N, ...), of one shape on all processes.

    Returns:
        (processes * N, ...); alone, the tensor itself.
    """
    if process_count() == 1:
        return tensor
    parts: Tensor = _Gather.apply(tensor)
    return parts.flatten(0, 1)


def gathered_rows(rows: Tensor) -> Tensor:
    """Rows (N, C) of every process, N of any size on each; float64 on the CPU, the same on all processes."""
    shares: list[Any] = [None] * process_count()
    if len(shares) == 1:
        return rows.cpu().double()
    distributed.all_gather_object(shares, rows.cpu().double().numpy())
    return torch.cat([torch.from_numpy(share) for share in shares])


class _Gather(torch.autograd.Function):
    """(N, ...) of each process -> (processes, N, ...); the gradients of all processes by a part are added up."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        tensor = tensor.contiguous()
        parts = [torch.empty_like(tensor) for _ in range(process_count())]
        distributed.all_gather(parts, tensor)
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        distributed.all_reduce(gradient)
        return gradient[distributed.get_rank()]


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose statistics in training are those of all processes' batches; each holds equally many values.

    Tensors, names and running statistics are BatchNorm2d's. torch.nn.SyncBatchNorm does the same on GPUs alone; this is
    one path for every device, so that the one that is tested is the one that trains.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the base class's name
        """Normalise (N, C, H, W)."""
        if not self.training:
            return super().forward(input)
        values = input if input.dtype == torch.float64 else input.float()
        variance, mean = torch.var_mean(values, (0, 2, 3), correction=0)
        means, variances = gathered(torch.stack([mean, variance])[None]).unbind(1)
        mean, variance = means.mean(0), variances.mean(0) + means.var(0, correction=0)
        self._follow(mean.detach(), variance.detach(), process_count() * values.numel() // len(mean))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        return torch.addcmul(shift[:, None, None], values, scale[:, None, None]).to(input.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running statistics; the running variance is the unbiased one."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * (count / (count - 1)), momentum)


class GlobalBatchNormAct2d(GlobalBatchNorm2d):
    """The same for timm's batch norm, which drops and activates what it normalised."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the base class's name
        """Normalise (N, C, H, W), then what timm's does."""
        activated: Tensor = self.act(self.drop(super().forward(input)))
        return activated


def normalise_over_all_processes(model: nn.Module) -> None:
    """Turn every batch norm of a model into a global one, its tensors and their names as they are.

    Raises:
        ArgumentError: a batch norm that is neither torch's plain two-dimensional one nor timm's.
    """
    for name, layer in model.named_modules():
        if type(layer) is nn.BatchNorm2d and layer.affine:
            layer.__class__ = GlobalBatchNorm2d
        elif type(layer) is BatchNormAct2d and layer.affine:
            layer.__class__ = GlobalBatchNormAct2d  # type: ignore[assignment]
        elif isinstance(layer, _BatchNorm):
            raise ArgumentError(
                f"{name} is a {type(layer).__name__}, and over several processes only BatchNorm2d with weights can be "
                "normalised; choose another encoder, or train with --devices 1"
            )
