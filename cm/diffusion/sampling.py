"""A model, a sampler and a seed to images, in batches that do not change the result."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from cm.diffusion.noise import KarrasNoise
from cm.utils.progress_bar import ProgressBar


def images(
    denoiser: nn.Module,
    sampler: Callable[..., Tensor],
    *,
    noise: KarrasNoise,
    shape: tuple[int, int, int],
    count: int,
    seed: int,
    classes: int = 0,
    batch: int = 256,
    quantization: str = "truncate",
    clamp: bool = False,
    precision: str = "float32",
    out: np.ndarray | None = None,
) -> np.ndarray:
    """uint8 images [count, H, W, C], written to `out` if it is given.

    Image i depends on `seed` and i only: its noise has its own generator, and so has its label, drawn uniformly, with
    `classes`. `shape`: [C, H, W]. `clamp`: every estimate of the denoiser to [-1, 1], as the official code does for
    ImageNet and LSUN, not for CIFAR-10. `precision` of the network: that of autocast, or `float32`.
    """
    device = next(denoiser.parameters()).device
    channels, height, width = shape
    made = np.empty((count, height, width, channels), np.uint8) if out is None else out
    progress = ProgressBar("samples", count, unit="images")
    for start in range(0, count, batch):
        streams = [torch.Generator().manual_seed(seed * 1_000_000 + i) for i in range(start, min(start + batch, count))]
        labels = torch.cat([torch.randint(classes, (1,), generator=g) for g in streams]).to(device) if classes else None

        def draw(streams: list[torch.Generator] = streams) -> Tensor:
            return torch.stack([torch.randn(shape, generator=stream) for stream in streams]).to(device)

        def denoise(x: Tensor, t: Tensor, labels: Tensor | None = labels) -> Tensor:
            estimate = denoiser(x, t, labels)
            return estimate.clamp(-1, 1) if clamp else estimate

        with torch.inference_mode(), autocast(device, precision):
            made[start : start + len(streams)] = to_uint8(sampler(denoise, draw(), noise, draw), quantization)
        progress.update(len(streams))
    progress.close()
    return made


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Autocast to a type by its name; none for `float32`."""
    dtype = torch.bfloat16 if precision == "float32" else getattr(torch, precision)
    return torch.autocast(device.type, dtype, enabled=precision != "float32")


def to_device(module: nn.Module, device: str) -> nn.Module:
    """Move a module to a device; on a GPU in channels-last format, in which convolutions there are faster."""
    module = module.to(torch.device(device))
    return module.to(memory_format=torch.channels_last) if torch.device(device).type == "cuda" else module


def to_uint8(x: Tensor, quantization: str) -> np.ndarray:
    """[B, C, H, W] in [-1, 1] to uint8 [B, H, W, C]: clamped, then `truncate`d (official code) or `round`ed (EDM)."""
    levels = (x.clamp(-1, 1) + 1) * 127.5
    levels = levels.round() if quantization == "round" else levels
    return levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
