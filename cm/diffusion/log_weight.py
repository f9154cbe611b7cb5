"""A learned weight of a loss: its logarithm as a function of time (Karras et al. 2024, Eq. 21; Lu & Song 2024, Eq. 8).

e^w(t) L(t) - w(t) is smallest for w(t) = -ln E[L(t)], with which e^w(t) L(t) has the mean 1 at every time.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

FEATURES = 128


class LogWeight(nn.Module):
    """w(t) = sum over i of weight_i cos(2 pi (f_i c + p_i)), c = ln(tan t) / 4, of times t [B] of TrigFlow: [B].

    The frequencies f_i are drawn from N(0, 1), the phases p_i are uniform, both fixed, as in EDM2's networks; c differs
    by a constant from the noise label of EDM. w is 0 at first.
    """

    frequencies: Tensor
    phases: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(FEATURES))
        self.register_buffer("phases", torch.rand(FEATURES))
        self.weight = nn.Parameter(torch.zeros(FEATURES))

    def forward(self, t: Tensor) -> Tensor:
        """w(t) [B], in the precision of the weights, autocast or not."""
        c = (t.tan().log() / 4).to(self.weight.dtype)
        features = (2 * math.pi * (c[:, None] * self.frequencies + self.phases)).cos()
        return (features * self.weight).sum(1)
