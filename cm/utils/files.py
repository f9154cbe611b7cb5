"""Files, written whole or not at all, and read with a one-line error if something is wrong with them.

Every file is written under a temporary name beside its own, which it gets when it is complete and on the disk.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import hashlib
import json
import os
import shutil
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cm.errors import UserError

# What NumPy, zipfile and zlib raise on reading an archive that is damaged or of another format.
READ_ERRORS = (
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
def replace_file(path: Path | str, previous: Path | None = None) -> Iterator[Path]:
    """A context with a temporary path beside `path`; the file written there replaces `path` when the block succeeds.

    It is on the disk before it has its name, and the name is there before the context ends. `previous`: the name that
    the replaced file gets; without it, that file is lost. If the block raises an exception, the temporary file is
    removed and `path` stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_path(path)
    try:
        yield temporary
        sync(temporary)
        if previous is not None and path.exists():
            os.replace(path, previous)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def create_folder(path: Path) -> Iterator[Path]:
    """A context with a temporary folder beside `path`, which it becomes when the block succeeds.

    Its contents are on the disk before it has its name. If the block raises an exception, the temporary folder is
    removed.
    """
    temporary = _temporary_path(path)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for part in (*temporary.rglob("*"), temporary):
            sync(part)
        os.rename(temporary, path)
        sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _temporary_path(path: Path) -> Path:
    """The name that a file or folder has while this process writes it."""
    return path.with_name(f".{os.getpid()}.{path.name}")


def remove_leftovers(folder: Path, names: Iterable[str]) -> None:
    """Remove the temporary files that writers of the files `names` left in a folder when they were killed.

    Nobody may be writing these files: the caller holds the lock of the folder.
    """
    for name in names:
        for path in folder.glob(f".*.{glob.escape(name)}"):
            if path.name.split(".")[1].isdecimal():
                path.unlink(missing_ok=True)


def link_file(source: Path, path: Path) -> None:
    """Give a file a second name, which replaces what has that name; a copy where the file system has no links."""
    with replace_file(path) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def sync(path: Path) -> None:
    """Wait until a file, or the list of the names in a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def default_mode() -> int:
    """The permissions of a new file according to the umask; safetensors writes files that only their owner may read."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def write_array(path: Path | str, array: np.ndarray) -> None:
    """Write a .npy file."""
    with replace_file(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array)


@contextlib.contextmanager
def create_array(path: Path | str, shape: tuple[int, ...], dtype: type = np.uint8) -> Iterator[np.ndarray]:
    """A context with a memory-mapped array to fill, which becomes the .npy file `path` when the block succeeds."""
    with replace_file(path) as temporary:
        array = np.lib.format.open_memmap(temporary, mode="w+", dtype=dtype, shape=shape)
        yield array
        array.flush()


def write_arrays(path: Path | str, **arrays: np.ndarray) -> None:
    """Write a .npz file, uncompressed."""
    values: dict[str, Any] = dict(arrays)
    with replace_file(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **values)


def read_arrays(path: Path | str, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """Read the arrays `names`, or all arrays, of a .npz file.

    Raises UserError for a file that is missing, damaged or of another format.
    """
    with _open_npz(path) as file:
        return {name: np.asarray(file[name]) for name in (file if names is None else names)}


def array_names(path: Path | str) -> list[str]:
    """The names of the arrays in a .npz file, without reading the arrays. Raises UserError as `read_arrays` does."""
    with _open_npz(path) as file:
        return list(file)


@contextlib.contextmanager
def _open_npz(path: Path | str) -> Iterator[Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            yield file
    except FileNotFoundError:
        raise UserError(f"no file {path}") from None
    except READ_ERRORS as error:
        reason = (str(error).splitlines() or ["it ends too early"])[0]
        raise UserError(f"{path} is not a whole .npz file: {reason}") from None


def write_json(path: Path | str, value: Any) -> None:
    """Write a JSON file, indented, with keys in the order of the mapping."""
    with replace_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1) + "\n")


def read_json(path: Path | str) -> Any:
    """Read a JSON file. Raises UserError for a file that is missing or is not JSON."""
    try:
        text = Path(path).read_text()
    except FileNotFoundError:
        raise UserError(f"no file {path}") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    return parse_json(text, str(path))


def parse_json(text: str, where: str) -> Any:
    """The value of a text in JSON. Raises UserError, which names `where`, for anything else."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON: {error}") from None


def read_array(path: Path | str) -> np.ndarray:
    """Map the array of a .npy file into memory.

    Raises UserError for a file that is missing, truncated or of another format.
    """
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise UserError(f"no file {path}") from None
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{path} is not a whole .npy file: {error}") from None


def read_images(path: Path | str) -> np.ndarray:
    """Map the images of a .npy file, uint8 [N, H, W, C], into memory.

    Raises UserError as `read_array` does, and for an array of another type or shape.
    """
    images = read_array(path)
    if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
        raise UserError(f"{path}: expected uint8 images [N, H, W, C], not {images.dtype} {list(images.shape)}")
    return images


def write_grid(path: Path | str, images: np.ndarray, columns: int = 8) -> None:
    """Write a PNG file with uint8 images [N, H, W, C] row by row; images below 64 pixels in width are enlarged."""
    from PIL import Image

    width = images.shape[2]
    zoom = max(1, 64 // width)
    sheet = Image.fromarray(_arrange_in_rows(images, columns, margin=max(1, width // 16)))
    sheet = sheet.resize((sheet.width * zoom, sheet.height * zoom), Image.Resampling.NEAREST)
    with replace_file(path) as temporary:
        sheet.save(temporary, format="PNG")


def _arrange_in_rows(images: np.ndarray, columns: int, margin: int) -> np.ndarray:
    """Images [N, H, W, C] as one image [rows (H + margin), columns (W + margin), C], without the last axis if C = 1."""
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    cells = np.full((rows * columns, height + margin, width + margin, channels), 96, np.uint8)
    cells[:count, :height, :width] = images
    cells = cells.reshape(rows, columns, *cells.shape[1:]).swapaxes(1, 2)
    sheet = cells.reshape(rows * (height + margin), columns * (width + margin), channels)
    return sheet[..., 0] if channels == 1 else sheet


def sha256(data: bytes) -> str:
    """The sha256 digest of bytes, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_of(path: Path | str) -> str:
    """The sha256 digest of a file, hexadecimal. Raises UserError for a file that is missing."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise UserError(f"no file {path}") from None
    return _cached_sha256(path, status.st_size, status.st_mtime_ns)


@functools.cache
def _cached_sha256(path: Path | str, size: int, modified: int) -> str:
    """The digest of a file, which is read again only if its size or its time of modification has changed."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
