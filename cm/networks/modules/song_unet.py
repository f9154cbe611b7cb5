"""The U-Net of NCSN++ and DDPM++ (Song et al., 2021) with the state-dict names of EDM's `SongUNet`."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cm.networks.modules.song_layers import (
    Conv,
    Down,
    Fourier,
    GroupNorm,
    Linear,
    Positional,
    StridedDown,
    Up,
    attend,
)
from cm.networks.ncsnpp import Block, NCSNpp

SKIP_SCALE = math.sqrt(0.5)
ALMOST_ZERO = 1e-5


class SongUNet(nn.Module):
    """x [B, C, H, W], noise_labels [B], class_labels [B, classes], augment_labels [B, augment_dim] -> [B, C, H, W].

    Noise labels are ln(t)/4. Missing class or augmentation labels count as zero vectors.
    """

    def __init__(self, net: NCSNpp) -> None:
        super().__init__()
        self.classes = net.classes
        self._add_mapping(net)
        self.enc = nn.ModuleDict(_encoder(net))
        self.dec = nn.ModuleDict(_decoder(net))

    def forward(
        self,
        x: Tensor,
        noise_labels: Tensor,
        class_labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        embedding = self._embed(noise_labels, class_labels, augment_labels)
        return self._decode(self._encode(x, embedding), embedding)

    def _add_mapping(self, net: NCSNpp) -> None:
        features, width = net.channels * net.noise_channels, 4 * net.channels
        self.map_noise = Fourier(features, net.fourier_scale) if net.embedding == "fourier" else Positional(features)
        self.map_label = Linear(net.classes, features) if net.classes else None
        self.map_augment = Linear(net.augment_dim, features, bias=False) if net.augment_dim else None
        self.map_layer0 = Linear(features, width)
        self.map_layer1 = Linear(width, width)

    def _embed(self, noise_labels: Tensor, class_labels: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        embedding = self.map_noise(noise_labels)
        if self.map_label is not None:
            if class_labels is None:
                class_labels = embedding.new_zeros(len(embedding), self.classes)
            embedding = embedding + self.map_label(class_labels * math.sqrt(self.classes))
        if self.map_augment is not None and augment_labels is not None:
            embedding = embedding + self.map_augment(augment_labels)
        return F.silu(self.map_layer1(F.silu(self.map_layer0(embedding))))

    def _encode(self, x: Tensor, embedding: Tensor) -> list[Tensor]:
        """The skip connections, from the image down."""
        skips, pyramid = [], x
        for layer in self.enc.values():
            if isinstance(layer, ResidualBlock):
                x = layer(x, embedding)
            elif isinstance(layer, StridedDown):
                pyramid = x = (skips.pop() + layer(pyramid)) * SKIP_SCALE
            else:
                x = layer(x)
            skips.append(x)
        return skips

    def _decode(self, skips: list[Tensor], embedding: Tensor) -> Tensor:
        x = skips[-1]
        for layer in self.dec.values():
            if isinstance(layer, ResidualBlock):
                x = layer(torch.cat([x, skips.pop()], dim=1) if layer.joins else x, embedding)
            else:
                x = F.silu(layer(x)) if isinstance(layer, GroupNorm) else layer(x)
        return x


class ResidualBlock(nn.Module):
    """x [B, I, H, W], embedding [B, E] -> [B, O, H', W']; BigGAN block, then optional attention."""

    def __init__(self, plan: Block, net: NCSNpp) -> None:
        super().__init__()
        self.joins, self.dropout = plan.joins, net.dropout
        self.norm0 = GroupNorm(plan.width_in)
        self.conv0 = _resampling(plan, net, kernel=3)
        self.affine = Linear(4 * net.channels, plan.width)
        self.norm1 = GroupNorm(plan.width)
        self.conv1 = Conv(plan.width, plan.width, gain=ALMOST_ZERO)
        self.skip = _resampling(plan, net, kernel=1) if plan.projects else None
        self._add_attention(plan)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv0(F.silu(self.norm0(x))) + self.affine(embedding)[:, :, None, None]
        h = F.dropout(F.silu(self.norm1(h)), self.dropout, self.training)
        x = (self.conv1(h) + (x if self.skip is None else self.skip(x))) * SKIP_SCALE
        if self.qkv is None:
            return x
        return (self.proj(attend(self.qkv(self.norm2(x)))) + x) * SKIP_SCALE

    def _add_attention(self, plan: Block) -> None:
        width, attention = plan.width, plan.attention
        self.norm2 = GroupNorm(width) if attention else None
        self.qkv = Conv(width, 3 * width, 1, gain=math.sqrt(0.2)) if attention else None
        self.proj = Conv(width, width, 1, gain=ALMOST_ZERO) if attention else None


def _encoder(net: NCSNpp) -> dict[str, nn.Module]:
    layers: dict[str, nn.Module] = {f"{net.size(0)}_conv": Conv(net.image_channels, net.channels)}
    pyramid = net.image_channels
    for block in net.encoder_blocks():
        layers[block.name] = ResidualBlock(block, net)
        if block.resample and net.encoder == "residual":
            name = block.name.replace("down", "aux_residual")
            layers[name] = StridedDown(pyramid, block.width, 3, net.resample_filter)
            pyramid = block.width
    return layers


def _decoder(net: NCSNpp) -> dict[str, nn.Module]:
    layers: dict[str, nn.Module] = {block.name: ResidualBlock(block, net) for block in net.decoder_blocks()}
    width = net.channels * net.multipliers[0]
    layers[f"{net.size(0)}_aux_norm"] = GroupNorm(width)
    layers[f"{net.size(0)}_aux_conv"] = Conv(width, net.image_channels, gain=ALMOST_ZERO)
    return layers


def _resampling(plan: Block, net: NCSNpp, kernel: int) -> Conv:
    if plan.resample == "down":
        return Down(plan.width_in, plan.width, kernel, net.resample_filter)
    if plan.resample == "up":
        return Up(plan.width_in, plan.width, kernel, net.resample_filter)
    return Conv(plan.width_in, plan.width, kernel)
