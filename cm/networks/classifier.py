"""A small convolutional classifier, for data sets that pretrained networks do not fit."""

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
    """Two stages of two 3x3 convolutions, of `channels` and twice that, then a hidden layer and the logits.

    `resolution`: height and width of the images in pixels. `image_channels`: channels of the images. `channels`: width
    of the first stage. `features`: width of the hidden layer, whose activations are the features of an image.
    `classes`: number of classes. `dropout`: probability that an input of the hidden layer is dropped.
    """

    resolution: Annotated[int, at_least(4)] = 32
    image_channels: Annotated[int, at_least(1)] = 3
    channels: Annotated[int, at_least(1)] = 32
    features: Annotated[int, at_least(1)] = 64
    classes: Annotated[int, at_least(2)] = 10
    dropout: Annotated[float, at_least(0.0), below(1.0)] = 0.2

    def check(self, where: str = "network") -> None:
        """Nothing to refuse: all values that the types admit describe a network."""

    def build(self) -> nn.Module:
        """The network, `(x [B, C, H, W]) -> logits [B, classes]`, with random weights."""
        from cm.networks.modules.classifier import ConvNetModule

        return ConvNetModule(self)
