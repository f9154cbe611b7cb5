"""What a step does with its gradient: clip it, step the optimiser, and let the moving averages follow.

    theta-minus <- mu theta-minus + (1 - mu) theta   (Eq. 8),   and the same for the ema weights with each `ema_decay`

`training.compile` compiles all of it as one function. What changes from step to step, the learning rate and mu, are
then tensors, so that it is compiled once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from cm.training.optimisers import is_update_compiled, learning_rate
from cm.training.plan import Plan
from cm.training.state import TrainingState


class Update:
    """Changes the weights, the moving averages and the optimiser of a state, given the gradients of what is trained."""

    def __init__(self, plan: Plan, state: TrainingState) -> None:
        self._plan, self._state = plan, state
        self._parameters, self._scaled = list(state.student.parameters()), state.scaler.is_enabled()
        self._averages = [list(module.parameters()) for module in (*state.averages, state.target) if module is not None]
        self._tensors: list[Tensor] = []
        self._function: Callable[..., None] = self._update
        if is_update_compiled(plan.training):
            self._tensors = [torch.zeros((), device=plan.device) for _ in range(1 + len(self._averages))]
            self._function = torch.compile(self._update, mode=plan.training.compile_mode)
        if plan.training.cuda_graphs:
            self._fix_addresses()

    @torch.no_grad()
    def __call__(self, step: int) -> None:
        """Do the update of a step, in place."""
        numbers = self._numbers(step)
        for tensor, number in zip(self._tensors, numbers, strict=False):
            tensor.fill_(number)
        self._function(*(self._tensors or numbers))

    def _numbers(self, step: int) -> list[float]:
        """The learning rate of a step, and the weight of the student in each moving average."""
        training, objective = self._plan.training, self._plan.objective
        numbers = [learning_rate(training, step), *(1 - decay for decay in training.ema_decay)]
        return numbers if self._state.target is None else [*numbers, 1 - objective.mu_at(step, training.total_steps)]

    def _update(self, rate: float | Tensor, *weights: float | Tensor) -> None:
        if self._scaled:
            self._step_scaled(rate)
        else:
            self._clip()
            self._state.optimiser.step(rate)
        for average, weight in zip(self._averages, weights, strict=True):
            move_towards(average, self._parameters, weight)

    def _step_scaled(self, rate: float | Tensor) -> None:
        """A step with scaled gradients, which is left out if one of them is not finite."""
        scaler = self._state.scaler
        optimiser = cast(torch.optim.Optimizer, self._state.optimiser)  # it has what the scaler needs
        scaler.unscale_(optimiser)
        self._clip()
        scaler.step(optimiser, rate)
        scaler.update()

    def _clip(self) -> None:
        if (clip := self._plan.training.clip) is not None:
            nn.utils.clip_grad_norm_(self._state.optimiser.parameters, clip)

    def _fix_addresses(self) -> None:
        """Promise the compiler that these tensors stay where they are, so that CUDA graphs may change them in place."""
        optimiser = self._state.optimiser
        optimiser.clear_gradients()
        gradients = [cast(Tensor, parameter.grad) for parameter in optimiser.parameters]
        states = dict(optimiser.tensors()).values()
        for tensor in itertools.chain(optimiser.parameters, gradients, *self._averages, states, self._tensors):
            torch._dynamo.mark_static_address(tensor)


def move_towards(average: list[Any], parameters: list[Any], weight: float | Tensor) -> None:
    """average <- average + weight (parameters - average), in place, of lists of tensors; `weight` is a scalar."""
    torch._foreach_lerp_(average, parameters, [weight] * len(average) if isinstance(weight, Tensor) else weight)
