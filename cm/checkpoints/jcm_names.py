"""The weights of jcm's NCSN++, which is written in flax, by our names and in the layouts of PyTorch.

Flax has convolutions as [H, W, in, out], and Dense and NIN layers (1x1 convolutions) as matrices [in, out]. Query, key
and value are three NIN layers in jcm. Here they are one layer, with query c, key c and value c in the channels 3c,
3c + 1 and 3c + 2.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from cm.errors import UserError
from cm.networks.ncsnpp import NCSNpp

if TYPE_CHECKING:
    from torch import Tensor

FOURIER = "GaussianFourierProjection_0/W"
LEAVES = {"kernel": "weight", "weight": "weight", "scale": "weight", "W": "weight", "bias": "bias", "b": "bias"}
BLOCK = {"GroupNorm_0": "norm0", "Conv_0": "conv0", "Dense_0": "affine", "GroupNorm_1": "norm1", "Conv_1": "conv1"}


def ncsnpp_state_dict(flax: Mapping[str, np.ndarray], net: NCSNpp) -> dict[str, Tensor]:
    """Convert the parameters of jcm to the state dict of `net.build()`, into which it loads strictly.

    `flax`: arrays by their paths, joined with '/'. Raises UserError for a layer that is missing or superfluous.
    """
    import torch

    from cm.networks.modules.layers import filters

    layers, attentions = dict(_layers(net)), dict(_attentions(net))
    _check_layers(flax, {*layers, *_qkv_layers(attentions)}, net)
    state = {"map_noise.freqs": np.asarray(flax[FOURIER])} if net.embedding == "fourier" else {}
    for path, array in flax.items():
        layer, _, leaf = path.rpartition("/")
        if layer in layers:
            state[f"{layers[layer]}.{LEAVES[leaf]}"] = _to_torch_layout(leaf, np.asarray(array))
    for layer, name in attentions.items():
        state[f"{name}.qkv.weight"] = _join_qkv(flax, layer, "W")
        state[f"{name}.qkv.bias"] = _join_qkv(flax, layer, "b")
    return {key: torch.tensor(array) for key, array in state.items()} | filters(net)


def _layers(net: NCSNpp) -> Iterator[tuple[str, str]]:
    """The name in jcm and ours of every layer except query, key and value."""
    yield "Dense_0", "map_layer0"
    yield "Dense_1", "map_layer1"
    yield "Conv_0", f"enc.{net.size(0)}_conv"
    for index, (name, block) in enumerate(net.all_blocks()):
        parts = BLOCK | ({"Conv_2": "skip"} if net.projects(block) else {})
        yield from ((f"ResnetBlockBigGANpp_{index}/{theirs}", f"{name}.{ours}") for theirs, ours in parts.items())
    for layer, name in _attentions(net):
        yield f"{layer}/GroupNorm_0", f"{name}.norm2"
        yield f"{layer}/NIN_3", f"{name}.proj"
    for index, name in enumerate(net.pyramid()):
        yield f"Downsample_{index}/Conv2d_0", name
    yield "GroupNorm_0", f"dec.{net.size(0)}_aux_norm"
    yield "Conv_1", f"dec.{net.size(0)}_aux_conv"


def _attentions(net: NCSNpp) -> Iterator[tuple[str, str]]:
    """The name in jcm of every attention block, and our name of the residual block before it."""
    names = [name for name, block in net.all_blocks() if block.attention]
    return ((f"AttnBlockpp_{index}", name) for index, name in enumerate(names))


def _qkv_layers(attentions: Iterable[str]) -> Iterator[str]:
    for attention in attentions:
        yield from (f"{attention}/NIN_{index}" for index in range(3))


def _check_layers(flax: Mapping[str, np.ndarray], layers: set[str], net: NCSNpp) -> None:
    """Raise UserError for a layer of the network that the weights lack, or that only they have."""
    expected = layers | ({FOURIER} if net.embedding == "fourier" else set())
    found = {path if path == FOURIER else path.rpartition("/")[0] for path in flax}
    for problem, names in (("they lack", expected - found), ("it has no place for", found - expected)):
        if names:
            raise UserError(f"jcm weights do not fit the network: {problem} {min(names)} ({len(names)} in all)")


def _to_torch_layout(leaf: str, array: np.ndarray) -> np.ndarray:
    if array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    return array.T[:, :, None, None] if leaf == "W" else array.T


def _join_qkv(flax: Mapping[str, np.ndarray], layer: str, leaf: str) -> np.ndarray:
    """Query, key and value in one array: weights [3C, C, 1, 1] or biases [3C]."""
    parts = [_to_torch_layout(leaf, np.asarray(flax[f"{layer}/NIN_{index}/{leaf}"])) for index in range(3)]
    return np.stack(parts, axis=1).reshape(-1, *parts[0].shape[1:])
