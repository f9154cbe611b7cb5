"""LPIPS v0.1 (Zhang et al. 2018): the `lpips` package's network and linear heads."""

from __future__ import annotations

import importlib.resources
import warnings
from collections.abc import Mapping

import lpips
import torch
from torch import Tensor, nn

from cm.diffusion.distances import Distance
from cm.diffusion.perceptual import FeatureDistance

NETS = {"lpips-vgg16": "vgg", "lpips-alexnet": "alex"}


def build(name: str, *, pooling: str = "max") -> lpips.LPIPS:
    """The network for the weights `name`, which are not set.

    `pooling`: with `average`, average pools of the same windows replace the max pools.
    """
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")  # lpips calls torchvision with deprecated arguments
        module = lpips.LPIPS(net=NETS[name], pretrained=False, pnet_rand=True, verbose=False)
    if pooling == "average":
        for layers in module.net.children():
            _replace_max_pools(layers)
    return module.to_empty(device="cpu")


def metric(network: lpips.LPIPS, precision: str) -> Distance:
    """LPIPS of two batches of images in [0, 1], by a network with its weights; see `FeatureDistance`.

    The weights of the convolutions are converted to `precision` once, instead of by autocast at each call.
    """
    dtype = getattr(torch, precision)
    network.net.to(dtype)
    return FeatureDistance(lambda x: maps(network, x, dtype), heads=network.lins)


def maps(network: lpips.LPIPS, x: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """The five feature maps [B, C_l, H_l, W_l] of images [B, 3, H, W] or [B, 1, H, W] in [0, 1].

    The scaling layer has three channels, to which it repeats grey images.
    """
    x, found = network.scaling_layer(2 * x - 1).to(dtype), []
    for layers in network.net.children():
        x = layers(x)
        found.append(x)
    return found


def read_heads(name: str) -> dict[str, Tensor]:
    """The linear heads that the `lpips` package carries, and the constants of its scaling layer."""
    packed = importlib.resources.files("lpips") / "weights" / "v0.1" / f"{NETS[name]}.pth"
    with importlib.resources.as_file(packed) as path:
        linear = torch.load(path, map_location="cpu", weights_only=True)
    constants = lpips.ScalingLayer().state_dict(prefix="scaling_layer.")
    return {**linear, **constants}


def add_aliases(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with the second names that the network has for its heads: `lins.0.` for `lin0.`."""
    twice = {f"lins.{name.removeprefix('lin')}": tensor for name, tensor in tensors.items() if name.startswith("lin")}
    return {**tensors, **twice}


def _replace_max_pools(layers: nn.Module) -> None:
    for name, layer in list(layers.named_children()):
        if isinstance(layer, nn.MaxPool2d):
            setattr(layers, name, nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding))
