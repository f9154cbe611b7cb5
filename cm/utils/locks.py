"""A lock file, so that two processes do not write the same files.

The file names its holder: host, process and, under Slurm, the job. Two things keep a second process out. The holder
has locked the file with `fcntl.lockf` (POSIX record locks, which the system drops when a process ends, however it ends;
Linux passes them to the server on NFS). And where the file system has no such locks, the file itself is the lock, which
`O_EXCL` makes exactly one process create (on NFS since version 3). A lock that a dead process of this host has left is
taken over, and so is that of the same Slurm job before it was requeued. That a process of another host is dead cannot
be known here, since locks that only each host sees exist too: whoever does know removes the file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cm.errors import UserError
from cm.utils import files

_HELD = (errno.EACCES, errno.EAGAIN)
# What stands in the file, and for each entry a check of its value.
_ENTRIES: Mapping[str, Callable[[Any], bool]] = {
    "host": lambda value: isinstance(value, str),
    "pid": lambda value: type(value) is int and 0 < value < 1 << 31,
    "slurm_job": lambda value: value is None or isinstance(value, str),
    "restarts": lambda value: value is None or (type(value) is int and value >= 0),
}


@contextlib.contextmanager
def hold_lock(path: Path, what: str) -> Iterator[None]:
    """A context that holds the lock file `path`, which is removed at its end, and so is its folder if it is empty.

    Raises UserError, which names `what` is locked and who holds it, if another process does, or may do so.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = _acquire(path, what)
    try:
        with files.name_in_errors(path):
            os.ftruncate(file, 0)
            os.pwrite(file, json.dumps(_describe_holder()).encode(), 0)
        yield
    finally:
        if _is_current(file, path):
            path.unlink(missing_ok=True)
        os.close(file)
        with contextlib.suppress(OSError):
            path.parent.rmdir()


@dataclasses.dataclass(frozen=True)
class LockState:
    """Who holds a lock, in words, and whether that process is alive; None where that cannot be known here."""

    holder: str
    alive: bool | None


def inspect_lock(path: Path) -> LockState | None:
    """What a lock file says, without locking anything; None if there is no such file.

    The process that holds the lock must not ask, since the system drops its locks of a file that it closes.
    """
    try:
        holder = _parse_holder(path.read_bytes()[:4096])
    except FileNotFoundError:
        return None
    is_here = holder.get("host") == socket.gethostname()
    return LockState(_name_holder(holder), _is_alive(holder["pid"]) if is_here else None)


def _acquire(path: Path, what: str) -> int:
    """The descriptor of the lock file, which this process holds now."""
    while True:
        file, created = _open(path)
        try:
            locked = _lock(file)
            if not _is_current(file, path):  # its holder has removed it since: begin again
                os.close(file)
                continue
            _check_holder(file, path, what, created=created, locked=locked)
        except BaseException:
            os.close(file)
            raise
        return file


def _open(path: Path) -> tuple[int, bool]:
    """The descriptor of the lock file, and whether this process has created it."""
    while True:
        with contextlib.suppress(FileExistsError):
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, os.O_RDWR | os.O_NOFOLLOW), False


def _lock(file: int) -> bool | None:
    """Whether this process has locked the file now; None where the file system has no such locks."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in _HELD else None
    return True


def _is_current(file: int, path: Path) -> bool:
    """Whether an open file is the one that has the name `path`."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def _check_holder(file: int, path: Path, what: str, *, created: bool, locked: bool | None) -> None:
    """UserError unless the holder that the file names, if any, is known to be dead."""
    holder = _read_holder(file)
    refusal = f"{what} is in use by {_name_holder(holder)}: wait for it or end it"
    if locked is False:
        raise UserError(refusal)
    if created or _was_requeued(holder):
        return
    if holder.get("host") not in (None, socket.gethostname()):
        raise UserError(f"{refusal}; if it is dead already, remove {path}")
    if locked is None and (not holder or _is_alive(holder["pid"])):
        raise UserError(f"{refusal}; if it is dead already, remove {path}")


def _describe_holder() -> dict[str, Any]:
    holder: dict[str, Any] = {"host": socket.gethostname(), "pid": os.getpid()}
    if "SLURM_JOB_ID" in os.environ:
        holder |= {"slurm_job": os.environ["SLURM_JOB_ID"], "restarts": _restarts()}
    return holder


def _read_holder(file: int) -> dict[str, Any]:
    return _parse_holder(os.pread(file, 4096, 0))


def _parse_holder(text: bytes) -> dict[str, Any]:
    """What a lock says of its holder; nothing if the holder has not written it, did not end to, or it is damaged."""
    try:
        holder = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    is_valid = isinstance(holder, dict) and all(check(holder.get(name)) for name, check in _ENTRIES.items())
    return holder if is_valid else {}


def _name_holder(holder: dict[str, Any]) -> str:
    if not holder:
        return "another process"
    job = f", Slurm job {holder['slurm_job']}" if "slurm_job" in holder else ""
    return f"process {holder['pid']} on {holder['host']}{job}"


def _was_requeued(holder: dict[str, Any]) -> bool:
    """Whether the holder was an earlier start of the Slurm job that this process belongs to."""
    return (
        "slurm_job" in holder
        and holder["slurm_job"] == os.environ.get("SLURM_JOB_ID")
        and (holder.get("restarts", 0) < _restarts())
    )


def _restarts() -> int:
    """How many times Slurm has started this job anew."""
    return int(os.environ.get("SLURM_RESTART_COUNT", 0))


def _is_alive(pid: int) -> bool:
    """Whether this host has a process of that number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
