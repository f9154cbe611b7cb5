"""Conversion of one of our models to a checkpoint that another project loads, or to a smaller model file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cm import registry
from cm.checkpoints import diffusers_folder, diffusers_names, native, torch_file
from cm.checkpoints.fitting import check_conventions, fit_weights
from cm.config import check
from cm.config.checking import convert, make_component
from cm.config.settings import at_least, at_most
from cm.diffusion.noise import KarrasNoise
from cm.errors import UserError, unknown
from cm.networks.adm import ADM
from cm.utils import outputs

if TYPE_CHECKING:
    from torch import Tensor

Steps = Annotated[int, at_least(1), at_most(10**6)]
DEFAULT_STEPS = 40  # of the paper's distillations of ImageNet and LSUN


def export_checkpoint(
    tensors: Mapping[str, Tensor],
    description: Mapping[str, Any],
    out: Path,
    format_name: str,
    card: str | None = None,
) -> None:
    """Write the tensors of a model file in another form.

    `format_name`: `diffusers`, a folder; `openai`, a state dict; or `bfloat16`, a model file of this suite of half the
    size, whose weights are rounded to bfloat16. `card`: the model card, which only a folder of diffusers holds.

    Raises UserError, before anything is written, if `out` exists, or if the format cannot hold the network or its
    preconditioning.
    """
    if format_name not in WRITERS:
        raise unknown("format", format_name, WRITERS)
    outputs.check_new(Path(out))
    more = {"card": card} if format_name == "diffusers" else {}
    WRITERS[format_name](tensors, description, Path(out), **more)


def _fit_adm(
    tensors: Mapping[str, Tensor], description: Mapping[str, Any], format_name: str
) -> tuple[dict[str, Tensor], ADM]:
    """The weights and the network of a model; UserError if the network is not an ADM."""
    run, settings = description["run"], dict(description["network"])
    name = settings.pop("name")
    if name != "adm":
        raise UserError(f"{run} is a network '{name}'; the format '{format_name}' holds 'adm' only")
    network = check(registry.get("network", name), settings, f"{run}, network")
    weights = {name.removeprefix("network."): tensor for name, tensor in tensors.items()}
    return fit_weights(weights, network, run), network


def _write_rounded(tensors: Mapping[str, Tensor], description: Mapping[str, Any], out: Path) -> None:
    import torch

    rounded = {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}
    native.save(out, rounded, {**description, "weights_precision": "bfloat16"})


def _write_openai(tensors: Mapping[str, Tensor], description: Mapping[str, Any], out: Path) -> None:
    from cm.checkpoints.openai_names import openai_state_dict

    weights, network = _fit_adm(tensors, description, "openai")
    check_conventions(network, "openai", description["run"])
    torch_file.write(out, openai_state_dict(weights, network))


def _write_diffusers(
    tensors: Mapping[str, Tensor], description: Mapping[str, Any], out: Path, card: str | None = None
) -> None:
    weights, network = _fit_adm(tensors, description, "diffusers")
    run, preconditioning = description["run"], description["preconditioning"]
    if preconditioning != "boundary":
        raise UserError(
            f"{run} has preconditioning '{preconditioning}'; the scheduler of diffusers' consistency models applies "
            "'boundary' and no other"
        )
    settings = {key: value for key, value in description["noise"].items() if key != "name"}
    noise, steps = check(KarrasNoise, settings, f"{run}, noise"), final_steps(description.get("objective", {}), run)
    unet = diffusers_names.unet_state_dict(weights, network)
    diffusers_folder.write(out, unet, network=network, noise=noise, steps=steps, card=card)


def final_steps(objective: Mapping[str, Any], run: str) -> int:
    """N at the end of training, the number of times on the grid that a multistep sampler of diffusers refers to.

    `objective`: the settings of the method. A method without a curriculum has its `steps` or, without those, 40.
    """
    if "curriculum" not in objective:
        steps: int = convert(Steps, objective.get("steps", DEFAULT_STEPS), "steps", run)
        return steps
    curriculum = make_component("curriculum", objective["curriculum"], f"{run}, curriculum")
    return curriculum.steps_at(1, 1)


WRITERS: dict[str, Callable[..., None]] = {
    "bfloat16": _write_rounded,
    "diffusers": _write_diffusers,
    "openai": _write_openai,
}
