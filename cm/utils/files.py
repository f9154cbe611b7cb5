"""Files in and out: written whole or not at all, and read with one clear line when something is wrong with them."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cm.errors import UserError

# What NumPy, zipfile and zlib raise on reading an archive that is damaged or something else.
DAMAGED = (
    ValueError,
    TypeError,
    EOFError,
    OSError,
    RuntimeError,
    MemoryError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


@contextlib.contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """A temporary name beside `path` that takes its place when the block ends well, and is removed when it does not."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def default_mode() -> int:
    """Permissions of a new file, by the user's umask; safetensors writes files that nobody else may read."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def write_array(path: Path | str, array: np.ndarray) -> None:
    """Write a .npy file."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array)


@contextlib.contextmanager
def new_array(path: Path | str, shape: tuple[int, ...], dtype: type = np.uint8) -> Iterator[np.ndarray]:
    """A memory-mapped array to fill, which becomes the .npy file `path` when the block ends well."""
    with replacing(path) as temporary:
        array = np.lib.format.open_memmap(temporary, mode="w+", dtype=dtype, shape=shape)
        yield array
        array.flush()


def write_arrays(path: Path | str, **arrays: np.ndarray) -> None:
    """Write a .npz file."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def read_arrays(path: Path | str, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of a .npz file, those of these names or all; UserError if it is missing, damaged or something else."""
    with _npz(path) as file:
        return {name: np.asarray(file[name]) for name in (file if names is None else names)}


def array_names(path: Path | str) -> list[str]:
    """The names of the arrays of a .npz file, which are not read; UserError as `read_arrays`."""
    with _npz(path) as file:
        return list(file)


@contextlib.contextmanager
def _npz(path: Path | str) -> Iterator[Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            yield file
    except FileNotFoundError:
        raise UserError(f"no file {path}") from None
    except DAMAGED as error:
        reason = (str(error).splitlines() or ["it ends too early"])[0]
        raise UserError(f"{path} is not a whole .npz file: {reason}") from None


def write_json(path: Path | str, value: Any) -> None:
    """Write JSON, indented, keys in their order."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1) + "\n")


def read_json(path: Path | str) -> Any:
    """The contents of a JSON file; UserError if it is missing or is not JSON."""
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise UserError(f"no file {path}") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from None


def read_array(path: Path | str) -> np.ndarray:
    """The array of a .npy file, memory-mapped; UserError if it is missing, truncated or of another format."""
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise UserError(f"no file {path}") from None
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{path} is not a whole .npy file: {error}") from None


def read_images(path: Path | str) -> np.ndarray:
    """Images, uint8 [N, H, W, C], memory-mapped; UserError if the file holds something else."""
    images = read_array(path)
    if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
        raise UserError(f"{path}: expected uint8 images [N, H, W, C], not {images.dtype} {list(images.shape)}")
    return images


def write_grid(path: Path | str, images: np.ndarray, columns: int = 8) -> None:
    """A PNG of uint8 images [N, H, W, C], row by row with a margin between them, small ones enlarged."""
    from PIL import Image

    count, height, width, channels = images.shape
    rows, margin = -(-count // columns), max(1, width // 16)
    sheet = np.full((rows * columns, height + margin, width + margin, channels), 96, np.uint8)
    sheet[:count, :height, :width] = images
    sheet = sheet.reshape(rows, columns, *sheet.shape[1:]).swapaxes(1, 2)
    sheet = sheet.reshape(rows * (height + margin), columns * (width + margin), channels).squeeze(
        -1 if channels == 1 else ()
    )
    zoom = max(1, 64 // width)
    image = Image.fromarray(sheet)
    image = image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)
    with replacing(path) as temporary:
        image.save(temporary, format="PNG")


def sha256(data: bytes) -> str:
    """Hexadecimal digest."""
    return hashlib.sha256(data).hexdigest()


def sha256_of(path: Path | str) -> str:
    """Digest of a file; UserError if it is missing."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise UserError(f"no file {path}") from None
    return _digest(path, status.st_size, status.st_mtime_ns)


@functools.cache
def _digest(path: Path | str, size: int, modified: int) -> str:
    """Read once for each state that the file is in."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
