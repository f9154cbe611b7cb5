"""Sets of images edited in batches, so that memory depends on the batch only.

Image i depends on the seed and on i only: its noise comes from a generator of its own. Results are rounded to 8 bits:
with truncation, known pixels could lose a level to the arithmetic.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from cm.diffusion.edits import Edit, Interpolation
from cm.diffusion.noise import KarrasNoise
from cm.diffusion.operators import Operator
from cm.diffusion.precision import autocast, check_precision
from cm.diffusion.sampling import Network, map_on_devices, to_uint8
from cm.errors import UserError
from cm.evaluation.imagesets import Images
from cm.utils.progress_bar import ProgressBar

WORKERS = 2  # threads that decode images


@dataclass(frozen=True)
class EditingSettings:
    """How images are edited, besides the edit.

    `noise`: the noise levels of the model. `seed`: of the noise. `labels`: a class for each image, int64 [N], for a
    class-conditional model. `batch`: images at a time. `precision`: `float32`, or the type of autocast. `devices`:
    torch's names; several take the batches in turns.
    """

    noise: KarrasNoise
    seed: int
    labels: np.ndarray | None = None
    batch: int = 64
    precision: str = "float32"
    devices: tuple[str, ...] = ("cpu",)


@dataclass(frozen=True)
class EditedBatch:
    """A batch of originals, of what was given of them, and of results, uint8 [B, H, W, C].

    `edited`: the results of the model, each of other noise. `baselines`: those of simple methods by name.
    """

    original: np.ndarray
    given: np.ndarray
    edited: list[np.ndarray]
    baselines: dict[str, np.ndarray]


def edit_images(
    denoiser: nn.Module,
    edit: Edit,
    operator: Operator,
    images: Images,
    settings: EditingSettings,
    *,
    results: int = 1,
) -> Iterator[EditedBatch]:
    """The batches of edited images, in order; `results` of each image.

    Raises UserError for a precision that a device does not have, and for a damaged image.
    """
    check_precision(settings.devices, settings.precision)
    progress = ProgressBar("edited", len(images), unit="images")
    starts = range(0, len(images), settings.batch)
    parts = zip(starts, images.batches(settings.batch, WORKERS), strict=True)
    function = functools.partial(_edit_batch, edit, operator, settings, results)
    for batch in map_on_devices(function, denoiser, parts, settings.devices[: len(starts)]):
        yield batch
        progress.update(len(batch.original))
    progress.close()


def _edit_batch(
    edit: Edit,
    operator: Operator,
    settings: EditingSettings,
    results: int,
    denoiser: Network,
    device: torch.device,
    part: tuple[int, np.ndarray],
) -> EditedBatch:
    """The batch of the images [B, H, W, C] of a part, the first of which is the image `start`."""
    start, original = part
    indices = range(start, start + len(original))
    x = torch.from_numpy(original).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
    draw = _draw_of(indices, settings.seed, tuple(x.shape[1:]), device)
    denoise = _denoise_with(denoiser, _labels_of(indices, settings.labels, device))
    with torch.inference_mode():
        given = operator.observe(x, draw)
        with autocast(device, settings.precision):
            edited = [edit(denoise, operator, given, settings.noise, draw) for _ in range(results)]
        pictures = {name: _quantize(images) for name, images in operator.baselines(given).items()}
        return EditedBatch(original, _quantize(operator.show(given)), list(map(_quantize, edited)), pictures)


def interpolate(
    denoiser: nn.Module, edit: Interpolation, shape: tuple[int, int, int], count: int, settings: EditingSettings
) -> np.ndarray:
    """Samples between `count` pairs of samples, uint8 [count, points, H, W, C]. `shape`: [C, H, W] of an image.

    `settings.labels`: a class for each pair.
    """
    check_precision(settings.devices, settings.precision)
    starts = range(0, count, settings.batch)
    parts = [range(start, min(start + settings.batch, count)) for start in starts]
    function = functools.partial(_interpolate_batch, edit, shape, settings)
    return np.concatenate(list(map_on_devices(function, denoiser, parts, settings.devices[: len(parts)])))


def _interpolate_batch(
    edit: Interpolation,
    shape: tuple[int, int, int],
    settings: EditingSettings,
    denoiser: Network,
    device: torch.device,
    pairs: range,
) -> np.ndarray:
    draw = _draw_of(pairs, settings.seed, shape, device)
    denoise = _denoise_with(denoiser, _labels_of(pairs, settings.labels, device))
    with torch.inference_mode(), autocast(device, settings.precision):
        rows = edit(denoise, draw(), draw(), settings.noise)
        return _quantize(rows.flatten(0, 1)).reshape(len(pairs), edit.points, *shape[1:], shape[0])


def check_labels_are_given(run: str, classes: int, labels: object) -> None:
    """UserError unless a class-conditional model, and no other, gets labels. `classes`: of the model, 0 for none."""
    if classes and labels is None:
        raise UserError(f"{run} is class-conditional ({classes} classes): give the labels of the images (--labels)")
    if labels is not None and not classes:
        raise UserError(f"{run} is not class-conditional and takes no labels")


def _draw_of(indices: range, seed: int, shape: tuple[int, ...], device: torch.device) -> Callable[[], Tensor]:
    """A function that returns further unit noise for these images, each of which has a generator of its own."""
    generators = [torch.Generator().manual_seed(seed * 1_000_000 + index) for index in indices]

    def draw() -> Tensor:
        return torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(device)

    return draw


def _denoise_with(denoiser: Network, labels: Tensor | None) -> Callable[[Tensor, Tensor], Tensor]:
    def denoise(x: Tensor, t: Tensor) -> Tensor:
        estimate: Tensor = denoiser(x, t, labels)
        return estimate

    return denoise


def _labels_of(indices: range, labels: np.ndarray | None, device: torch.device) -> Tensor | None:
    return None if labels is None else torch.from_numpy(labels[indices.start : indices.stop]).to(device)


def _quantize(x: Tensor) -> np.ndarray:
    return to_uint8(x.float(), "round")
