"""Weights of OpenAI's `UNetModel` under the names and in the layouts of `cm.networks.modules.adm_unet`, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from cm.errors import UserError, unknown
from cm.networks.adm import ADM
from cm.networks.plan import Block

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = {"norm0": "in_layers.0", "conv0": "in_layers.2", "affine": "emb_layers.1", "norm1": "out_layers.0"}
BLOCK |= {"conv1": "out_layers.3"}
ATTENTION = {"norm2": "norm", "qkv": "qkv", "proj": "proj_out"}
LABELS = "map_label.weight"
FLATTENED = (".qkv.weight", ".proj.weight")
THREE = {"flash": 0, "legacy": 1}


def adm_state_dict(openai: Mapping[str, Tensor], net: ADM, *, order: str = "flash") -> dict[str, Tensor]:
    """The state dict of `net.build()` from OpenAI's; loads strictly.

    `order` of the attention's channels: "flash" is (three, heads, dim), as in consistency_models; "legacy" is (heads,
    three, dim) in weights without the last axis, as in guided-diffusion; ours is (heads, dim, three). UserError that
    names the first tensor that is missing, left over or of another shape.
    """
    from cm.networks.modules.layers import filters

    shapes, names = _shapes(net), _names(net, order)
    _check(openai, {names[ours]: _their_shape(ours, shape, order) for ours, shape in shapes.items()})
    weights = {ours: _to_ours(ours, openai[names[ours]], net, order) for ours in shapes}
    return weights | filters(net)


def openai_state_dict(ours: Mapping[str, Tensor], net: ADM, *, order: str = "flash") -> dict[str, Tensor]:
    """The inverse of `adm_state_dict`: OpenAI's state dict from the one of `net.build()`; UserError as there."""
    from cm.networks.modules.layers import filters

    shapes, names = _shapes(net), _names(net, order)
    _check(ours, shapes | {name: tuple(kernel.shape) for name, kernel in filters(net).items()})
    return {names[name]: _to_theirs(name, ours[name], net, order) for name in shapes}


def _shapes(net: ADM) -> dict[str, tuple[int, ...]]:
    """Shapes of our parameters."""
    import torch

    if net.augment_dim:
        raise UserError(f"OpenAI's network takes no augmentation labels: augment_dim must be 0, not {net.augment_dim}")
    with torch.device("meta"):
        return {name: tuple(parameter.shape) for name, parameter in net.build().named_parameters()}


def _names(net: ADM, order: str) -> dict[str, str]:
    """Our names to theirs, of all parameters."""
    if order not in THREE:
        raise unknown("order of attention channels", order, THREE)
    leaves = {f"{o}.{leaf}": f"{t}.{leaf}" for o, t in _layers(net) for leaf in ("weight", "bias")}
    return leaves | {LABELS: "label_emb.weight"}


def _layers(net: ADM) -> Iterator[tuple[str, str]]:
    """Our and their names of every layer but the labels'."""
    yield from {"map_layer0": "time_embed.0", "map_layer1": "time_embed.2"}.items()
    yield from {f"enc.{net.size(0)}_conv": "input_blocks.0.0", "out_norm": "out.0", "out_conv": "out.2"}.items()
    for index, block in enumerate(net.encoder_blocks(), start=1):
        yield from _block(f"enc.{block.name}", block, f"input_blocks.{index}", 0)
    first, second, *rest = net.decoder_blocks()
    yield from _block(f"dec.{first.name}", first, "middle_block", 0)
    yield from _block(f"dec.{second.name}", second, "middle_block", 2)
    index, place = -1, 0
    for block in rest:
        index, place = (index, place) if block.resample else (index + 1, 0)
        yield from _block(f"dec.{block.name}", block, f"output_blocks.{index}", place)
        place = 2 if block.attention else 1


def _block(ours: str, block: Block, theirs: str, place: int) -> Iterator[tuple[str, str]]:
    """Names in a residual block, which is number `place` of one of their sequences, and in the attention after it."""
    skip = {"skip": "skip_connection"} if block.width_in != block.width else {}
    yield from ((f"{ours}.{o}", f"{theirs}.{place}.{t}") for o, t in (BLOCK | skip).items())
    if block.attention:
        yield from ((f"{ours}.{o}", f"{theirs}.{place + 1}.{t}") for o, t in ATTENTION.items())


def _check(given: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]]) -> None:
    lacking = [name for name in wanted if name not in given]
    for problem, names in (("they lack", lacking), ("it has no place for", [n for n in given if n not in wanted])):
        if names:
            raise UserError(f"weights do not fit the network: {problem} {names[0]} ({len(names)} in all)")
    for name, shape in wanted.items():
        if tuple(given[name].shape) != shape:
            raise UserError(f"weights do not fit the network: {name} is {list(given[name].shape)}, not {list(shape)}")


def _their_shape(name: str, shape: tuple[int, ...], order: str) -> tuple[int, ...]:
    if name == LABELS:
        return shape[::-1]
    return shape[:-1] if order == "legacy" and name.endswith(FLATTENED) else shape


def _to_ours(name: str, tensor: Tensor, net: ADM, order: str) -> Tensor:
    if name == LABELS:
        return tensor.T.contiguous()
    if ".qkv." in name:
        split = [net.heads(len(tensor) // 3), -1]
        split.insert(THREE[order], 3)
        tensor = tensor.unflatten(0, split).movedim(THREE[order], 2).flatten(0, 2)
    return tensor[..., None] if order == "legacy" and name.endswith(FLATTENED) else tensor


def _to_theirs(name: str, tensor: Tensor, net: ADM, order: str) -> Tensor:
    if name == LABELS:
        return tensor.T.contiguous()
    if ".qkv." in name:
        split = (net.heads(len(tensor) // 3), -1, 3)
        tensor = tensor.unflatten(0, split).movedim(2, THREE[order]).flatten(0, 2)
    return tensor[..., 0] if order == "legacy" and name.endswith(FLATTENED) else tensor
