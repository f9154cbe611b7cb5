"""The U-Net of NCSN++ and DDPM++ (Song et al., 2021) with the state-dict names of EDM's `SongUNet`."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cm.networks.modules.dropout import name_dropout_layers
from cm.networks.modules.layers import Conv, Fourier, Linear, Positional, StridedDownsampleConv, embed_labels, xavier
from cm.networks.modules.unet import ResidualBlock, Style, UNetModule, norm
from cm.networks.ncsnpp import NCSNpp

STYLE = Style(
    epsilon=1e-6,
    scale=math.sqrt(0.5),
    init=xavier,
    qkv=partial(xavier, gain=math.sqrt(0.2)),
    last=partial(xavier, gain=1e-5),
)


class SongUNet(UNetModule):
    """The module of an `NCSNpp`."""

    def __init__(self, net: NCSNpp) -> None:
        super().__init__()
        self.classes, self.image, self.patch = net.classes, net.size(0), net.patch
        self._add_mapping(net)
        self.enc = nn.ModuleDict(_encoder(net))
        self.dec = nn.ModuleDict(_decoder(net))
        name_dropout_layers(self)

    def _add_mapping(self, net: NCSNpp) -> None:
        each, width = net.channels * net.noise_channels, 4 * net.channels
        features = each * net.noise_labels
        self.map_noise = Fourier(each, net.fourier_scale) if net.embedding == "fourier" else Positional(each)
        self.map_label = Linear(net.classes, features, init=xavier) if net.classes else None
        self.map_augment = Linear(net.augment_dim, features, init=xavier, bias=False) if net.augment_dim else None
        self.map_layer0 = Linear(features, width, init=xavier)
        self.map_layer1 = Linear(width, width, init=xavier)

    def _embed(self, noise_labels: Tensor, class_labels: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        embedding = embed_labels(self.map_noise, noise_labels)
        if self.map_label is not None:
            if class_labels is None:
                class_labels = embedding.new_zeros(len(embedding), self.classes)
            embedding = embedding + self.map_label(class_labels * math.sqrt(self.classes))
        if self.map_augment is not None and augment_labels is not None:
            embedding = embedding + self.map_augment(augment_labels)
        return F.silu(self.map_layer1(F.silu(self.map_layer0(embedding))))

    def _torso(self, x: Tensor, embedding: Tensor, dropout_seeds: Tensor | None) -> Tensor:
        skips = self._encode(x, embedding, dropout_seeds)
        x = skips[-1]
        for block in self.dec.values():
            if isinstance(block, ResidualBlock):
                x = block(torch.cat([x, skips.pop()], dim=1) if block.joins else x, embedding, dropout_seeds)
        return x

    def _encode(self, x: Tensor, embedding: Tensor, dropout_seeds: Tensor | None) -> list[Tensor]:
        """The skip connections, from the image down."""
        skips: list[Tensor] = []
        pyramid = x = F.pixel_unshuffle(x, self.patch)
        for layer in self.enc.values():
            if isinstance(layer, ResidualBlock):
                x = layer(x, embedding, dropout_seeds)
            elif isinstance(layer, StridedDownsampleConv):
                pyramid = x = (skips.pop() + layer(pyramid)) * STYLE.scale
            else:
                x = layer(x)
            skips.append(x)
        return skips

    def _head(self, h: Tensor) -> Tensor:
        h = self.dec[f"{self.image}_aux_conv"](F.silu(self.dec[f"{self.image}_aux_norm"](h)))
        return F.pixel_shuffle(h, self.patch)


def _encoder(net: NCSNpp) -> dict[str, nn.Module]:
    layers: dict[str, nn.Module] = {f"{net.size(0)}_conv": Conv(net.patch_channels, net.channels, init=xavier)}
    pyramid = net.patch_channels
    for block in net.encoder_blocks():
        layers[block.name] = ResidualBlock(block, net, STYLE)
        if block.resample and net.encoder == "residual":
            name = block.name.replace("down", "aux_residual")
            layers[name] = StridedDownsampleConv(
                pyramid, block.width, 3, resample_filter=net.resample_filter, init=xavier
            )
            pyramid = block.width
    return layers


def _decoder(net: NCSNpp) -> dict[str, nn.Module]:
    layers: dict[str, nn.Module] = {block.name: ResidualBlock(block, net, STYLE) for block in net.decoder_blocks()}
    width = net.channels * net.multipliers[0]
    layers[f"{net.size(0)}_aux_norm"] = norm(net, STYLE, width)
    layers[f"{net.size(0)}_aux_conv"] = Conv(width, net.patch_channels, init=STYLE.last)
    return layers
