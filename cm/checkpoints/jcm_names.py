"""Weights of jcm's NCSN++ (flax) under the names and in the layouts of `cm.networks.modules.song_unet`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
    """The state dict of `net.build()` from parameters by '/'-joined path below 'params'; loads strictly.

    Convolutions are HWIO there, Dense and NIN matrices [in, out]. UserError for a layer that is missing or left over.
    """
    import torch

    from cm.networks.modules.layers import filters

    layers, attentions = dict(_layers(net)), dict(_attentions(net))
    _check_layers(flax, {*layers, *(f"{layer}/NIN_{j}" for layer in attentions for j in range(3))}, net)
    state = {} if net.embedding != "fourier" else {"map_noise.freqs": np.asarray(flax[FOURIER])}
    for path, array in flax.items():
        layer, _, leaf = path.rpartition("/")
        if layer in layers:
            state[f"{layers[layer]}.{LEAVES[leaf]}"] = _torch_layout(leaf, np.asarray(array))
    for layer, name in attentions.items():
        state[f"{name}.qkv.weight"] = _interleaved(flax, layer, "W")
        state[f"{name}.qkv.bias"] = _interleaved(flax, layer, "b")
    return {key: torch.tensor(array) for key, array in state.items()} | filters(net)


def _layers(net: NCSNpp) -> Iterator[tuple[str, str]]:
    """Flax and torch names of every layer, without the three that make a qkv."""
    yield from {"Dense_0": "map_layer0", "Dense_1": "map_layer1", "Conv_0": f"enc.{net.size(0)}_conv"}.items()
    for index, (name, block) in enumerate(net.all_blocks()):
        parts = BLOCK | ({"Conv_2": "skip"} if net.projects(block) else {})
        yield from ((f"ResnetBlockBigGANpp_{index}/{theirs}", f"{name}.{ours}") for theirs, ours in parts.items())
    for layer, name in _attentions(net):
        yield from {f"{layer}/GroupNorm_0": f"{name}.norm2", f"{layer}/NIN_3": f"{name}.proj"}.items()
    for index, name in enumerate(net.pyramid()):
        yield f"Downsample_{index}/Conv2d_0", name
    yield from {"GroupNorm_0": f"dec.{net.size(0)}_aux_norm", "Conv_1": f"dec.{net.size(0)}_aux_conv"}.items()


def _attentions(net: NCSNpp) -> Iterator[tuple[str, str]]:
    names = [name for name, block in net.all_blocks() if block.attention]
    return ((f"AttnBlockpp_{index}", name) for index, name in enumerate(names))


def _check_layers(flax: Mapping[str, np.ndarray], layers: set[str], net: NCSNpp) -> None:
    wanted = layers | ({FOURIER} if net.embedding == "fourier" else set())
    given = {path if path == FOURIER else path.rpartition("/")[0] for path in flax}
    for problem, names in (("they lack", wanted - given), ("it has no place for", given - wanted)):
        if names:
            raise UserError(f"jcm weights do not fit the network: {problem} {min(names)} ({len(names)} in all)")


def _torch_layout(leaf: str, array: np.ndarray) -> np.ndarray:
    if array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    return array.T[:, :, None, None] if leaf == "W" else array.T


def _interleaved(flax: Mapping[str, np.ndarray], layer: str, leaf: str) -> np.ndarray:
    """q, k, v in EDM's order, channel 3c + j: weights [3C, C, 1, 1] or biases [3C]."""
    parts = [_torch_layout(leaf, np.asarray(flax[f"{layer}/NIN_{j}/{leaf}"])) for j in range(3)]
    return np.stack(parts, axis=1).reshape(-1, *parts[0].shape[1:])
