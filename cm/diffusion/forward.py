"""Forward-mode derivatives: the only place that decides how a network is differentiated forward.

The fused kernels of attention have no derivatives in forward mode. Here, and only here, attention is therefore computed
by matrix products and a softmax ("math"), which have them. The function is computed once, together with its derivative,
so that dropout has the same mask in both. What torch.compile has compiled runs uncompiled here, and autocast does not
apply: the derivative with respect to time needs the precision of float32.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from cm.errors import UserError


def jvp(function: Callable[..., Any], at: tuple[Tensor, ...], along: tuple[Tensor, ...]) -> tuple[Any, Any]:
    """The value of a function of tensors `at` a point, and its derivative `along` a direction, of the same shapes.

    The function returns a tensor or a list of tensors, and so are both results. Gradients flow through both, to the
    point, to the direction and to the parameters of a network; under `torch.no_grad` nothing is kept for them. Raises
    UserError for a network with an operation that has no such derivative.
    """
    _load_rules()
    with sdpa_kernel(SDPBackend.MATH), torch.autocast(at[0].device.type, enabled=False):
        try:
            value, derivative, *_ = torch.func.jvp(function, at, along)
        except RuntimeError as error:  # NotImplementedError is one
            reason = str(error).splitlines()[0]
            if not isinstance(error, NotImplementedError) and "functorch" not in reason:
                raise
            raise UserError(f"the network has no derivative in forward mode, which the loss needs: {reason}") from None
    return value, derivative


@functools.cache
def _load_rules() -> None:
    """Let torch load its rules of differentiation, of which it warns that it compiles some in a deprecated way."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.func.jvp(torch.square, (torch.ones(()),), (torch.ones(()),))
