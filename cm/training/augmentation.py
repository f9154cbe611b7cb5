"""EDM's augmentation of training images, with labels for the network (Karras et al. 2022, Appendix F.2).

Each transformation is applied with the same probability; n is unit normal, a uniform in [-pi, pi]. The labels, on which
the network is conditioned, describe what was done. They are 0 for an unchanged image, and samples are made with zeros,
so that no transformation shows in them.

    flip        mirrored from left to right with probability 1/2        label: 1
    yflip       mirrored from top to bottom, half of the times          1
    scale       by 2^(0.2 n)                                            n
    rotate      by a                                                    cos a - 1, sin a
    aniso       by s = 2^(0.2 n) and 1/s along two axes that are        n cos a, n sin a
                rotated by a, half of the times (otherwise a = 0)
    translate   by n_x / 8 of the width and n_y / 8 of the height       n_x, n_y

The last four are one map of the plane. The image, continued by reflection, is resampled at twice the resolution with
the wavelet filter sym6 before and after, as in EDM. All is a function of the seed of the image.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from cm.config.sections import AUGMENTATIONS, Training

STREAM = 1  # tells these random numbers from others of the same seed
MARGIN = 3  # pixels around the image that the filter of the last step needs
SYM6 = (
    *(0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633),
    *(0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252),
    *(-0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148),
)


@dataclasses.dataclass(frozen=True)
class Transformations:
    """What is done to each image: `mirrored` bool [B], `inverse` [B, 3, 3] of the map, `labels` float32 [B, n].

    The map is one of homogeneous coordinates (x, y, 1) in pixels from the centre of the image.
    """

    mirrored: np.ndarray
    inverse: np.ndarray
    labels: np.ndarray


def draw(training: Training, seeds: np.ndarray, flipped: np.ndarray, size: tuple[int, int]) -> Transformations:
    """The transformations of images of `size` (H, W) with these `seeds` [B], `flipped` [B] already or not."""
    numbers = _Numbers(seeds, training.augment_probability)
    inverse, labels = np.broadcast_to(np.eye(3), (len(seeds), 3, 3)), [flipped] if training.flip else []
    mirrored = np.zeros(len(seeds), bool)
    for name in training.augment:
        if name == "yflip":
            mirrored = numbers.coins[:, 0] & numbers.applied(name)
            labels.append(mirrored)
        else:
            step, described = MAPS[name](numbers, size)
            inverse = inverse @ step
            labels += described
    return Transformations(mirrored, inverse, np.stack(labels, axis=1).astype(np.float32))


class _Numbers:
    """The random numbers of each image: `normals` [B, 4], `angles` [B, 2], `coins` [B, 2], and a gate for each name."""

    def __init__(self, seeds: np.ndarray, probability: float) -> None:
        generators = [np.random.default_rng([int(seed), STREAM]) for seed in seeds]
        self.normals = np.stack([generator.standard_normal(4) for generator in generators])
        uniforms = np.stack([generator.random(4 + len(AUGMENTATIONS)) for generator in generators])
        self.angles, self.coins = (2 * uniforms[:, :2] - 1) * math.pi, uniforms[:, 2:4] < 0.5
        self._gates = dict(zip(AUGMENTATIONS, (uniforms[:, 4:] < probability).T, strict=True))

    def applied(self, name: str) -> np.ndarray:
        """Whether a transformation is applied to each image, [B]."""
        return self._gates[name]


Map = tuple[np.ndarray, list[np.ndarray]]  # the inverse of a map, [B, 3, 3], and its labels, each [B]


def _scale(numbers: _Numbers, size: tuple[int, int]) -> Map:
    n = numbers.normals[:, 0] * numbers.applied("scale")
    return _scaling(2 ** (-0.2 * n), 2 ** (-0.2 * n)), [n]


def _rotate(numbers: _Numbers, size: tuple[int, int]) -> Map:
    a = numbers.angles[:, 0] * numbers.applied("rotate")
    return _rotation(a), [np.cos(a) - 1, np.sin(a)]


def _aniso(numbers: _Numbers, size: tuple[int, int]) -> Map:
    n, a = numbers.normals[:, 1] * numbers.applied("aniso"), numbers.angles[:, 1] * numbers.coins[:, 1]
    inverse = _rotation(-a) @ _scaling(2 ** (-0.2 * n), 2 ** (0.2 * n)) @ _rotation(a)
    return inverse, [n * np.cos(a), n * np.sin(a)]


def _translate(numbers: _Numbers, size: tuple[int, int]) -> Map:
    x, y = numbers.normals[:, 2:].T * numbers.applied("translate")
    return _translation(-x * size[1] / 8, -y * size[0] / 8), [x, y]


MAPS = {"scale": _scale, "rotate": _rotate, "aniso": _aniso, "translate": _translate}


def _scaling(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _matrix([[x, 0, 0], [0, y, 0], [0, 0, 1]])


def _rotation(angle: np.ndarray) -> np.ndarray:
    cos, sin = np.cos(angle), np.sin(angle)
    return _matrix([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


def _translation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _matrix([[1, 0, x], [0, 1, y], [0, 0, 1]])


def _matrix(rows: list[list[np.ndarray | int]]) -> np.ndarray:
    """Matrices [B, 3, 3] from nine entries, numbers or arrays [B]."""
    entries = np.broadcast_arrays(*itertools.chain.from_iterable(rows))
    return np.stack(entries, axis=-1).reshape(-1, 3, 3)


def grid_matrix(inverse: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The matrix of torch's `affine_grid` for `warp`, float32 [B, 2, 3], of inverse maps [B, 3, 3] in pixels.

    Both images are twice as fine there, where the pixels of the filtered image lie half a pixel off.
    """
    shift, fine = np.array([0.5]), np.array([2.0])
    moved = _translation(-shift, -shift) @ _scaling(fine, fine) @ inverse
    moved = moved @ _scaling(1 / fine, 1 / fine) @ _translation(shift, shift)
    (height, width), (h, w) = _fine_sizes(size)
    to_pixels = _scaling(np.array([w / 2]), np.array([h / 2]))
    return (_scaling(np.array([2 / width]), np.array([2 / height])) @ moved @ to_pixels)[:, :2].astype(np.float32)


def _fine_sizes(size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Height and width of the image with its reflections, and of the result before the last filter, twice as fine."""
    (h, w) = size
    return (2 * (3 * h - 2), 2 * (3 * w - 2)), (2 * (h + 2 * MARGIN), 2 * (w + 2 * MARGIN))


def warp(images: Tensor, grid: Tensor) -> Tensor:
    """The images [B, C, H, W] after the maps whose `grid_matrix` [B, 2, 3] is given.

    EDM continues a batch by as many reflected pixels as its images need, here it is always a whole image, so that an
    image does not depend on the others.
    """
    batch, channels, height, width = images.shape
    kernel = images.new_tensor(SYM6).expand(channels, 1, -1)
    across, down = kernel[:, :, None, :], kernel[:, :, :, None]
    x = F.pad(images, [width - 1, width - 1, height - 1, height - 1], mode="reflect")
    x = F.conv_transpose2d(x, across, stride=(1, 2), padding=(0, 5), groups=channels)
    x = F.conv_transpose2d(x, down, stride=(2, 1), padding=(5, 0), groups=channels)
    _, (h, w) = _fine_sizes((height, width))
    points = F.affine_grid(grid.to(x.dtype), [batch, channels, h, w], align_corners=False)
    x = F.grid_sample(x, points, mode="bilinear", padding_mode="zeros", align_corners=False)
    x = F.conv2d(x, across, stride=(1, 2), padding=(0, 5), groups=channels)
    x = F.conv2d(x, down, stride=(2, 1), padding=(5, 0), groups=channels)
    return x[:, :, MARGIN:-MARGIN, MARGIN:-MARGIN]
