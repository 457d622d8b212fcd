"""The right clipped sum: one image after the other with torch's ordinary autograd (Abadi et al. 2016, algorithm 1)."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dpdt.privacy.clipping.gradient_sum import Loss


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """All numbers in one row, float64."""
    return torch.cat([tensor.detach().double().flatten() for tensor in tensors])


def gradients(model: nn.Module, inputs: Tensor, targets: Tensor, *, loss: Loss) -> Tensor:
    """Each image's gradient in float64, shape (images, numbers)."""
    exact = copy.deepcopy(model).double()
    exact_inputs = inputs.double() if inputs.is_floating_point() else inputs
    exact_targets = targets.double()
    rows = []
    for number in range(len(inputs)):
        exact.zero_grad()
        one = slice(number, number + 1)
        loss(exact(exact_inputs[one]), exact_targets[one]).sum().backward()
        trained = [p for p in exact.parameters() if p.requires_grad]
        rows.append(flat([torch.zeros_like(p) if p.grad is None else p.grad for p in trained]))
    return torch.stack(rows)


def clipped_sum(rows: Tensor, *, norm: float) -> Tensor:
    """Rows of at most that norm, added up."""
    return (rows * (norm / rows.norm(dim=1)).clamp(max=1.0).unsqueeze(1)).sum(0)
