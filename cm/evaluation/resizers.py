"""Resizers: how images reach the size that a feature network takes. FID changes with it (Parmar et al. 2022).

A resizer has two stages: `host` runs in threads on the processor, `device` beside the network. All but `none` repeat
grey images to three channels. Images have values in 0..255.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cm.registry import register

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    from cm.lazy import torch


@dataclass(frozen=True)
class Resizer:
    """Images uint8 [B, H, W, C] to float32 [B, 3, size, size], as `device(host(images, size), size)`."""

    host: Callable[[np.ndarray, int], Tensor]
    device: Callable[[Tensor, int], Tensor]


def to_tensor(images: np.ndarray, size: int) -> Tensor:
    """The images as uint8 [B, C, H, W], of the size that they have."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)


def to_float(x: Tensor, size: int) -> Tensor:
    """The images in float32, of the size that they have."""
    return x.float()


def resize_clean(images: np.ndarray, size: int) -> Tensor:
    """clean-fid's own resizer, image by image: Pillow's antialiased bicubic of floats, clipped to 0..255."""
    resize = _pillow_resizer(size)
    # Pillow 11.3 warns of an argument that clean-fid uses; `catch_warnings` is not safe in threads.
    warnings.filterwarnings("ignore", "'mode' parameter is deprecated", DeprecationWarning)
    in_colour = np.broadcast_to(images, (*images.shape[:3], 3))
    return torch.from_numpy(np.stack([resize(image) for image in in_colour])).permute(0, 3, 1, 2)


def resize_tensorflow(x: Tensor, size: int) -> Tensor:
    """TensorFlow 1's bilinear: pixel i is read at i H / size, without the offset of half a pixel or antialiasing.

    It is torch-fidelity's `interpolate_bilinear_2d_like_tensorflow1x` to the last bit, along one axis after the other.
    """
    return _in_colour(_interpolate_axis(_interpolate_axis(x.float(), size, 3), size, 2))


def resize_pytorch(x: Tensor, size: int) -> Tensor:
    """PyTorch's bilinear, with the offset of half a pixel and without antialiasing, clipped to 0..255."""
    x = _in_colour(x.float())
    return torch.nn.functional.interpolate(x, (size, size), mode="bilinear", align_corners=False).clamp(0, 255)


def resize_bicubic(x: Tensor, size: int) -> Tensor:
    """PyTorch's antialiased bicubic, as EDM2 resizes images for DINOv2; values may leave 0..255."""
    return torch.nn.functional.interpolate(_in_colour(x.float()), (size, size), mode="bicubic", antialias=True)


register("resizer", "legacy_tensorflow")(Resizer(to_tensor, resize_tensorflow))
register("resizer", "legacy_pytorch")(Resizer(to_tensor, resize_pytorch))
register("resizer", "clean")(Resizer(resize_clean, to_float))
register("resizer", "bicubic")(Resizer(to_tensor, resize_bicubic))
register("resizer", "none")(Resizer(to_tensor, to_float))


def _in_colour(x: Tensor) -> Tensor:
    return x.expand(-1, 3, -1, -1)


@functools.cache
def _pillow_resizer(size: int) -> Callable[[np.ndarray], np.ndarray]:
    """uint8 [H, W, 3] to float32 [size, size, 3]; with size 299 it is clean-fid's `build_resizer("clean")`."""
    from cleanfid.resize import make_resizer

    return make_resizer("PIL", False, "bicubic", (size, size))


def _interpolate_axis(x: Tensor, size: int, axis: int) -> Tensor:
    """x, interpolated along `axis` between the pixels below and above the places i H / size, in float32."""
    count = x.shape[axis]
    place = torch.arange(size, dtype=torch.float32, device=x.device) * torch.tensor(count / size, dtype=torch.float32)
    low = place.long()
    below, above = x.index_select(axis, low), x.index_select(axis, (low + 1).clamp_max(count - 1))
    return below + (above - below) * (place - low).view(-1, *[1] * (x.ndim - 1 - axis))
