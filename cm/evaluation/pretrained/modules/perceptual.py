"""LPIPS v0.1 (Zhang et al. 2018): the `lpips` package's network and linear heads."""

from __future__ import annotations

import importlib.resources
import warnings
from collections.abc import Mapping

import lpips
import torch
from torch import Tensor, nn

NETS = {"lpips-vgg16": "vgg", "lpips-alexnet": "alex"}


def network(name: str, *, pooling: str = "max") -> lpips.LPIPS:
    """The network of the weights `name`, its own not set; `average` puts average for max pools of the same windows."""
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")  # lpips calls torchvision with arguments of older releases
        module = lpips.LPIPS(net=NETS[name], pretrained=False, pnet_rand=True, verbose=False)
    if pooling == "average":
        for layers in module.net.children():
            _averaged(layers)
    return module.to_empty(device="cpu")


def heads(name: str) -> dict[str, Tensor]:
    """The linear heads that the package carries, and the constants of the scaling layer."""
    packed = importlib.resources.files("lpips") / "weights" / "v0.1" / f"{NETS[name]}.pth"
    with importlib.resources.as_file(packed) as path:
        linear = torch.load(path, map_location="cpu", weights_only=True)
    constants = lpips.ScalingLayer().state_dict(prefix="scaling_layer.")
    return {**linear, **constants}


def with_aliases(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors with the second names that the network has for its heads: `lins.0.` for `lin0.`."""
    twice = {f"lins.{name.removeprefix('lin')}": tensor for name, tensor in tensors.items() if name.startswith("lin")}
    return {**tensors, **twice}


def _averaged(layers: nn.Module) -> None:
    for name, layer in list(layers.named_children()):
        if isinstance(layer, nn.MaxPool2d):
            setattr(layers, name, nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding))
