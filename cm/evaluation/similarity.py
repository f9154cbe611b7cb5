"""How near edited images are to the originals: PSNR and SSIM of torchmetrics, and a perceptual distance.

Each number is a mean over images. What an edit was given of the images should be in its results: the root mean square
difference is over all values that are known, in levels of 0..255.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from cm.diffusion.operators import Operator
from cm.diffusion.perceptual import PerceptualDistance
from cm.errors import UserError

MOST_PSNR = 100.0  # dB: the value for images that are the same, whose PSNR is infinite
LEAST_SIZE = 6  # pixels, for which half a window of SSIM can be reflected at the border


def psnr(edited: Tensor, original: Tensor) -> Tensor:
    """The peak signal-to-noise ratio of images [B, C, H, W] with values in 0..255: [B], in dB, at most `MOST_PSNR`."""
    from torchmetrics.functional.image import peak_signal_noise_ratio

    pairs = zip(edited, original, strict=True)
    each = [peak_signal_noise_ratio(a, b, data_range=255.0) for a, b in pairs]
    return torch.stack(each).clamp(max=MOST_PSNR)


def ssim(edited: Tensor, original: Tensor) -> Tensor:
    """The structural similarity (Wang et al. 2004) of images [B, C, H, W] with values in 0..255: [B].

    The windows are Gaussian, of 11x11 pixels and sigma 1.5.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    found = structural_similarity_index_measure(edited, original, data_range=255.0, reduction="none")
    return torch.atleast_1d(found)


def check_size(shape: tuple[int, int, int], what: str) -> None:
    """UserError for images [H, W, C] that are too small for SSIM. `what`: where the images are."""
    if min(shape[:2]) < LEAST_SIZE:
        raise UserError(f"{what}: SSIM needs images of at least {LEAST_SIZE} pixels, not {shape[0]}x{shape[1]}")


class Similarity:
    """The means over edited images that are added batch by batch."""

    def __init__(self, operator: Operator, distance: PerceptualDistance | None) -> None:
        self._operator, self._distance = operator, distance
        self._sums: dict[str, float] = {}
        self._images = self._known = 0

    def add(self, edited: np.ndarray, original: np.ndarray) -> None:
        """Add a batch of edited images and their originals, uint8 [B, H, W, C] both."""
        a, b = (torch.from_numpy(images).permute(0, 3, 1, 2).float() for images in (edited, original))
        self._images += len(a)
        self._add("psnr", psnr(a, b))
        self._add("ssim", ssim(a, b))
        if self._distance is not None:
            with torch.inference_mode():
                self._add("lpips", self._distance(a / 127.5 - 1, b / 127.5 - 1))
        self._add_known(a, b)

    def summary(self) -> dict[str, float | None]:
        """`psnr` in dB, `ssim`, `lpips` (None without a distance), and `known`, None if nothing is to be kept."""
        names = ("psnr", "ssim", "lpips")
        means = {name: self._sums[name] / self._images if name in self._sums else None for name in names}
        return {**means, "known": math.sqrt(self._sums["known"] / self._known) if self._known else None}

    def _add(self, name: str, values: Tensor) -> None:
        self._sums[name] = self._sums.get(name, 0.0) + float(values.double().sum())

    def _add_known(self, edited: Tensor, original: Tensor) -> None:
        found, wanted = self._operator.measure(edited), self._operator.measure(original)
        if found is not None and wanted is not None:
            self._known += wanted.numel()
            self._add("known", (found - wanted).square())
