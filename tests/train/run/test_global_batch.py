"""Loss and batch statistics over the batch of two processes, each against one process with the whole batch."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import distributed, nn

from breastseg_deploy.errors import ArgumentError
from breastseg_train.network.architecture import Architecture
from breastseg_train.network.model import SegmentationModel
from breastseg_train.run.global_batch import GlobalBatchNorm2d, gathered, gathered_rows, normalise_over_all_processes
from breastseg_train.run.loss import combined_loss
from breastseg_train.run.processes import place, run_in_processes

NORM_SHAPE = (4, 3, 6, 6)


def gradient_and_norm(logits: np.ndarray, truth: np.ndarray, values: np.ndarray, goal: np.ndarray) -> dict[str, Any]:
    """What one of two processes computes from its half of each batch; all gradients as DDP would average them."""
    distributed.init_process_group("gloo")
    rank, half = place().rank, len(truth) // 2
    mine = slice(rank * half, (rank + 1) * half)
    answer: dict[str, Any] = {}
    for name, whole in {"global": gathered, "per_process": lambda tensor: tensor}.items():
        bias = torch.zeros((), requires_grad=True)
        loss = combined_loss(whole(torch.from_numpy(logits)[mine] + bias), whole(torch.from_numpy(truth)[mine]))
        loss.backward()
        answer[name] = float(mean_gradient(bias))
    norm = nn.Sequential(nn.BatchNorm2d(NORM_SHAPE[1])).double()
    normalise_over_all_processes(norm)
    tensor = torch.from_numpy(values)[mine].requires_grad_()
    output = norm(tensor)
    (gathered(output) - torch.from_numpy(goal)).pow(2).sum().backward()
    by_tensor = gathered(tensor.grad) / 2 if tensor.grad is not None else None  # DDP's mean over two processes
    answer |= {"output": gathered(output).detach(), "by_tensor": by_tensor, "state": norm.state_dict()}
    answer["by_weights"] = [mean_gradient(parameter) for parameter in norm.parameters()]
    answer["rows"] = gathered_rows(torch.full((rank + 1, 2), rank))
    answer = {k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in answer.items()}
    distributed.destroy_process_group()
    return answer


def mean_gradient(parameter: torch.Tensor) -> torch.Tensor:
    """The mean over processes, as DistributedDataParallel takes it."""
    assert parameter.grad is not None
    distributed.all_reduce(parameter.grad)
    return parameter.grad / place().processes


@pytest.fixture(scope="module")
def batch() -> dict[str, np.ndarray]:
    """The first half of the batch holds many cells and the second nearly none."""
    rng = np.random.default_rng(0)
    truth = np.zeros((4, 1, 16, 16), np.float32)
    truth[:2, :, :12] = 1
    truth[3, :, 0, 0] = 1
    values = rng.normal(3, 2, NORM_SHAPE)
    values[:2] += 5
    logits = rng.normal(size=truth.shape).astype(np.float32)
    return {"logits": logits, "truth": truth, "values": values, "goal": rng.normal(size=NORM_SHAPE)}


@pytest.fixture(scope="module")
def halves(batch: dict[str, np.ndarray]) -> dict[str, Any]:
    """What two processes compute together."""
    answer: dict[str, Any] = run_in_processes(gradient_and_norm, 2, *batch.values())
    return answer


def test_the_loss_of_two_processes_is_that_of_the_global_batch(
    batch: dict[str, np.ndarray], halves: dict[str, Any]
) -> None:
    bias = torch.zeros((), requires_grad=True)
    combined_loss(torch.from_numpy(batch["logits"]) + bias, torch.from_numpy(batch["truth"])).backward()
    assert bias.grad is not None
    assert halves["global"] == pytest.approx(float(bias.grad), rel=1e-5)
    # With pos_weight and Dice of each process's own half, the gradient is another: this test can tell.
    assert halves["per_process"] != pytest.approx(float(bias.grad), rel=0.1)


def test_batch_norm_of_two_processes_is_that_of_the_global_batch(
    batch: dict[str, np.ndarray], halves: dict[str, Any]
) -> None:
    norm = nn.Sequential(nn.BatchNorm2d(NORM_SHAPE[1])).double()
    tensor = torch.from_numpy(batch["values"]).requires_grad_()
    output = norm(tensor)
    (output - torch.from_numpy(batch["goal"])).pow(2).sum().backward()
    assert tensor.grad is not None
    np.testing.assert_allclose(halves["output"], output.detach(), atol=1e-12)
    np.testing.assert_allclose(halves["by_tensor"], tensor.grad, atol=1e-12)
    for found, parameter in zip(halves["by_weights"], norm.parameters(), strict=True):
        np.testing.assert_allclose(found, parameter.grad, atol=1e-10)
    assert halves["state"].keys() == norm.state_dict().keys()
    for name, expected in norm.state_dict().items():
        np.testing.assert_allclose(halves["state"][name], expected, atol=1e-12, err_msg=name)


def test_rows_are_gathered_from_shares_of_any_size(halves: dict[str, Any]) -> None:
    assert halves["rows"].tolist() == [[0, 0], [1, 1], [1, 1]]


def test_in_evaluation_a_global_batch_norm_is_the_plain_one() -> None:
    plain = nn.Sequential(nn.BatchNorm2d(3))
    shared = deepcopy(plain)
    normalise_over_all_processes(shared)
    tensor = torch.randn(NORM_SHAPE, generator=torch.Generator().manual_seed(0))
    assert torch.equal(shared.eval()(tensor), plain.eval()(tensor))


@pytest.mark.parametrize("training", [True, False])
def test_timms_batch_norm_normalises_and_activates_as_before(training: bool) -> None:
    plain = nn.Sequential(BatchNormAct2d(3, act_layer=nn.ReLU6, inplace=False)).double().train(training)
    shared = deepcopy(plain)
    normalise_over_all_processes(shared)
    tensor = 4 * torch.randn(NORM_SHAPE, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(shared(tensor), plain(tensor))
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(shared.state_dict()[name], value)


def test_the_lite_encoders_train_in_several_processes() -> None:
    model = SegmentationModel(Architecture("tu-tf_efficientnet_lite0", (16,) * 5))
    normalise_over_all_processes(model)
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert all(isinstance(layer, GlobalBatchNorm2d) for layer in norms)


def test_a_batch_norm_of_another_kind_is_refused_by_name() -> None:
    with pytest.raises(ArgumentError, match=r"1 is a BatchNorm1d, and .* train with --devices 1"):
        normalise_over_all_processes(nn.Sequential(nn.ReLU(), nn.BatchNorm1d(3)))
