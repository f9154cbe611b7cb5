"""Files, written whole or not at all, and read with a one-line error if something is wrong with them.

Every file is written in a temporary folder beside its place, to which it moves when it is complete and on the disk.
That folder has a random name, and only its owner may enter it, so that nobody can put a link where a file is written.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import glob
import hashlib
import json
import math
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cm.errors import UserError

LARGEST_JSON = 1 << 26  # bytes


# Errors of a disk, which the system reports without the name of the file that is being written.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
LEFTOVER = ".writing-"  # begins the names of temporary folders
SECONDS_TO_LOCK = 60.0  # that pass at most between the creation of a temporary folder and its lock


@contextlib.contextmanager
def name_in_errors(path: Path, folder: Path | None = None) -> Iterator[None]:
    """A context whose errors of the disk name `path` in place of no file, or of one in a temporary `folder`."""
    try:
        yield
    except OSError as error:
        inside = error.filename is not None and (folder is None or str(error.filename).startswith(str(folder)))
        if inside or (error.filename is None and error.errno in DISK_ERRORS):
            raise OSError(error.errno, error.strerror, str(path)) from None
        if error.filename is None and error.errno is None:  # NumPy says only how many bytes it could not write
            raise OSError(f"{path} cannot be written: {error}") from None
        raise


@contextlib.contextmanager
def replace_file(path: Path | str, previous: Path | None = None) -> Iterator[Path]:
    """A context with the path of a file to write, which replaces `path` when the block succeeds.

    It is on the disk before it has its place, and it is there before the context ends. `previous`: the name that the
    replaced file gets; without it, that file is lost. If the block raises an exception, what it has written is removed
    and `path` stays as it was; an OSError of the disk then names `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _temporary_folder(path) as folder, name_in_errors(path, folder):
        temporary = folder / path.name
        yield temporary
        sync(temporary)
        if previous is not None and path.exists():
            os.replace(path, previous)
        os.replace(temporary, path)
        sync(path.parent)


@contextlib.contextmanager
def replace_files(paths: Iterable[Path]) -> Iterator[list[Path]]:
    """A context as that of `replace_file` for several files, none of which is replaced if one cannot be written."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(replace_file(path)) for path in paths]


@contextlib.contextmanager
def create_folder(path: Path) -> Iterator[Path]:
    """A context with the path of a new folder, which becomes `path` when the block succeeds.

    Its contents are on the disk before it has its place. If the block raises an exception, it is removed; an OSError of
    the disk then names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _temporary_folder(path) as folder, name_in_errors(path, folder):
        temporary = folder / path.name
        temporary.mkdir()
        yield temporary
        for part in (*temporary.rglob("*"), temporary):
            sync(part)
        os.rename(temporary, path)
        sync(path.parent)


@contextlib.contextmanager
def _temporary_folder(path: Path) -> Iterator[Path]:
    """A context with an empty folder beside `path` that only its owner may enter, which is removed at the end.

    It is locked, so that the next writer of `path` knows, and removes, the folder of one that was killed.
    """
    for folder in _leftovers(path.parent, path.name):
        _remove_if_dead(folder)
    with name_in_errors(path):
        folder = Path(tempfile.mkdtemp(prefix=f"{LEFTOVER}{path.name[:100]}-", dir=path.parent))
    lock = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks, where nothing is taken for dead
            fcntl.flock(lock, fcntl.LOCK_SH)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _leftovers(folder: Path, name: str) -> Iterator[Path]:
    """The temporary folders of writers of a file in a folder."""
    return folder.glob(f"{LEFTOVER}{glob.escape(name[:100])}-????????")


def _remove_if_dead(folder: Path) -> None:
    """Remove a temporary folder that nobody has locked, unless it is so new that its lock may be about to come."""
    with contextlib.suppress(OSError):
        lock = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
        try:
            if time.time() - os.fstat(lock).st_mtime > SECONDS_TO_LOCK:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)


def remove_leftovers(folder: Path, names: Iterable[str]) -> None:
    """Remove the temporary folders that writers of the files `names` left in a folder when they were killed.

    Nobody may be writing these files: the caller holds the lock of the folder.
    """
    for name in names:
        for path in _leftovers(folder, name):
            shutil.rmtree(path, ignore_errors=True)


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


def write_array(path: Path | str, array: np.ndarray) -> None:
    """Write a .npy file."""
    with replace_file(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array)


@contextlib.contextmanager
def create_array(path: Path | str, shape: tuple[int, ...], dtype: type = np.uint8) -> Iterator[np.ndarray]:
    """A context with a memory-mapped array to fill, which becomes the .npy file `path` when the block succeeds.

    Its space on the disk is reserved first: a process that writes to a map for which there is none is killed. Raises
    OSError for a disk without room.
    """
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    with replace_file(path) as temporary:
        with open(temporary, "wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            file.flush()
            os.posix_fallocate(file.fileno(), file.tell(), math.prod(shape) * np.dtype(dtype).itemsize)
        array = np.lib.format.open_memmap(temporary, mode="r+")
        yield array
        array.flush()


def write_arrays(path: Path | str, **arrays: np.ndarray) -> None:
    """Write a .npz file, uncompressed."""
    values: dict[str, Any] = dict(arrays)
    with replace_file(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **values)


def write_json(path: Path | str, value: Any) -> None:
    """Write a JSON file, indented, with keys in the order of the mapping."""
    with replace_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1) + "\n")


def read_json(path: Path | str) -> Any:
    """Read a JSON file. Raises UserError for a file that is missing, larger than any of ours, or is not JSON."""
    size = check_regular(path).st_size
    if size > LARGEST_JSON:
        raise UserError(f"{path} has {size} bytes, more than the {LARGEST_JSON} that are read of a JSON file")
    return parse_json(Path(path).read_bytes(), path)


def parse_json(text: str | bytes, where: Path | str) -> Any:
    """The value of a text in JSON. Raises UserError, which names `where` it stands, if it is not JSON."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"{where} is not JSON: {str(error)[:200]}") from None
    except RecursionError:
        raise UserError(f"{where} is not JSON that can be read: it is nested too deeply") from None


def check_regular(path: Path | str) -> os.stat_result:
    """The status of a file that is about to be read.

    Raises UserError for a file that is missing, and for a folder, a named pipe or a device, which could block for ever.
    """
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"no file {path}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, a device or a socket"
        raise UserError(f"{path} is {kind}, not a file")
    return status


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
    status = check_regular(path)
    return _cached_sha256(path, status.st_size, status.st_mtime_ns)


@functools.cache
def _cached_sha256(path: Path | str, size: int, modified: int) -> str:
    """The digest of a file, which is read again only if its size or its time of modification has changed."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
