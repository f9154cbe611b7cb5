"""Opening an encoded image that others wrote: one rule for the images that are prepared and for those that are scored.

Pillow decodes dozens of formats, for some of which it starts other programs; only those of `FORMATS` are opened. An
image has 8 bits per channel: what has more (16 bits, floating-point numbers) is refused, because there is no rule how
to quantize it. Grey, palette, CMYK and YCbCr images are converted to RGB by Pillow, as the papers' code does it; 22 of
ImageNet's images are CMYK.
"""

from __future__ import annotations

import contextlib
import functools
import io
import re
import warnings
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # Pillow's names
GREY, COLOURED = ("1", "L"), ("RGB", "P", "CMYK", "YCbCr")  # Pillow's modes with 8 bits per channel or fewer
TRANSPARENT = ("LA", "PA", "RGBA")
LARGEST = 1 << 28  # bytes of an encoded image
MOST_PIXELS = 89_478_485  # of a decoded or scaled image; from this number on Pillow warns of a bomb


@contextlib.contextmanager
def open_image(data: bytes, formats: Collection[str] = FORMATS) -> Iterator[Image]:
    """A context with an image whose header is read, while its pixels are decoded on demand.

    Raises ValueError for an image of another format, with more than 8 bits per channel or with too many pixels. A
    damaged image can raise almost any exception, now or when it is decoded.
    """
    from PIL import Image, UnidentifiedImageError

    _silence_pillow()
    try:
        image = Image.open(io.BytesIO(data), formats=tuple(formats))
    except UnidentifiedImageError:
        raise ValueError(f"it is not a {', '.join(formats)} image") from None
    with image:
        check_pixels(*image.size)
        if _has_more_bits(image):
            raise ValueError(f"expected 8 bits per channel, grey or colour, not Pillow's mode {describe_mode(image)}")
        yield image


def check_pixels(width: int, height: int) -> None:
    """Raise ValueError for an image of a size that takes too much memory."""
    if width * height > MOST_PIXELS:
        raise ValueError(f"an image of {width}x{height} pixels has more than the {MOST_PIXELS} that are decoded")


def describe_mode(image: Image) -> str:
    """The mode of an image and, if they differ, how its pixels are stored, such as `'RGB' of RGB;16B`."""
    stored = _stored_mode(image)
    return f"'{image.mode}'" + (f" of {stored}" if stored not in ("", image.mode) else "")


def _has_more_bits(image: Image) -> bool:
    """Whether an image has more than 8 bits per channel, also if Pillow would decode it to 8 bits."""
    known = image.mode in GREY + COLOURED + TRANSPARENT
    return not known or re.search(r";(16[BLN]|32|64)", _stored_mode(image)) is not None


def _stored_mode(image: Image) -> str:
    """How the pixels are stored in the file, by Pillow's name: `RGB;16B`; empty if that is not known."""
    tiles = getattr(image, "tile", [])
    if not tiles:
        return ""
    arguments = tiles[0].args
    parts = arguments if isinstance(arguments, tuple) else (arguments,)
    if image.format == "PPM" and len(parts) > 1 and isinstance(parts[1], int) and parts[1] > 255:
        return f"{parts[0]};16B"
    return next((part for part in parts if isinstance(part, str)), "")


@functools.cache
def _silence_pillow() -> None:
    """Turn off the warning of images for which `check_pixels` raises an error."""
    from PIL import Image

    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
