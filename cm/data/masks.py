"""Masks of known pixels: patterns for images of any size, and files. White is known, black is unknown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cm import registry
from cm.data.decoding import open_image
from cm.errors import UserError
from cm.registry import register
from cm.utils import files

if TYPE_CHECKING:
    import numpy as np


@register("mask", "letter")
def letter(height: int, width: int) -> np.ndarray:
    """An S is unknown, as in the official code, which draws it in another font."""
    return ~_draw_letter(height, width)


@register("mask", "outside-letter")
def outside_letter(height: int, width: int) -> np.ndarray:
    """Only an S is known, as for half of the images of the official code."""
    return _draw_letter(height, width)


@register("mask", "half")
def half(height: int, width: int) -> np.ndarray:
    """The right half is unknown."""
    import numpy as np

    return np.broadcast_to(np.arange(width) < width // 2, (height, width)).copy()


@register("mask", "centre")
def centre(height: int, width: int) -> np.ndarray:
    """A rectangle of half the height and half the width in the middle is unknown."""
    import numpy as np

    mask = np.ones((height, width), bool)
    mask[height // 4 : height // 4 + height // 2, width // 4 : width // 4 + width // 2] = False
    return mask


def make_mask(name: str, path: Path | None, height: int, width: int) -> np.ndarray:
    """The mask in a file, or else the pattern of that name, bool [height, width].

    Raises UserError for an unknown pattern, and for a file with which images of that size cannot be inpainted.
    """
    if path is not None:
        return read_mask(path, height, width)
    mask: np.ndarray = registry.get("mask", name, "without the file of a mask")(height, width)
    return mask


def read_mask(path: Path, height: int, width: int) -> np.ndarray:
    """The mask in an image file, bool [height, width].

    Raises UserError for a file that is no image, an image of another size, one with other pixels than black and white,
    and a mask by which nothing or everything is known.
    """
    mask = _read_pixels(path)
    if mask.shape[:2] != (height, width):
        raise UserError(f"{path} is a mask of {mask.shape[0]}x{mask.shape[1]} pixels, not {height}x{width}")
    known = (mask == 255).all(axis=2)
    others = (~known & (mask != 0).any(axis=2)).sum()
    if others:
        raise UserError(
            f"{path} must be black (unknown) and white (known) only, but {others} of its pixels are neither"
        )
    if known.all() or not known.any():
        raise UserError(f"{path} must have both known (white) and unknown (black) pixels")
    return known


def _read_pixels(path: Path) -> np.ndarray:
    """The pixels of an image file, uint8 [H, W, 3]."""
    import numpy as np

    files.check_regular(path)
    try:
        with open_image(path.read_bytes()) as image:
            return np.asarray(image.convert("RGB"))
    except (ValueError, SyntaxError, OSError) as error:
        raise UserError(f"{path} is not an image of a mask: {error}") from None


def _draw_letter(height: int, width: int) -> np.ndarray:
    """An S that fills most of the height."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    sheet = Image.new("L", (width, height), 0)
    size = 1.2 * min(height, width)
    font = ImageFont.load_default(size)
    ImageDraw.Draw(sheet).text((width / 2, height / 2), "S", font=font, fill=255, anchor="mm", stroke_width=size / 40)
    return np.asarray(sheet) > 127
