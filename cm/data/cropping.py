"""Decoding and cropping an encoded image to a square, as the papers' code does it: in RGB, with Pillow's filters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cm.data import decoding

if TYPE_CHECKING:
    from PIL.Image import Image, Resampling

# Descriptions of the two crops for the manifest.
ADM = "RGB; ADM's centre crop: halved with a box filter until the short side is below 2x, bicubic to {size}, cropped"
LSUN = "RGB; one box filter until the short side is {size}, cropped in the centre, as OpenAI's code converts LSUN"


def adm(data: bytes, size: int) -> np.ndarray:
    """Decode `data` and return ADM's centre crop, uint8 [size, size, 3].

    The image is halved with a box filter while its short side is at least twice `size`, scaled with a bicubic filter
    until the short side is `size`, and cropped in the centre. Source: Dhariwal and Nichol (2021); the consistency
    models of ImageNet use it too. It differs from the "downsampled ImageNet" of Chrabaszcz et al. (2017), whose images
    are squeezed into the square.
    """
    from PIL.Image import Resampling

    image = _decode(data)
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Resampling.BOX)
    return _crop_centre(_scale_short_side(image, size, Resampling.BICUBIC), size)


def lsun(data: bytes, size: int) -> np.ndarray:
    """Decode `data` and return the centre crop that OpenAI's code makes of LSUN, uint8 [size, size, 3].

    The image is scaled with one box filter until its short side is `size`, and cropped in the centre. ADM's crop,
    which the training code applies afterwards, leaves the result unchanged, because its short side is `size` already.
    """
    from PIL.Image import Resampling

    return _crop_centre(_scale_short_side(_decode(data), size, Resampling.BOX), size)


def _decode(data: bytes) -> Image:
    with decoding.open_image(data) as image:
        return image.convert("RGB")


def _scale_short_side(image: Image, size: int, resampling: Resampling) -> Image:
    scale = size / min(image.size)
    width, height = round(image.width * scale), round(image.height * scale)
    decoding.check_pixels(width, height)
    return image.resize((width, height), resampling)


def _crop_centre(image: Image, size: int) -> np.ndarray:
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.asarray(image)[top : top + size, left : left + size]
