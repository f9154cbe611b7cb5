"""The weights of ADM by our names and in our layouts, and by those of diffusers' `UNet2DModel`.

Our names are those of EDM: `dec.8x8_in0` is `mid_block.resnets.0` and, for its attention, `mid_block.attentions.0`.
Query, key and value are three layers in diffusers. Here they are one layer, with query c, key c and value c in the
channels 3c, 3c + 1 and 3c + 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from cm.networks.adm import ADM

if TYPE_CHECKING:
    from torch import Tensor

RESNET = {"norm0": "norm1", "conv0": "conv1", "affine": "time_emb_proj", "norm1": "norm2", "conv1": "conv2"}
QKV = ("to_q", "to_k", "to_v")


def adm_state_dict(theirs: Mapping[str, Tensor], net: ADM) -> dict[str, Tensor]:
    """Convert the state dict of the `UNet2DModel` to that of `net.build()`, into which it loads strictly.

    Tensors that have no place in it are kept under their names. Raises KeyError for a tensor that is missing.
    """
    import torch

    from cm.networks.modules.layers import filters

    rest = dict(theirs)
    ours = {our: rest.pop(their) for our, their in _equal_tensors(net)}
    for block, attention in _attentions(net):
        for leaf in ("weight", "bias"):
            parts = [rest.pop(f"{attention}.{part}.{leaf}") for part in QKV]
            ours[f"{block}.qkv.{leaf}"] = torch.stack(parts, dim=1).flatten(0, 1)
        ours[f"{block}.qkv.weight"] = _to_convolution(ours[f"{block}.qkv.weight"])
        ours[f"{block}.proj.weight"] = _to_convolution(rest.pop(f"{attention}.to_out.0.weight"))
    if net.classes:
        ours["map_label.weight"] = rest.pop("class_embedding.weight").T
    return ours | rest | filters(net)


def unet_state_dict(ours: Mapping[str, Tensor], net: ADM) -> dict[str, Tensor]:
    """Convert the state dict of `net.build()` to that of the `UNet2DModel`: the inverse of `adm_state_dict`."""
    theirs = {their: ours[our] for our, their in _equal_tensors(net)}
    for block, attention in _attentions(net):
        for leaf in ("weight", "bias"):
            qkv = ours[f"{block}.qkv.{leaf}"].unflatten(0, (-1, 3)).unbind(1)
            theirs |= {f"{attention}.{part}.{leaf}": _to_matrix(tensor) for part, tensor in zip(QKV, qkv, strict=True)}
        theirs[f"{attention}.to_out.0.weight"] = _to_matrix(ours[f"{block}.proj.weight"])
    if net.classes:
        theirs["class_embedding.weight"] = ours["map_label.weight"].T
    return {name: tensor.contiguous() for name, tensor in theirs.items()}


def _equal_tensors(net: ADM) -> Iterator[tuple[str, str]]:
    """Our name and that of diffusers for every tensor that has the same layout in both."""
    for ours, theirs in _layers(net):
        yield f"{ours}.weight", f"{theirs}.weight"
        yield f"{ours}.bias", f"{theirs}.bias"
    for block, attention in _attentions(net):
        yield f"{block}.proj.bias", f"{attention}.to_out.0.bias"


def _layers(net: ADM) -> Iterator[tuple[str, str]]:
    """Our name and that of diffusers for every layer whose tensors have the same layout in both."""
    yield "map_layer0", "time_embedding.linear_1"
    yield "map_layer1", "time_embedding.linear_2"
    yield f"enc.{net.size(0)}_conv", "conv_in"
    yield "out_norm", "conv_norm_out"
    yield "out_conv", "conv_out"
    for name, block in net.all_blocks():
        theirs = _diffusers_block(name, net)
        parts = RESNET | ({"skip": "conv_shortcut"} if net.projects(block) else {})
        yield from ((f"{name}.{ours}", f"{theirs}.{part}") for ours, part in parts.items())
    for name, attention in _attentions(net):
        yield f"{name}.norm2", f"{attention}.group_norm"


def _attentions(net: ADM) -> Iterator[tuple[str, str]]:
    """Our name of every block with attention, and the name of the attention in diffusers."""
    for name, block in net.all_blocks():
        if block.attention:
            yield name, _diffusers_block(name, net).replace("resnets", "attentions")


def _diffusers_block(name: str, net: ADM) -> str:
    """The name of a block in diffusers: `enc.32x32_down` is the downsampler at the end of the level above 32x32."""
    part, _, rest = name.partition(".")
    size, _, kind = rest.partition("_")
    sizes = [net.size(index) for index in range(len(net.multipliers))]
    level = sizes.index(size)
    if kind.startswith("in"):
        return f"mid_block.resnets.{kind[2:]}"
    if kind == "down":
        return f"down_blocks.{level - 1}.downsamplers.0"
    lowest = len(net.multipliers) - 1
    if kind == "up":
        return f"up_blocks.{lowest - level - 1}.upsamplers.0"
    side = f"down_blocks.{level}" if part == "enc" else f"up_blocks.{lowest - level}"
    return f"{side}.resnets.{kind.removeprefix('block')}"


def _to_convolution(matrix: Tensor) -> Tensor:
    """A matrix [out, in] as the weight of a 1x1 convolution."""
    return matrix[..., None, None]


def _to_matrix(tensor: Tensor) -> Tensor:
    """The weight of a 1x1 convolution as a matrix [out, in]; a bias stays as it is."""
    return tensor.flatten(1) if tensor.ndim > 1 else tensor
