"""Any set of images to be scored: a folder or zip of encoded images, or an array [N, H, W, C] in a .npz or .npy file.

Whatever is wrong with it is told in one line when it is opened, except pixels that are damaged behind a whole header.
Nothing is guessed: floats, transparency, several sizes and other orders of the axes are refused.
"""

from __future__ import annotations

from pathlib import Path

from cm.errors import UserError
from cm.evaluation.imagesets import arrays, pictures
from cm.evaluation.imagesets.base import Images

__all__ = ["Images", "opened"]


def opened(path: Path | str, *, size: int | None = None) -> Images:
    """The images of a folder (however deep, sorted by path), zip (sorted by name), .npz or .npy file.

    Grey images have one channel, unless there are coloured ones among them. `size`: the pixels a side that they must
    have. UserError for everything else.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"no file or folder {path}")
    kinds = {".zip": pictures.of_zip, ".npz": arrays.of_npz, ".npy": arrays.of_npy}
    kind = pictures.of_folder if path.is_dir() else kinds.get(path.suffix.lower())
    if kind is None:
        raise UserError(f"{path} is no set of images: expected a folder, or a file that ends in {', '.join(kinds)}")
    try:
        images = kind(path)
    except PermissionError as error:
        raise UserError(f"{error.filename or path} may not be read") from None
    if size is not None and images.shape[:2] != (size, size):
        raise UserError(
            f"{path} has images of {pictures.by(images.shape)} pixels, not {size}x{size}{pictures.scaled(size)}"
        )
    return images
