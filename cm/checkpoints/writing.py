"""Conversion of one of our models to a checkpoint that another project loads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cm import registry
from cm.checkpoints import diffusers_folder, diffusers_names, torch_file
from cm.checkpoints.fitting import check_conventions, fit_weights
from cm.config import check
from cm.config.checking import make_component
from cm.diffusion.noise import KarrasNoise
from cm.errors import UserError, unknown
from cm.networks.adm import ADM

if TYPE_CHECKING:
    from torch import Tensor

DEFAULT_STEPS = 40  # of the paper's distillations of ImageNet and LSUN


def export_checkpoint(
    tensors: Mapping[str, Tensor], description: Mapping[str, Any], out: Path, format_name: str
) -> None:
    """Write the tensors of a model file as a checkpoint of another project.

    `format_name`: `diffusers`, a folder, or `openai`, a state dict. Raises UserError, before anything is written, if
    `out` exists, or if the format cannot hold the network or its preconditioning.
    """
    if format_name not in WRITERS:
        raise unknown("format", format_name, WRITERS)
    if Path(out).exists():
        raise UserError(f"{out} exists already")
    network = _network(description, format_name)
    weights = {name.removeprefix("network."): tensor for name, tensor in tensors.items()}
    WRITERS[format_name](fit_weights(weights, network, description["run"]), network, description, Path(out))


def _network(description: Mapping[str, Any], format_name: str) -> ADM:
    run, settings = description["run"], dict(description["network"])
    name = settings.pop("name")
    if name != "adm":
        raise UserError(f"{run} is a network '{name}'; the format '{format_name}' holds 'adm' only")
    return check(registry.get("network", name), settings, f"{run}, network")


def _write_openai(tensors: dict[str, Tensor], network: ADM, description: Mapping[str, Any], out: Path) -> None:
    from cm.checkpoints.openai_names import openai_state_dict

    check_conventions(network, "openai", description["run"])
    torch_file.write(out, openai_state_dict(tensors, network))


def _write_diffusers(tensors: dict[str, Tensor], network: ADM, description: Mapping[str, Any], out: Path) -> None:
    run, preconditioning = description["run"], description["preconditioning"]
    if preconditioning != "boundary":
        raise UserError(
            f"{run} has preconditioning '{preconditioning}'; the scheduler of diffusers' consistency models applies "
            "'boundary' and no other"
        )
    settings = {key: value for key, value in description["noise"].items() if key != "name"}
    noise, steps = check(KarrasNoise, settings, f"{run}, noise"), final_steps(description["objective"], run)
    unet = diffusers_names.unet_state_dict(tensors, network)
    diffusers_folder.write(out, unet, network=network, noise=noise, steps=steps)


def final_steps(objective: Mapping[str, Any], run: str) -> int:
    """N at the end of training, the number of times on the grid that a multistep sampler of diffusers refers to.

    `objective`: the settings of the method. A method without a curriculum has its `steps` or, without those, 40.
    """
    if "curriculum" not in objective:
        return objective.get("steps") or DEFAULT_STEPS
    curriculum = make_component("curriculum", objective["curriculum"], f"{run}, curriculum")
    return curriculum.steps_at(1, 1)


WRITERS: dict[str, Callable[[dict[str, Any], ADM, Mapping[str, Any], Path], None]] = {
    "diffusers": _write_diffusers,
    "openai": _write_openai,
}
