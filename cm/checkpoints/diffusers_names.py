"""Weights of ADM under the names and in the layouts of diffusers' `UNet2DModel`.

Ours are those of EDM: `dec.8x8_in0` is `mid_block.resnets.0` and, for its attention, `mid_block.attentions.0`. Query,
key and value are three layers there and one here, whose channels 3c, 3c + 1 and 3c + 2 they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from cm.networks.adm import ADM
from cm.networks.plan import Block

if TYPE_CHECKING:
    from torch import Tensor

RESNET = {"norm0": "norm1", "conv0": "conv1", "affine": "time_emb_proj", "norm1": "norm2", "conv1": "conv2"}
QKV = ("to_q", "to_k", "to_v")


def adm_state_dict(theirs: Mapping[str, Tensor], net: ADM) -> dict[str, Tensor]:
    """The state dict of `net.build()`, from that of the `UNet2DModel`. KeyError for a tensor that is missing."""
    import torch

    from cm.networks.modules.layers import filters

    left = dict(theirs)
    ours = {our: left.pop(their) for our, their in _same(net)}
    for block, attention in _attentions(net):
        parts = [[left.pop(f"{attention}.{part}.{leaf}") for part in QKV] for leaf in ("weight", "bias")]
        weight, bias = (torch.stack(part, dim=1).flatten(0, 1) for part in parts)
        ours |= {f"{block}.qkv.weight": weight[..., None, None], f"{block}.qkv.bias": bias}
        ours[f"{block}.proj.weight"] = left.pop(f"{attention}.to_out.0.weight")[..., None, None]
    if net.classes:
        ours["map_label.weight"] = left.pop("class_embedding.weight").T
    return ours | left | filters(net)


def unet_state_dict(ours: Mapping[str, Tensor], net: ADM) -> dict[str, Tensor]:
    """The state dict of the `UNet2DModel`, from that of `net.build()`; the inverse of `adm_state_dict`."""
    theirs = {their: ours[our] for our, their in _same(net)}
    for block, attention in _attentions(net):
        for leaf in ("weight", "bias"):
            qkv = ours[f"{block}.qkv.{leaf}"].unflatten(0, (-1, 3)).unbind(1)
            theirs |= {f"{attention}.{part}.{leaf}": _flat(each) for part, each in zip(QKV, qkv, strict=True)}
        theirs[f"{attention}.to_out.0.weight"] = _flat(ours[f"{block}.proj.weight"])
    if net.classes:
        theirs["class_embedding.weight"] = ours["map_label.weight"].T
    return {name: tensor.contiguous() for name, tensor in theirs.items()}


def _same(net: ADM) -> Iterator[tuple[str, str]]:
    """Our name and theirs of every tensor that has one layout."""
    for ours, theirs in _layers(net):
        yield from ((f"{ours}.{leaf}", f"{theirs}.{leaf}") for leaf in ("weight", "bias"))
    for block, attention in _attentions(net):
        yield f"{block}.proj.bias", f"{attention}.to_out.0.bias"


def _layers(net: ADM) -> Iterator[tuple[str, str]]:
    yield from {"map_layer0": "time_embedding.linear_1", "map_layer1": "time_embedding.linear_2"}.items()
    yield from {f"enc.{net.size(0)}_conv": "conv_in", "out_norm": "conv_norm_out", "out_conv": "conv_out"}.items()
    for name, block in net.all_blocks():
        theirs = _place(name, net)
        parts = RESNET | ({"skip": "conv_shortcut"} if net.projects(block) else {})
        yield from ((f"{name}.{ours}", f"{theirs}.{part}") for ours, part in parts.items())
    for block, attention in _attentions(net):
        yield f"{block}.norm2", f"{attention}.group_norm"


def _attentions(net: ADM) -> Iterator[tuple[str, str]]:
    attending: list[tuple[str, Block]] = [(name, block) for name, block in net.all_blocks() if block.attention]
    return ((name, _place(name, net).replace("resnets", "attentions")) for name, _ in attending)


def _place(name: str, net: ADM) -> str:
    """Where they have a block: `enc.32x32_down` is the downsampler at the end of the level above 32x32."""
    part, _, rest = name.partition(".")
    size, _, kind = rest.partition("_")
    level = [net.size(index) for index in range(len(net.multipliers))].index(size)
    if kind.startswith("in"):
        return f"mid_block.resnets.{kind[2:]}"
    if kind == "down":
        return f"down_blocks.{level - 1}.downsamplers.0"
    lowest = len(net.multipliers) - 1
    if kind == "up":
        return f"up_blocks.{lowest - level - 1}.upsamplers.0"
    side = f"down_blocks.{level}" if part == "enc" else f"up_blocks.{lowest - level}"
    return f"{side}.resnets.{kind.removeprefix('block')}"


def _flat(weight: Tensor) -> Tensor:
    """A convolution of one pixel as a matrix; a bias stays."""
    return weight.flatten(1) if weight.ndim > 1 else weight
