"""An encoded image to a square of `size` pixels, as the papers' code does it: in RGB, with Pillow's filters."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image, Resampling

ADM = "RGB; ADM's centre crop: halved with a box filter until the short side is below 2x, bicubic to {size}, cropped"
LSUN = "RGB; one box filter until the short side is {size}, cropped in the centre, as OpenAI's code converts LSUN"


def adm(data: bytes, size: int) -> np.ndarray:
    """uint8 [size, size, 3]: halved with a box filter while the short side is at least twice `size`, bicubic, cropped.

    Dhariwal and Nichol (2021), and the consistency models of ImageNet. Not the "downsampled ImageNet" of
    Chrabaszcz et al. (2017), which squeezes the whole image into the square.
    """
    from PIL.Image import Resampling

    image = _decoded(data)
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Resampling.BOX)
    return _cropped(_scaled(image, size, Resampling.BICUBIC), size)


def lsun(data: bytes, size: int) -> np.ndarray:
    """uint8 [size, size, 3]: one box filter until the short side is `size`, cropped in the centre.

    The bicubic step of training (`adm`) leaves the result as it is: the short side is `size` already.
    """
    from PIL.Image import Resampling

    return _cropped(_scaled(_decoded(data), size, Resampling.BOX), size)


def _decoded(data: bytes) -> Image:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB")


def _scaled(image: Image, size: int, kind: Resampling) -> Image:
    """The short side becomes `size`."""
    scale = size / min(image.size)
    return image.resize((round(image.width * scale), round(image.height * scale)), kind)


def _cropped(image: Image, size: int) -> np.ndarray:
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.asarray(image)[top : top + size, left : left + size]
