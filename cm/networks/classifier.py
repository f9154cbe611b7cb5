"""A small convolutional classifier, for data sets that pretrained networks do not fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from cm.config.settings import at_least, at_most, below
from cm.errors import UserError
from cm.networks.plan import check_weights
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

    resolution: Annotated[int, at_least(4), at_most(8192)] = 32
    image_channels: Annotated[int, at_least(1), at_most(1024)] = 3
    channels: Annotated[int, at_least(1), at_most(16384)] = 32
    features: Annotated[int, at_least(1), at_most(65536)] = 64
    classes: Annotated[int, at_least(2), at_most(10**6)] = 10
    dropout: Annotated[float, at_least(0.0), below(1.0)] = 0.2

    def check(self, where: str = "network") -> None:
        """UserError for a width that cannot be split into normalisation groups, and for a network that is too large."""
        if self.channels % self.groups(self.channels):
            raise UserError(f"{where}: channels {self.channels} must be below 8 or a multiple of 8")
        flat = 2 * self.channels * (self.resolution // 4) ** 2
        convolutions = 9 * self.channels * (self.image_channels + 7 * self.channels)
        check_weights(convolutions + self.features * (flat + self.classes), where)

    def groups(self, width: int) -> int:
        """Groups of a normalisation: 8, or one for each channel of a narrower network."""
        return min(8, width)

    def build(self) -> nn.Module:
        """The network, `(x [B, C, H, W]) -> logits [B, classes]`, with random weights."""
        from cm.networks.modules.classifier import ConvNetModule

        return ConvNetModule(self)
