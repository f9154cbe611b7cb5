"""DDPM++ (Song et al., 2021) as EDM trains it on CIFAR-10: a preset of NCSN++ with 55,732,739 parameters."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from cm.config.settings import at_least, at_most
from cm.networks.ncsnpp import Coefficient, NCSNpp
from cm.registry import register


@register("network", "ddpmpp")
@dataclasses.dataclass(frozen=True)
class DDPMpp(NCSNpp):
    """NCSN++ with a sinusoidal noise embedding, no input pyramid and a box filter for resampling."""

    embedding: Literal["fourier", "positional"] = "positional"
    noise_channels: Annotated[int, at_least(1), at_most(64)] = 1
    encoder: Literal["residual", "standard"] = "standard"
    resample_filter: tuple[Coefficient, ...] = (1, 1)
