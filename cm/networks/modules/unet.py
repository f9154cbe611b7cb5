"""What both families of U-Nets share: the order of the forward pass, the residual block, activation checkpointing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from cm.diffusion.precision import recomputation
from cm.networks.modules.dropout import Dropout
from cm.networks.modules.layers import (
    Conv,
    Downsample,
    DownsampleConv,
    GroupNorm,
    Initialiser,
    Linear,
    Upsample,
    UpsampleConv,
    attend,
)
from cm.networks.plan import Block, UNet


@dataclass(frozen=True)
class Style:
    """What the blocks of a family share: epsilon of the normalisations, scale of each sum, and initialisation.

    `last` initialises the last convolution of a residual path, `qkv` that of query, key and value, `init` all others.
    """

    epsilon: float
    scale: float
    init: Initialiser
    qkv: Initialiser
    last: Initialiser


class UNetModule(nn.Module, ABC):
    """x [B, C, H, W], noise_labels [B], class_labels [B, classes], augment_labels [B, augment_dim] -> [B, C, H, W].

    Noise labels are c_noise(t) of the preconditioning; a network of two times has two for each image, [B, 2]. Missing
    class or augmentation labels count as zero vectors. `dropout_seeds`, int64 [B] or None, choose the dropout masks of
    the images. Under autocast the embedding and the last layers, and so the result, keep the precision of x, as in
    OpenAI's network.
    """

    classes: int

    def forward(
        self,
        x: Tensor,
        noise_labels: Tensor,
        class_labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
        dropout_seeds: Tensor | None = None,
    ) -> Tensor:
        """The raw network output F, [B, C, H, W]."""
        with _full_precision(x):
            embedding = self._embed(noise_labels, class_labels, augment_labels)
        h = self._torso(x, embedding, dropout_seeds).to(x.dtype)
        with _full_precision(x):
            return self._head(h)

    def set_activation_checkpointing(self, on: bool) -> None:
        """Switch activation checkpointing of all residual blocks: the same gradients, less memory, more time."""
        for block in self.modules():
            if isinstance(block, ResidualBlock):
                block.checkpointed = on

    @abstractmethod
    def _embed(self, noise_labels: Tensor, class_labels: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        """What the blocks are conditioned on: [B, E]."""

    @abstractmethod
    def _torso(self, x: Tensor, embedding: Tensor, dropout_seeds: Tensor | None) -> Tensor:
        """Encoder and decoder: [B, C, H, W] -> [B, width, H, W]."""

    @abstractmethod
    def _head(self, h: Tensor) -> Tensor:
        """The last normalisation and convolution: [B, width, H, W] -> [B, C, H, W]."""


class ResidualBlock(nn.Module):
    """x [B, I, H, W], embedding [B, E] -> [B, O, H', W']: a BigGAN block, then optional attention.

    `dropout_seeds`, int64 [B] or None, choose the dropout masks. `checkpointed`: the backward pass computes the
    activations again instead of keeping them.
    """

    checkpointed = False

    def __init__(self, plan: Block, net: UNet, style: Style) -> None:
        super().__init__()
        width = plan.width
        self.joins, self.scale = plan.joins, style.scale
        self.scale_shift, self.double_norm = net.scale_shift, net.double_norm
        self.norm0 = norm(net, style, plan.width_in)
        self.conv0 = _resampling(plan, net, style, kernel=3)
        self.affine = Linear(4 * net.channels, 2 * width if net.scale_shift else width, init=style.init)
        self.norm1 = norm(net, style, width)
        self.dropout = Dropout(net.dropout)
        self.conv1 = Conv(width, width, init=style.last)
        self.skip = _skip(plan, net, style)
        self.heads = net.heads(width) if plan.attention else 0
        if self.heads:
            self.norm2 = norm(net, style, width)
            self.qkv = Conv(width, 3 * width, 1, init=style.qkv)
            self.proj = Conv(width, width, 1, init=style.last)

    def forward(self, x: Tensor, embedding: Tensor, dropout_seeds: Tensor | None = None) -> Tensor:
        if self.checkpointed and torch.is_grad_enabled():
            options = recomputation(x.device)
            return checkpoint(self._forward, x, embedding, dropout_seeds, use_reentrant=False, **options)
        return self._forward(x, embedding, dropout_seeds)

    def _forward(self, x: Tensor, embedding: Tensor, dropout_seeds: Tensor | None) -> Tensor:
        h = self._condition(self.conv0(F.silu(self.norm0(x))), self.affine(embedding)[:, :, None, None])
        h = self.dropout(F.silu(h), dropout_seeds)
        x = ((x if self.skip is None else self.skip(x)) + self.conv1(h)) * self.scale
        if not self.heads:
            return x
        return (x + self.proj(attend(self.qkv(self.norm2(x)), self.heads))) * self.scale

    def _condition(self, h: Tensor, conditions: Tensor) -> Tensor:
        if not self.scale_shift:
            return self.norm1(h + conditions)
        scale, shift = conditions.chunk(2, dim=1)
        if self.double_norm:
            return torch.addcmul(channel_norm(shift), self.norm1(h), channel_norm(scale))
        return torch.addcmul(shift, self.norm1(h), scale + 1)


def channel_norm(x: Tensor) -> Tensor:
    """x / rms of each image over its channels, [B, C, 1, 1] (adaptive double normalisation: Lu & Song 2024, Eq. 9)."""
    return x * (x.float().square().mean(dim=1, keepdim=True) + 1e-8).rsqrt().to(x.dtype)


def norm(net: UNet, style: Style, width: int) -> GroupNorm:
    """The normalisation of a network at a width."""
    return GroupNorm(net.groups(width), width, eps=style.epsilon)


def _skip(plan: Block, net: UNet, style: Style) -> nn.Module | None:
    if net.projects(plan):
        return _resampling(plan, net, style, kernel=1)
    if not plan.resample:
        return None
    return Downsample(net.resample_filter) if plan.resample == "down" else Upsample(net.resample_filter)


def _resampling(plan: Block, net: UNet, style: Style, *, kernel: int) -> Conv:
    if not plan.resample:
        return Conv(plan.width_in, plan.width, kernel, init=style.init)
    conv = DownsampleConv if plan.resample == "down" else UpsampleConv
    return conv(plan.width_in, plan.width, kernel, resample_filter=net.resample_filter, init=style.init)


def _full_precision(x: Tensor) -> torch.autocast:
    """A context without autocast on the device of x."""
    return torch.autocast(x.device.type, enabled=False)
