"""How images come to the size that a network of features takes; FID changes with it (Parmar et al. 2022).

The work is in two halves: `host` in threads on the processor, `device` beside the network. Grey images are repeated to
three channels, except by `none`.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cm.lazy import torch
from cm.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Resizer:
    """Images uint8 [B, H, W, C] to float32 [B, 3, size, size] in 0..255, as `device(host(images, size), size)`."""

    host: Callable[[np.ndarray, int], Tensor]
    device: Callable[[Tensor, int], Tensor]


def as_is(images: np.ndarray, size: int) -> Tensor:
    """uint8 [B, C, H, W], of the size they have."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)


def clean_fid(images: np.ndarray, size: int) -> Tensor:
    """clean-fid's own, image by image: Pillow's antialiased bicubic of floats, clipped to 0..255."""
    resize = _pillow(size)
    # Pillow 11.3 would rather not be told that floats are floats; `catch_warnings` is not for threads.
    warnings.filterwarnings("ignore", "'mode' parameter is deprecated", DeprecationWarning)
    coloured = np.broadcast_to(images, (*images.shape[:3], 3))
    return torch.from_numpy(np.stack([resize(image) for image in coloured])).permute(0, 3, 1, 2)


def done(x: Tensor, size: int) -> Tensor:
    """What was resized before, as floats."""
    return x.float()


def tensorflow(x: Tensor, size: int) -> Tensor:
    """TensorFlow 1's bilinear: pixel i reads at i H / size, without half a pixel's offset and without antialiasing.

    torch-fidelity's `interpolate_bilinear_2d_like_tensorflow1x`, to the last bit, along one axis after the other.
    """
    return _coloured(_tensorflow_axis(_tensorflow_axis(x.float(), size, 3), size, 2))


def pytorch(x: Tensor, size: int) -> Tensor:
    """PyTorch's bilinear, with half a pixel's offset and without antialiasing, clipped to 0..255."""
    resized = torch.nn.functional.interpolate(_coloured(x.float()), (size, size), mode="bilinear", align_corners=False)
    return resized.clamp(0, 255)


def bicubic(x: Tensor, size: int) -> Tensor:
    """PyTorch's antialiased bicubic as EDM2 has it for DINOv2: it may leave 0..255."""
    return torch.nn.functional.interpolate(_coloured(x.float()), (size, size), mode="bicubic", antialias=True)


register("resizer", "legacy_tensorflow")(Resizer(as_is, tensorflow))
register("resizer", "legacy_pytorch")(Resizer(as_is, pytorch))
register("resizer", "clean")(Resizer(clean_fid, done))
register("resizer", "bicubic")(Resizer(as_is, bicubic))
register("resizer", "none")(Resizer(as_is, done))


def _coloured(x: Tensor) -> Tensor:
    return x.expand(-1, 3, -1, -1)


@functools.cache
def _pillow(size: int) -> Callable[[np.ndarray], np.ndarray]:
    """uint8 [H, W, 3] to float32 [size, size, 3]; with 299 it is clean-fid's `build_resizer("clean")`."""
    from cleanfid.resize import make_resizer

    return make_resizer("PIL", False, "bicubic", (size, size))


def _tensorflow_axis(x: Tensor, size: int, axis: int) -> Tensor:
    """x with its `axis` interpolated between the pixels below and above the places i H / size, in float32."""
    count = x.shape[axis]
    place = torch.arange(size, dtype=torch.float32, device=x.device) * torch.tensor(count / size, dtype=torch.float32)
    low = place.long()
    below, above = x.index_select(axis, low), x.index_select(axis, (low + 1).clamp_max(count - 1))
    return below + (above - below) * (place - low).view(-1, *[1] * (x.ndim - 1 - axis))
