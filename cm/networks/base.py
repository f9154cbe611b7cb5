"""What every network offers: the protocols of descriptions and modules. Importing this module does not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor, nn


class Network(Protocol):
    """The description of a network: a frozen dataclass whose fields are the `network:` section of the YAML.

    `classes` is the number of class labels that the network is conditioned on, 0 for none.
    """

    @property
    def image_channels(self) -> int:
        """Channels C of the images."""

    @property
    def resolution(self) -> int:
        """Height and width of the images in pixels."""

    @property
    def classes(self) -> int:
        """The number of classes."""

    def build(self) -> nn.Module:
        """The module, freshly initialised from torch's global generator."""

    def check(self, where: str = "network") -> None:
        """Raises UserError for values that no network can have."""


class Classifier(Protocol):
    """The module of a classifier, whose features score samples and whose maps a perceptual distance compares."""

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, F] and logits [B, classes] of images [B, C, H, W] in [-1, 1]."""

    def maps(self, x: Tensor) -> list[Tensor]:
        """Feature maps [B, C_i, H_i, W_i] of images [B, C, H, W] in [-1, 1], one for each stage."""


@runtime_checkable
class SupportsActivationCheckpointing(Protocol):
    """A module that can compute its activations again in the backward pass instead of keeping them."""

    def set_activation_checkpointing(self, on: bool) -> None:
        """Switch activation checkpointing: the same gradients, less memory, more time."""


def set_activation_checkpointing(model: nn.Module, on: bool) -> None:
    """Switch activation checkpointing of the network in a model; nothing happens where it is not supported."""
    for module in model.modules():
        if isinstance(module, SupportsActivationCheckpointing):
            module.set_activation_checkpointing(on)
