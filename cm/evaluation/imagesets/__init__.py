"""Sets of images to be scored: a folder or zip of encoded images, or an array [N, H, W, C] in a .npz or .npy file.

Everything that is wrong with a set is reported in one line when it is opened, except damaged pixels behind an intact
header. Nothing is guessed: floats, transparency, several sizes and other orders of the axes are refused.
"""

from __future__ import annotations

from pathlib import Path

from cm.errors import UserError
from cm.evaluation.imagesets import arrays, pictures
from cm.evaluation.imagesets.base import Images

__all__ = ["Images", "open_images"]

READERS = {".zip": pictures.read_zip, ".npz": arrays.read_npz, ".npy": arrays.read_npy}


def open_images(path: Path | str, *, size: int | None = None) -> Images:
    """The images of a folder (with its subfolders, sorted by path), a zip (sorted by name), a .npz or a .npy file.

    Grey images have one channel, unless some images of the set have colours. `size`: the height and width that the
    images must have. Raises UserError for everything that is not such a set of images.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"no file or folder {path}")
    reader = pictures.read_folder if path.is_dir() else READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(
            f"{path} is not a set of images: expected a folder, or a file that ends in {', '.join(READERS)}"
        )
    try:
        images = reader(path)
    except PermissionError as error:
        raise UserError(f"{error.filename or path} may not be read") from None
    if size is not None and images.shape[:2] != (size, size):
        found = pictures.format_size(images.shape)
        raise UserError(f"{path} has images of {found} pixels, not {size}x{size}{pictures.advise_scaling(size)}")
    return images
