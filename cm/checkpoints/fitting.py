"""Whether tensors are the weights of a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cm.checkpoints import native
from cm.errors import UserError
from cm.networks.adm import ADM

if TYPE_CHECKING:
    from torch import Tensor


# The factor of the noise labels and the fewest channels of a group, which no name or shape of a tensor tells.
CONVENTIONS = {"openai": (1000, 1), "edm": (1, 4)}


def fitted(tensors: Mapping[str, Tensor], network: Any, source: object) -> dict[str, Tensor]:
    """The tensors in float32 and in the order of `network.build().state_dict()`, into which they load strictly.

    UserError that names `source` and the first tensor that is missing, of another shape, or left over.
    """
    import torch

    with torch.device("meta"):
        own = network.build().state_dict()
    native.compare(own, tensors, source)
    wrong = [name for name in own if not tensors[name].is_floating_point()]
    if wrong:
        raise UserError(f"{source}: {wrong[0]} is {tensors[wrong[0]].dtype}, which is no type of weights")
    return {name: tensors[name].detach().to(torch.float32) for name in own}


def check_conventions(network: Any, form: str, source: object) -> None:
    """UserError if an ADM computes otherwise than the project whose form its weights have."""
    if not isinstance(network, ADM) or form not in CONVENTIONS:
        return
    factor, least = CONVENTIONS[form]
    widths = {width for _, block in network.all_blocks() for width in (block.width_in, block.width)}
    groups = all(network.groups(width) == min(32, width // least) for width in widths)
    if network.noise_factor != factor or not groups:
        meant, got = f"noise_factor {factor} and group_channels {least}", f"{network.noise_factor:g} and"
        raise UserError(f"{source}: the form '{form}' means {meant}, not {got} {network.group_channels}")


def network_is(network: Any, kind: type, source: object, form: str) -> None:
    """UserError unless the described network is of the kind that a form has."""
    if not isinstance(network, kind):
        wanted = f"a network '{kind.__name__.lower()}'"
        raise UserError(f"{source} is {form}, which holds {wanted}, not '{type(network).__name__.lower()}'")
