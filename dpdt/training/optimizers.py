"""How a step changes the weights: the optimizers of `train.optimizer`, and the learning rate of each step.

They see the released (in a DP arm noisy) gradient and public numbers, nothing else: post-processing, at no price.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, Final

import torch
from torch import nn

from dpdt.training.plan import TrainingPlan

__all__ = ["CorrectedAdam", "make_optimizer", "rate_of_step", "spread_of_noise"]

MOMENTUM: Final = 0.9
"""Of SGD."""


def make_optimizer(plan: TrainingPlan, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The plan's optimizer with its learning rate and weight decay."""
    settings: dict[str, Any] = {"lr": plan.learning_rate, "weight_decay": plan.weight_decay}
    if plan.optimizer == "sgd":
        return torch.optim.SGD(parameters, momentum=MOMENTUM, **settings)
    if plan.optimizer == "closed-form":  # the step is the way to the solution
        return torch.optim.SGD(parameters, lr=1.0)
    if plan.optimizer == "adamw":
        return torch.optim.AdamW(parameters, **settings)
    if plan.optimizer == "adam-corrected":
        mechanism = plan.mechanism
        deviation = 0.0 if mechanism is None else mechanism.noise_multiplier * mechanism.max_grad_norm
        return CorrectedAdam(parameters, noise=deviation / plan.expected_batch_size, **settings)
    return torch.optim.NAdam(parameters, **settings)


def rate_of_step(plan: TrainingPlan, step: int) -> float:
    """The learning rate of a step, counted from 0: it rises in a line over the warm-up, then stays or falls to 0.

    It depends on the plan and the step alone, so a run that goes on has the rates of an undisturbed one
    (cosine: Loshchilov & Hutter 2017, arXiv 1608.03983, equation 5, without restarts).
    """
    if plan.optimizer == "closed-form":
        return 1.0
    warm = round(plan.warm_up * plan.num_steps)
    if step < warm:
        return plan.learning_rate * (step + 1) / warm
    if plan.schedule == "cosine":
        return plan.learning_rate * (1 + math.cos(math.pi * (step - warm) / (plan.num_steps - warm))) / 2
    return plan.learning_rate


def spread_of_noise(beta: float, *, step: int) -> float:
    """Standard deviation of Adam's second moment of normal noise alone, over the noise's variance.

    The moment is a mean of squares with the weights (1 - b) b^(t - i) / (1 - b^t), whose squares add up to
    (1 - b) / (1 + b) · (1 + b^t) / (1 - b^t); the variance of a square is 2.

    >>> round(spread_of_noise(0.999, step=1), 4), round(spread_of_noise(0.999, step=10**6), 4)
    (1.4142, 0.0316)
    """
    left = beta**step
    return math.sqrt(2 * (1 - beta) / (1 + beta) * (1 + left) / (1 - left))


class CorrectedAdam(torch.optim.Optimizer):
    """Adam whose second moment is freed from the noise of DP (Tang et al. 2023, arXiv 2312.14334, algorithm 1).

    The released gradient has known noise of variance Phi in every coordinate, so the second moment estimates the
    gradient's own plus Phi. The step is lr · m / sqrt(max(v - Phi, floor)) with Adam's moments m and v, both corrected
    for their start at zero.

    In the paper the floor is a number to be tuned. Here it is the standard deviation that v has of noise alone, below
    which v - Phi says nothing (`spread_of_noise`). Without noise it is plain Adam. Weight decay is AdamW's.

    Args:
        parameters: To be trained.
        lr: Learning rate.
        noise: Standard deviation of the noise in a coordinate of the released gradient.
        weight_decay: Part of the weights, times lr, that a step takes away.
        betas: Of the moments.
        eps: Its square is the least that the root is taken of.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float,
        noise: float,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        settings = {"lr": lr, "noise": noise, "weight_decay": weight_decay, "betas": betas, "eps": eps}
        super().__init__(parameters, settings)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take a step with the gradients that are there."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._change(parameter, parameter.grad, group)

    def _change(self, parameter: nn.Parameter, gradient: torch.Tensor, group: dict[str, Any]) -> None:
        state, rate, variance = self.state[parameter], group["lr"], group["noise"] ** 2
        if not state:
            state |= {"step": 0, "m": torch.zeros_like(parameter), "v": torch.zeros_like(parameter)}
        state["step"] += 1
        first, second = group["betas"]
        state["m"].lerp_(gradient, 1 - first)
        state["v"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        floor = max(variance * spread_of_noise(second, step=state["step"]), group["eps"] ** 2)
        moment = (state["v"] / (1 - second ** state["step"])).sub_(variance).clamp_(min=floor)
        parameter.mul_(1 - rate * group["weight_decay"])
        parameter.addcdiv_(state["m"], moment.sqrt_(), value=-rate / (1 - first ** state["step"]))
