"""Folders of diffusers' `ConsistencyModelPipeline`: a `UNet2DModel`, and a scheduler that preconditions it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cm.checkpoints import native
from cm.checkpoints.fitting import block_widths
from cm.diffusion.noise import KarrasNoise
from cm.errors import UserError
from cm.networks.adm import ADM
from cm.utils import files, unpacking

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = "diffusion_pytorch_model.safetensors"
VERSION = "0.42.1"  # the release that the tests use
IGNORED_KEYS = ("dropout", "_diffusers_version", "down_block_types", "up_block_types")
OPTIONAL_KEYS = {"attn_norm_num_groups": None}  # if it is None, the names of the tensors show whether the layer exists


def read(path: Path, network: ADM) -> dict[str, Tensor]:
    """Read the tensors of the `UNet2DModel` in a folder, by the names of diffusers.

    Raises UserError for a damaged folder, or if its configuration is not that of `network`.
    """
    from safetensors.torch import load_file

    unet = path / "unet" if (path / "unet").is_dir() else path
    if not (unet / "config.json").is_file():
        raise UserError(f"{path} is a folder without unet/config.json: not one of diffusers")
    _check_config(unet / "config.json", network)
    if not (unet / WEIGHTS).is_file():
        raise UserError(f"no file {unet / WEIGHTS}")
    try:
        return load_file(unet / WEIGHTS)
    except Exception as error:  # a damaged file can raise almost anything
        reason = unpacking.describe(error)
        raise UserError(f"{unet / WEIGHTS} is not a whole safetensors file: {reason}") from None


def write(
    path: Path, tensors: Mapping[str, Tensor], *, network: ADM, noise: KarrasNoise, steps: int, card: str | None = None
) -> None:
    """Write a folder that `ConsistencyModelPipeline.from_pretrained` loads, whole or not at all.

    `tensors`: those of the `UNet2DModel`. `steps`: the number of times on the noise grid. `card`: the model card.

    Raises UserError if no `UNet2DModel` computes what `network` computes.
    """
    parts = {"scheduler": ["diffusers", "CMStochasticIterativeScheduler"], "unet": ["diffusers", "UNet2DModel"]}
    config = unet_config(network)
    with files.create_folder(path) as temporary:
        files.write_json(temporary / "model_index.json", _header("ConsistencyModelPipeline") | parts)
        files.write_json(temporary / "scheduler" / "scheduler_config.json", _scheduler_config(noise, steps))
        files.write_json(temporary / "unet" / "config.json", config)
        if card is not None:
            (temporary / "README.md").write_text(card, encoding="utf-8")
        native.write_tensors(temporary / "unet" / WEIGHTS, tensors, {"format": "pt"})


def unet_config(net: ADM) -> dict[str, Any]:
    """The configuration of the `UNet2DModel` that computes what `net` computes. Raises UserError if there is none."""
    problem = _find_obstacle(net)
    if problem:
        raise UserError(f"no UNet2DModel of diffusers computes this network: {problem}")
    attends = [net.resolution >> level in net.attention for level in range(len(net.multipliers))]
    groups = net.groups(net.channels)
    return _header("UNet2DModel") | {
        "sample_size": net.resolution,
        "in_channels": net.image_channels,
        "out_channels": net.image_channels,
        "block_out_channels": [net.channels * multiplier for multiplier in net.multipliers],
        "layers_per_block": net.blocks,
        "down_block_types": ["AttnDownBlock2D" if attend else "ResnetDownsampleBlock2D" for attend in attends],
        "up_block_types": ["AttnUpBlock2D" if attend else "ResnetUpsampleBlock2D" for attend in reversed(attends)],
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "attention_head_dim": net.head_channels,
        "norm_num_groups": groups,
        "attn_norm_num_groups": groups,
        "norm_eps": 1e-5,
        "resnet_time_scale_shift": "scale_shift" if net.scale_shift else "default",
        "num_class_embeds": net.classes or None,
        "time_embedding_type": "positional",
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "center_input_sample": False,
        "act_fn": "silu",
        "dropout": net.dropout,
    }


def _find_obstacle(net: ADM) -> str:
    """Why no `UNet2DModel` computes what a network computes; empty if one does."""
    groups = {net.groups(width) for width in block_widths(net)}
    if len(groups) > 1:
        return f"its normalisations have {', '.join(map(str, sorted(groups)))} groups, those of diffusers all the same"
    if net.noise_factor != 1000:
        return f"its noise labels are multiplied by {net.noise_factor:g}, those of diffusers by 1000"
    if net.multipliers[0] != 1:
        return f"its first multiplier is {net.multipliers[0]}, that of diffusers is 1"
    if net.augment_dim:
        return "it has augmentation labels"
    if net.double_norm:
        return "its scales and shifts are normalised"
    if net.two_times:
        return "it is conditioned on two times"
    return ""


def _check_config(path: Path, net: ADM) -> None:
    found, expected = files.read_json(path), unet_config(net)
    if not isinstance(found, dict):
        raise UserError(f"{path} is no configuration of a UNet2DModel")
    for key, value in expected.items():
        if key not in IGNORED_KEYS and found.get(key, value) not in (value, OPTIONAL_KEYS.get(key, value)):
            raise UserError(f"{path} describes another network: its {key} is {found[key]}, not {value}")


def _scheduler_config(noise: KarrasNoise, steps: int) -> dict[str, Any]:
    return _header("CMStochasticIterativeScheduler") | {
        "num_train_timesteps": steps,
        "sigma_min": noise.sigma_min,
        "sigma_max": noise.sigma_max,
        "sigma_data": noise.sigma_data,
        "rho": noise.rho,
        "s_noise": 1.0,
        "clip_denoised": True,
    }


def _header(name: str) -> dict[str, str]:
    return {"_class_name": name, "_diffusers_version": VERSION}
