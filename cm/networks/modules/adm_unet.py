"""The U-Net of ADM (Dhariwal and Nichol, 2021) with the state-dict names of EDM's `DhariwalUNet`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cm.networks.adm import ADM
from cm.networks.modules.dropout import name_dropout_layers
from cm.networks.modules.layers import Conv, Linear, Positional, embed_labels, normal, uniform, zero
from cm.networks.modules.unet import ResidualBlock, Style, UNetModule, norm

STYLE = Style(epsilon=1e-5, scale=1.0, init=uniform, qkv=uniform, last=zero)


class ADMUNet(UNetModule):
    """The module of an `ADM`; its noise labels are multiplied with `noise_factor`."""

    def __init__(self, net: ADM) -> None:
        super().__init__()
        self.classes, self.noise_factor = net.classes, net.noise_factor
        self._add_mapping(net)
        stem = {f"{net.size(0)}_conv": Conv(net.image_channels, net.stem, init=uniform)}
        self.enc = nn.ModuleDict(
            stem | {block.name: ResidualBlock(block, net, STYLE) for block in net.encoder_blocks()}
        )
        self.dec = nn.ModuleDict({block.name: ResidualBlock(block, net, STYLE) for block in net.decoder_blocks()})
        self.out_norm = norm(net, STYLE, net.stem)
        self.out_conv = Conv(net.stem, net.image_channels, init=zero)
        name_dropout_layers(self)

    def _add_mapping(self, net: ADM) -> None:
        features, width = net.channels * net.noise_labels, 4 * net.channels
        self.map_noise = Positional(net.channels, adm=True)
        self.map_augment = Linear(net.augment_dim, features, init=zero, bias=False) if net.augment_dim else None
        self.map_layer0 = Linear(features, width, init=uniform)
        self.map_layer1 = Linear(width, width, init=uniform)
        self.map_label = Linear(net.classes, width, init=normal, bias=False) if net.classes else None

    def _embed(self, noise_labels: Tensor, class_labels: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        embedding = embed_labels(self.map_noise, self.noise_factor * noise_labels)
        if self.map_augment is not None and augment_labels is not None:
            embedding = embedding + self.map_augment(augment_labels)
        embedding = self.map_layer1(F.silu(self.map_layer0(embedding)))
        if self.map_label is not None and class_labels is not None:
            embedding = embedding + self.map_label(class_labels)
        return F.silu(embedding)

    def _torso(self, x: Tensor, embedding: Tensor, dropout_seeds: Tensor | None) -> Tensor:
        skips = []
        for layer in self.enc.values():
            x = layer(x, embedding, dropout_seeds) if isinstance(layer, ResidualBlock) else layer(x)
            skips.append(x)
        for block in self.dec.values():
            x = block(torch.cat([x, skips.pop()], dim=1) if block.joins else x, embedding, dropout_seeds)
        return x

    def _head(self, h: Tensor) -> Tensor:
        return self.out_conv(F.silu(self.out_norm(h)))
