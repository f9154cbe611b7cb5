"""Checks that tensors are the weights of a network, and that the network computes what their project computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cm.checkpoints import native
from cm.errors import UserError
from cm.networks.adm import ADM

if TYPE_CHECKING:
    from torch import Tensor

# Two settings of ADM that no name or shape of a tensor reveals: `noise_factor` and `group_channels`.
CONVENTIONS = {"openai": (1000, 1), "edm": (1, 4)}


def fit_weights(tensors: Mapping[str, Tensor], network: Any, source: object) -> dict[str, Tensor]:
    """Return the tensors in float32, in the order of `network.build().state_dict()`, into which they load strictly.

    Raises UserError that names `source` and the first tensor that is missing, of another shape or type, superfluous, or
    not finite.
    """
    import torch

    with torch.device("meta"):
        expected = network.build().state_dict()
    native.compare(expected, tensors, source)
    native.check_finite(tensors, source)
    return {name: tensors[name].detach().to(torch.float32) for name in expected}


def check_network(network: Any, expected: type, source: object, description: str) -> None:
    """Raise UserError unless a network is of the class that the checkpoint `source` holds.

    `description`: what the checkpoint is, in words.
    """
    if not isinstance(network, expected):
        names = f"a network '{expected.__name__.lower()}', not '{type(network).__name__.lower()}'"
        raise UserError(f"{source} is {description}, which holds {names}")


def check_conventions(network: Any, format_name: str, source: object) -> None:
    """Raise UserError if an ADM has other noise labels or normalisations than the project of a format."""
    if not isinstance(network, ADM) or format_name not in CONVENTIONS:
        return
    if network.double_norm:
        raise UserError(f"{source}: the format '{format_name}' has no network with double_norm")
    factor, group_channels = CONVENTIONS[format_name]
    same_groups = all(network.groups(width) == min(32, width // group_channels) for width in block_widths(network))
    if network.noise_factor != factor or not same_groups:
        expected = f"noise_factor {factor} and group_channels {group_channels}"
        found = f"{network.noise_factor:g} and {network.group_channels}"
        raise UserError(f"{source}: the format '{format_name}' means {expected}, not {found}")


def block_widths(network: ADM) -> set[int]:
    """The numbers of channels that enter and leave the residual blocks of a network."""
    widths: set[int] = set()
    for _, block in network.all_blocks():
        widths |= {block.width_in, block.width}
    return widths
