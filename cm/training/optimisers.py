"""The optimiser, its learning rate and the scaler of float16 gradients.

Adam and RAdam are torch's functions; by default they have the betas and the epsilon of the official code. The classes
of `torch.optim` are not used: they import torch's compiler, which takes longer than 40 steps of a small network, and
look up the state of every parameter in every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.radam import radam

from cm.config import Training

CONSTANTS: dict[str, Any] = {"beta1": 0.9, "weight_decay": 0.0, "maximize": False}


class Optimiser:
    """Adam (Kingma & Ba 2015) or RAdam (Liu et al. 2020) of the parameters of a module.

    A parameter without a gradient is left alone. `param_groups` is what torch's scaler of gradients reads.
    """

    def __init__(self, training: Training, module: nn.Module) -> None:
        self.parameters = list(module.parameters())
        self.param_groups: list[dict[str, Any]] = [{"params": self.parameters}]
        self._means = [torch.zeros_like(parameter) for parameter in self.parameters]
        self._squares = [torch.zeros_like(parameter) for parameter in self.parameters]
        self._steps = [parameter.new_zeros(()) for parameter in self.parameters]
        constants = {"beta2": training.beta2, "eps": training.epsilon, **CONSTANTS}
        self._function: Callable[..., None] = partial(FUNCTIONS[training.optimiser], **constants)
        self._compiled = is_update_compiled(training)
        self._keeps_gradients = training.cuda_graphs

    @torch.no_grad()
    def step(self, rate: float | Tensor) -> None:
        """Do one step with a learning rate, in place."""
        gradients = [parameter.grad for parameter in self.parameters]
        rows = zip(self.parameters, gradients, self._means, self._squares, self._steps, strict=True)
        used = [row for row in rows if row[1] is not None]
        self._function([list(column) for column in zip(*used, strict=True)], rate, self._compiled)

    def clear_gradients(self) -> None:
        """Remove the gradients, or set them to 0 where CUDA graphs need them to stay at their addresses."""
        for parameter in self.parameters:
            if not self._keeps_gradients:
                parameter.grad = None
            elif parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            else:
                parameter.grad.zero_()

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The state: the moving averages of each parameter's gradient and of its square, and its number of steps."""
        state = {"exp_avg": self._means, "exp_avg_sq": self._squares, "step": self._steps}
        for index in range(len(self.parameters)):
            for name, tensors in state.items():
                yield f"{index}.{name}", tensors[index]


def _adam(lists: list[Any], rate: Any, compiled: bool, **constants: Any) -> None:
    """Adam of parameters, gradients, means, squares and steps: fused, or in operations that the compiler fuses."""
    parameters, gradients, means, squares, steps = lists
    how: dict[str, Any] = {"foreach": True, "capturable": True} if compiled else {"fused": True}
    adam(parameters, gradients, means, squares, [], steps, lr=rate, amsgrad=False, **how, **constants)


def _radam(lists: list[Any], rate: Any, compiled: bool, **constants: Any) -> None:
    """RAdam of parameters, gradients, means, squares and steps; Python reads the steps only on a CPU."""
    parameters, gradients, means, squares, steps = lists
    capturable = compiled or parameters[0].is_cuda
    radam(parameters, gradients, means, squares, steps, lr=rate, foreach=True, capturable=capturable, **constants)


FUNCTIONS = {"adam": _adam, "radam": _radam}


def is_update_compiled(training: Training) -> bool:
    """Whether the update is compiled: not in float16, where Python decides after each step whether to skip it."""
    return training.compile and training.precision != "float16"


def build_scaler(training: Training, device: str) -> torch.amp.GradScaler:
    """The gradient scaler, which does nothing unless the precision is float16."""
    return torch.amp.GradScaler(torch.device(device).type, enabled=training.precision == "float16")


def learning_rate(training: Training, step: int) -> float:
    """The learning rate of a step: lr min(1, step / warmup), times the factor by which it falls.

    That is 1 - step / total_steps (`linear`) or 1 / sqrt(max(1, step / decay_from)) (`inverse-sqrt`; Karras et al.
    2024, Eq. 67).
    """
    rise = min(1.0, step / training.warmup) if training.warmup else 1.0
    fall = {"none": 1.0, "linear": 1.0 - step / training.total_steps}
    fall["inverse-sqrt"] = max(1.0, step / training.decay_from) ** -0.5
    return training.lr * rise * fall[training.lr_decay]
