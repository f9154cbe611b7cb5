"""A model, a sampler and a seed to samples, in batches and on devices that do not change the result."""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from cm.diffusion.noise import KarrasNoise
from cm.diffusion.precision import autocast, check_precision
from cm.diffusion.samplers import Sampler
from cm.errors import UserError
from cm.utils.parallel import map_in_turns
from cm.utils.progress_bar import ProgressBar

Part = TypeVar("Part")
Result = TypeVar("Result")
Network = Callable[..., Any]


@dataclass(frozen=True)
class SamplingSettings:
    """Which samples are drawn from a model, and how they are computed.

    `noise`: the noise levels of the model. `shape`: [C, H, W] of an image. `count`: the number of samples. `seed`: of
    their noise. `classes`: the number of class labels, of which each sample has a random one; 0 for none. `batch`:
    samples computed at a time. `quantization`: `truncate` or `round`, see `to_uint8`. `clamp`: clamp every output of
    the denoiser to [-1, 1], as the official code does for ImageNet and LSUN but not for CIFAR-10. `precision`:
    `float32`, or the type of autocast. `devices`: torch's names; several take the batches in turns. By default the
    device of the denoiser.
    """

    noise: KarrasNoise
    shape: tuple[int, int, int]
    count: int
    seed: int
    classes: int = 0
    batch: int = 256
    quantization: str = "truncate"
    clamp: bool = False
    precision: str = "float32"
    devices: tuple[str, ...] = ()


def images(
    denoiser: nn.Module, sampler: Sampler, settings: SamplingSettings, out: np.ndarray | None = None
) -> np.ndarray:
    """Samples, uint8 [count, H, W, C], written to `out` if it is given.

    Sample i depends on the seed and on i only: its noise and its label come from a generator of its own. The number of
    devices changes no bit: the batches stay the same. Raises UserError for a precision that a device does not have.
    """
    devices = settings.devices or (str(next(denoiser.parameters()).device),)
    check_precision(devices, settings.precision)
    channels, height, width = settings.shape
    samples = np.empty((settings.count, height, width, channels), np.uint8) if out is None else out
    progress = ProgressBar("samples", settings.count, unit="images")
    starts = range(0, settings.count, settings.batch)
    batches = [range(start, min(start + settings.batch, settings.count)) for start in starts]
    sample = functools.partial(_sample_batch, sampler, settings)
    results = map_on_devices(sample, denoiser, batches, devices[: len(batches)])
    for indices, found in zip(batches, results, strict=True):
        samples[indices.start : indices.stop] = found
        progress.update(len(indices))
    progress.close()
    return samples


def _sample_batch(
    sampler: Sampler, settings: SamplingSettings, denoiser: Network, device: torch.device, indices: range
) -> np.ndarray:
    """The samples of these indices, uint8 [B, H, W, C]."""
    generators = [torch.Generator().manual_seed(settings.seed * 1_000_000 + index) for index in indices]
    labels = _draw_labels(generators, settings.classes).to(device) if settings.classes else None

    def draw() -> Tensor:
        return torch.stack([torch.randn(settings.shape, generator=generator) for generator in generators]).to(device)

    def denoise(x: Tensor, t: Tensor, s: Tensor | None = None) -> Tensor:
        if s is not None:
            return denoiser(x, t, labels, s=s)
        estimate: Tensor = denoiser(x, t, labels)
        return estimate.clamp(-1, 1) if settings.clamp else estimate

    with torch.inference_mode(), autocast(device, settings.precision):
        return to_uint8(sampler(denoise, draw(), settings.noise, draw), settings.quantization)


def labels_of(seed: int, count: int, classes: int) -> list[int]:
    """The classes of the first samples of a class-conditional model, see `images`."""
    generators = [torch.Generator().manual_seed(seed * 1_000_000 + index) for index in range(count)]
    return list(map(int, _draw_labels(generators, classes)))


def _draw_labels(generators: list[torch.Generator], classes: int) -> Tensor:
    """A uniform label for each sample, int64 [B]."""
    return torch.cat([torch.randint(classes, (1,), generator=generator) for generator in generators])


def map_on_devices(
    function: Callable[[Network, torch.device, Part], Result],
    module: nn.Module,
    parts: Iterable[Part],
    devices: Sequence[str],
) -> Generator[Result]:
    """Yield `function(network, device, part)` for each part, in order; several devices take the parts in turns.

    `network` calls the module, or its copy if the device is not the first; the module itself is moved to the first.
    Several devices compute in a thread each. An error on one of them ends the others before they call their network
    again. Raises UserError for a device whose memory is too small or that fails.
    """
    copies = [copy.deepcopy(module).to(device) for device in devices[1:]]
    stop = threading.Event()
    functions = [
        functools.partial(_compute, function, functools.partial(_call, replica, stop), torch.device(device))
        for replica, device in zip([module.to(devices[0]), *copies], devices, strict=True)
    ]
    return map_in_turns(functions, parts, stop)


def _compute(
    function: Callable[[Network, torch.device, Part], Result], network: Network, device: torch.device, part: Part
) -> Result:
    try:
        return function(network, device, part)
    except torch.OutOfMemoryError:
        raise UserError(f"device '{device}' has too little free memory for such a batch: make it smaller") from None
    except torch.AcceleratorError as error:
        raise UserError(f"device '{device}' failed: {str(error).splitlines()[0]}") from None


def _call(module: nn.Module, stop: threading.Event, *inputs: Tensor | None, **named: Tensor) -> Any:
    """The output of the module, unless its result is no longer needed."""
    if stop.is_set():
        raise CancelledError
    return module(*inputs, **named)


def to_device(module: nn.Module, device: str) -> nn.Module:
    """Move a module to a device; on a GPU in channels-last format, in which convolutions there are faster."""
    module = module.to(torch.device(device))
    return module.to(memory_format=torch.channels_last) if torch.device(device).type == "cuda" else module


def to_uint8(x: Tensor, quantization: str) -> np.ndarray:
    """[B, C, H, W] in [-1, 1] to uint8 [B, H, W, C].

    Clamped to [-1, 1] and scaled to [0, 255], then truncated (`truncate`, the official code) or rounded (`round`, EDM).
    """
    levels = (x.clamp(-1, 1) + 1) * 127.5
    levels = levels.round() if quantization == "round" else levels
    return levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
