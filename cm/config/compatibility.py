"""Whether a method, a network and a sampler fit together: their numbers of times, and labels of augmentation."""

from __future__ import annotations

from typing import Any

from cm import registry
from cm.config.sections import Training
from cm.errors import UserError


def check_times(network: Any, preconditioning: str | None, where: str) -> None:
    """Raises UserError unless the network has as many times as its preconditioning, if any."""
    needs = preconditioning is not None and getattr(
        registry.get("preconditioning", preconditioning), "two_times", False
    )
    has = has_two_times(network)
    if needs and not has:
        raise UserError(f"{where}: needs a network that is conditioned on two times: set its 'two_times: true'")
    if has and not needs:
        raise UserError(f"{where}: has one time, but its network is conditioned on two: set its 'two_times: false'")


def check_augmentation(network: Any, training: Training, where: str) -> None:
    """Raises UserError for an augmentation whose labels the network does not take."""
    given, expected = training.augment_labels, getattr(network, "augment_dim", 0)
    if given and given != expected:
        raise UserError(
            f"{where}: the augmentation has {given} labels, but the network takes {expected}: set its 'augment_dim'"
        )


def check_sampler(sampler: Any, two_times: bool, where: str) -> None:
    """Raises UserError for a sampler that needs a model of two times; `two_times`: whether the model has them."""
    if getattr(sampler, "two_times", False) and not two_times:
        name = registry.name("sampler", sampler)
        raise UserError(f"{where}: the sampler '{name}' needs a model of two times, such as those of meanflow")


def has_two_times(network: Any) -> bool:
    """Whether a network is conditioned on two times."""
    return getattr(network, "two_times", False)
