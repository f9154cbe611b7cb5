"""A small convolutional classifier, for data on which no pretrained network is a fair judge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from cm.config.settings import at_least, below
from cm.registry import register

if TYPE_CHECKING:
    from torch import nn


@register("network", "classifier")
@dataclass(frozen=True)
class ConvNet:
    """Two stages of two 3x3 convolutions, `channels` and twice that, then `features` units and the logits."""

    resolution: Annotated[int, at_least(4)] = 32
    image_channels: Annotated[int, at_least(1)] = 3
    channels: Annotated[int, at_least(1)] = 32
    features: Annotated[int, at_least(1)] = 64
    classes: Annotated[int, at_least(2)] = 10
    dropout: Annotated[float, at_least(0.0), below(1.0)] = 0.2

    def build(self) -> nn.Module:
        """The network, `(x [B, C, H, W]) -> logits [B, classes]`, with random weights."""
        from cm.networks.modules.classifier import ConvNetModule

        return ConvNetModule(self)
