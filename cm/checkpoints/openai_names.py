"""The weights of ADM by our names and in our layouts, and by those of OpenAI's `UNetModel`.

The layer of query, key and value has three orders of its output channels. Ours is (heads, channels per head, three).
OpenAI's is "flash", (three, heads, channels per head), in consistency_models, and "legacy", (heads, three, channels
per head), in guided-diffusion, whose weights lack the last axis of a 1x1 convolution.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from cm.errors import UserError, unknown
from cm.networks.adm import ADM
from cm.networks.plan import Block

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = {
    "norm0": "in_layers.0",
    "conv0": "in_layers.2",
    "affine": "emb_layers.1",
    "norm1": "out_layers.0",
    "conv1": "out_layers.3",
}
ATTENTION = {"norm2": "norm", "qkv": "qkv", "proj": "proj_out"}
LABELS = "map_label.weight"
WITHOUT_LAST_AXIS = (".qkv.weight", ".proj.weight")  # in the order "legacy"
QKV_AXIS = {"flash": 0, "legacy": 1}


def adm_state_dict(openai: Mapping[str, Tensor], net: ADM, *, order: str = "flash") -> dict[str, Tensor]:
    """Convert the state dict of OpenAI's `UNetModel` to that of `net.build()`, into which it loads strictly.

    `order`: "flash" or "legacy", the order of the attention's channels. Raises UserError that names the first tensor
    that is missing, superfluous or of another shape.
    """
    from cm.networks.modules.layers import filters

    shapes, names = _parameter_shapes(net), _names(net, order)
    _check(openai, {names[ours]: _openai_shape(ours, shape, order) for ours, shape in shapes.items()})
    weights = {ours: _to_our_layout(ours, openai[names[ours]], net, order) for ours in shapes}
    return weights | filters(net)


def openai_state_dict(ours: Mapping[str, Tensor], net: ADM, *, order: str = "flash") -> dict[str, Tensor]:
    """Convert the state dict of `net.build()` to that of OpenAI's `UNetModel`: the inverse of `adm_state_dict`."""
    from cm.networks.modules.layers import filters

    shapes, names = _parameter_shapes(net), _names(net, order)
    _check(ours, shapes | {name: tuple(kernel.shape) for name, kernel in filters(net).items()})
    return {names[name]: _to_openai_layout(name, ours[name], net, order) for name in shapes}


def _parameter_shapes(net: ADM) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter by our names.

    Raises UserError for a network with augmentation labels or two times.
    """
    import torch

    if net.augment_dim:
        raise UserError(f"OpenAI's network takes no augmentation labels: augment_dim must be 0, not {net.augment_dim}")
    if net.two_times:
        raise UserError("OpenAI's network takes one time: two_times must be false")
    with torch.device("meta"):
        return {name: tuple(parameter.shape) for name, parameter in net.build().named_parameters()}


def _names(net: ADM, order: str) -> dict[str, str]:
    """OpenAI's name of every parameter by our name. Raises UserError for an unknown order."""
    if order not in QKV_AXIS:
        raise unknown("order of attention channels", order, QKV_AXIS)
    names = {LABELS: "label_emb.weight"}
    for ours, openai in _layers(net):
        names |= {f"{ours}.weight": f"{openai}.weight", f"{ours}.bias": f"{openai}.bias"}
    return names


def _layers(net: ADM) -> Iterator[tuple[str, str]]:
    """Our name and OpenAI's of every layer except that of the labels."""
    yield "map_layer0", "time_embed.0"
    yield "map_layer1", "time_embed.2"
    yield f"enc.{net.size(0)}_conv", "input_blocks.0.0"
    yield "out_norm", "out.0"
    yield "out_conv", "out.2"
    for index, block in enumerate(net.encoder_blocks(), start=1):
        yield from _block_layers(f"enc.{block.name}", block, f"input_blocks.{index}", 0)
    first, second, *rest = net.decoder_blocks()
    yield from _block_layers(f"dec.{first.name}", first, "middle_block", 0)
    yield from _block_layers(f"dec.{second.name}", second, "middle_block", 2)
    index, place = -1, 0
    for block in rest:
        index, place = (index, place) if block.resample else (index + 1, 0)
        yield from _block_layers(f"dec.{block.name}", block, f"output_blocks.{index}", place)
        place = 2 if block.attention else 1


def _block_layers(ours: str, block: Block, sequence: str, place: int) -> Iterator[tuple[str, str]]:
    """Our name and OpenAI's of the layers of a residual block and of the attention after it.

    `sequence`: the name of OpenAI's sequence of layers that has the block at `place`.
    """
    skip = {"skip": "skip_connection"} if block.width_in != block.width else {}
    for layer, openai in (BLOCK | skip).items():
        yield f"{ours}.{layer}", f"{sequence}.{place}.{openai}"
    if block.attention:
        for layer, openai in ATTENTION.items():
            yield f"{ours}.{layer}", f"{sequence}.{place + 1}.{openai}"


def _check(tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raise UserError that names the first tensor that is missing, superfluous or of another shape."""
    missing = [name for name in expected if name not in tensors]
    superfluous = [name for name in tensors if name not in expected]
    for problem, names in (("they lack", missing), ("it has no place for", superfluous)):
        if names:
            raise UserError(f"weights do not fit the network: {problem} {names[0]} ({len(names)} in all)")
    for name, shape in expected.items():
        found = tuple(tensors[name].shape)
        if found != shape:
            raise UserError(f"weights do not fit the network: {name} is {list(found)}, not {list(shape)}")


def _openai_shape(name: str, shape: tuple[int, ...], order: str) -> tuple[int, ...]:
    """The shape of a parameter in OpenAI's layout; `name` is ours."""
    if name == LABELS:
        return shape[::-1]
    return shape[:-1] if order == "legacy" and name.endswith(WITHOUT_LAST_AXIS) else shape


def _to_our_layout(name: str, tensor: Tensor, net: ADM, order: str) -> Tensor:
    if name == LABELS:
        return tensor.T.contiguous()
    if ".qkv." in name:
        axes = [net.heads(len(tensor) // 3), -1]
        axes.insert(QKV_AXIS[order], 3)
        tensor = tensor.unflatten(0, axes).movedim(QKV_AXIS[order], 2).flatten(0, 2)
    return tensor[..., None] if order == "legacy" and name.endswith(WITHOUT_LAST_AXIS) else tensor


def _to_openai_layout(name: str, tensor: Tensor, net: ADM, order: str) -> Tensor:
    if name == LABELS:
        return tensor.T.contiguous()
    if ".qkv." in name:
        axes = (net.heads(len(tensor) // 3), -1, 3)
        tensor = tensor.unflatten(0, axes).movedim(2, QKV_AXIS[order]).flatten(0, 2)
    return tensor[..., 0] if order == "legacy" and name.endswith(WITHOUT_LAST_AXIS) else tensor
