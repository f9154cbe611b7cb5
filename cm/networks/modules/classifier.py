"""The module of `cm.networks.classifier`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from cm.networks.modules.dropout import Dropout, name_dropout_layers

if TYPE_CHECKING:
    from cm.networks.classifier import ConvNet


class ConvNetModule(nn.Module):
    """`forward`: logits. `features`: the activations before them, and the logits. `maps`: what `LPIPS` compares.

    `dropout_seeds`, int64 [B] or None, choose the dropout masks of the images in training.
    """

    def __init__(self, config: ConvNet) -> None:
        super().__init__()
        width = config.channels
        self.stage1 = nn.Sequential(_block(config, config.image_channels, width), _block(config, width, width))
        self.stage2 = nn.Sequential(_block(config, width, 2 * width), _block(config, 2 * width, 2 * width))
        self.pool = nn.AvgPool2d(2)
        self.hidden = nn.Linear(2 * width * (config.resolution // 4) ** 2, config.features)
        self.dropout = Dropout(config.dropout)
        self.logits = nn.Linear(config.features, config.classes)
        name_dropout_layers(self)

    def forward(self, x: Tensor, dropout_seeds: Tensor | None = None) -> Tensor:
        """Images [B, C, H, W] in [-1, 1] to logits [B, classes]."""
        return self.features(x, dropout_seeds)[1]

    def features(self, x: Tensor, dropout_seeds: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Features [B, features] and logits [B, classes] of images [B, C, H, W] in [-1, 1]."""
        deep = self.pool(self.maps(x)[-1]).flatten(1)
        features = nn.functional.silu(self.hidden(self.dropout(deep, dropout_seeds)))
        return features, self.logits(features)

    def maps(self, x: Tensor) -> list[Tensor]:
        """The outputs of both stages, [B, channels, H, W] and [B, 2 channels, H/2, W/2]."""
        first = self.stage1(x)
        return [first, self.stage2(self.pool(first))]


def _block(config: ConvNet, inputs: int, outputs: int) -> nn.Module:
    norm = nn.GroupNorm(config.groups(outputs), outputs)
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), norm, nn.SiLU())
