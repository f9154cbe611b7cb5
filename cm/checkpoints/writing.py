"""A model of ours to a checkpoint that another project loads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cm import registry
from cm.checkpoints import diffusers_folder, diffusers_names, torch_file
from cm.checkpoints.fitting import check_conventions, fitted
from cm.config import check
from cm.diffusion.noise import KarrasNoise
from cm.errors import UserError, unknown
from cm.networks.adm import ADM

if TYPE_CHECKING:
    from torch import Tensor

DEFAULT_STEPS = 40


def export_checkpoint(tensors: Mapping[str, Tensor], description: Mapping[str, Any], out: Path, form: str) -> None:
    """Write the tensors of a model file as `form`: `diffusers`, a folder, or `openai`, a state dict.

    UserError, before anything is written, if `out` exists, or the form cannot hold the network or its preconditioning.
    """
    if form not in WRITERS:
        raise unknown("form", form, WRITERS)
    if Path(out).exists():
        raise UserError(f"{out} exists already")
    run = description["run"]
    net = _network(description, form)
    bare = {name.removeprefix("network."): tensor for name, tensor in tensors.items()}
    WRITERS[form](fitted(bare, net, run), net, description, Path(out))


def _network(description: Mapping[str, Any], form: str) -> ADM:
    run, values = description["run"], dict(description["network"])
    name = values.pop("name")
    if name != "adm":
        raise UserError(f"{run} is a network '{name}'; the form '{form}' holds 'adm' only")
    return check(registry.get("network", name), values, f"{run}, network")


def _openai(tensors: dict[str, Tensor], net: ADM, description: Mapping[str, Any], out: Path) -> None:
    from cm.checkpoints.openai_names import openai_state_dict

    check_conventions(net, "openai", description["run"])
    torch_file.write(out, openai_state_dict(tensors, net))


def _diffusers(tensors: dict[str, Tensor], net: ADM, description: Mapping[str, Any], out: Path) -> None:
    run, preconditioning = description["run"], description["preconditioning"]
    if preconditioning != "boundary":
        raise UserError(
            f"{run} has preconditioning '{preconditioning}'; the scheduler of diffusers' consistency models applies "
            "'boundary' and no other"
        )
    noise = {key: value for key, value in description["noise"].items() if key != "name"}
    grid, steps = check(KarrasNoise, noise, f"{run}, noise"), steps_of(description["objective"])
    unet = diffusers_names.unet_state_dict(tensors, net)
    diffusers_folder.write(out, unet, net=net, noise=grid, steps=steps)


def steps_of(objective: Mapping[str, Any]) -> int:
    """N at the end of training: what the grid of time points of a multistep sampler counts in.

    For an objective without N, 40, as in the paper's distillations of ImageNet and LSUN.
    """
    if objective.get("steps"):
        return objective["steps"]
    return objective["s1"] + 1 if objective.get("s1") else DEFAULT_STEPS


WRITERS = {"diffusers": _diffusers, "openai": _openai}
