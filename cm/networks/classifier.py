"""A small convolutional classifier, for data on which no pretrained network is a fair judge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cm.registry import register, setting

if TYPE_CHECKING:
    from torch import nn


@register("network", "convnet")
@dataclass(frozen=True)
class ConvNet:
    """Two stages of two 3x3 convolutions, `channels` and twice that, then `features` units and the logits."""

    resolution: int = setting(32, low=4)
    image_channels: int = setting(3, low=1)
    channels: int = setting(32, low=1)
    features: int = setting(64, low=1)
    classes: int = setting(10, low=2)
    dropout: float = setting(0.2, low=0.0, below=1.0)

    def build(self) -> nn.Module:
        """The network, `(x [B, C, H, W]) -> logits [B, classes]`, with random weights."""
        from cm.networks.modules.classifier import ConvNetModule

        return ConvNetModule(self)
