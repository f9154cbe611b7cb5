"""GPUs of one machine, shared by processes that each need some of them to itself.

There is one lock for each GPU: `flock` on a file in `$CM_GPU_LOCKS`, by default a folder of the user in the machine's
temporary folder. The kernel releases it when its holder dies, however it dies. A process takes all the GPUs that it
needs or none of them, and processes that may use the same GPUs are served in the order of their arrival, so that one
that needs several GPUs neither deadlocks with another nor starves. The holder sees its own GPUs only
(`CUDA_VISIBLE_DEVICES`).

Under Slurm there are no locks: a job of Slurm has the GPUs that Slurm assigned to it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from cm.errors import UserError
from cm.utils import files

POLL_SECONDS = 0.5
VISIBLE = "CUDA_VISIBLE_DEVICES"
# Tells this process and those that it starts that the GPUs in CUDA_VISIBLE_DEVICES are their own.
HELD = "CM_GPUS_HELD"
# The files whose locks this process holds; they must stay open for as long as it lives.
_locks: list[IO[bytes]] = []


def take_gpus(count: int) -> list[str]:
    """Take `count` GPUs for the rest of this process, and return their names in `CUDA_VISIBLE_DEVICES`.

    Must be called before torch initialises CUDA. Waits until that many are free. Returns no names on a machine without
    an NVIDIA GPU. GPUs that this process or its parent holds already are returned at once.

    Raises UserError if fewer than `count` are visible, so that no waiting would help.
    """
    visible = visible_gpus()
    if not visible or os.environ.get(HELD) == ",".join(visible):
        return visible
    if count > len(visible):
        raise UserError(f"{count} GPUs are needed, and {len(visible)} visible: {', '.join(visible)}")
    if "SLURM_JOB_ID" in os.environ:
        return visible
    names = _lock_some(count, visible)
    os.environ[VISIBLE] = os.environ[HELD] = ",".join(names)
    return names


def visible_gpus() -> list[str]:
    """The names of the GPUs that `CUDA_VISIBLE_DEVICES` admits, by default all: indices, or what stands there.

    As for CUDA, the first name that is no GPU ends the list.
    """
    total = count_gpus()
    names = os.environ.get(VISIBLE)
    if names is None:
        return [str(index) for index in range(total)]
    return list(itertools.takewhile(lambda name: _is_gpu(name, total), map(str.strip, names.split(","))))


def _is_gpu(name: str, total: int) -> bool:
    """Whether a name means a GPU: an index below their number, or the beginning of an identifier."""
    return int(name) < total if name.isdecimal() else total > 0 and name.startswith(("GPU-", "MIG-"))


def count_gpus() -> int:
    """The number of NVIDIA GPUs of this machine, from the driver's library, which needs no torch and starts no CUDA."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return 0
    number = ctypes.c_uint(0)
    if library.nvmlInit_v2() == 0:
        library.nvmlDeviceGetCount_v2(ctypes.byref(number))
        library.nvmlShutdown()
    return number.value


def _lock_some(count: int, names: Sequence[str]) -> list[str]:
    """Lock `count` of the GPUs, and return their names; waits in the queue of those who may use the same GPUs."""
    queue = f"queue-{files.sha256(','.join(names).encode())[:16]}"
    with contextlib.closing(_open_lock(queue)) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        taken = _try_to_lock(count, names)
        if not taken:
            print(f"waiting for {count} of the GPUs {', '.join(names)} to be free", file=sys.stderr, flush=True)
        while not taken:
            time.sleep(POLL_SECONDS)
            taken = _try_to_lock(count, names)
    return taken


def _try_to_lock(count: int, names: Sequence[str]) -> list[str]:
    """Lock the first `count` GPUs that are free, and return their names; lock and return none if there are fewer."""
    locks: dict[str, IO[bytes]] = {}
    for name in itertools.takewhile(lambda _: len(locks) < count, names):
        file = _open_lock(f"gpu-{name.replace('/', '-')}")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locks[name] = file
        except BlockingIOError:
            file.close()
    if len(locks) < count:
        for file in locks.values():
            file.close()
        return []
    _locks.extend(locks.values())
    # systemd-tmpfiles removes files that are old from the temporary folder, but none from a folder that is locked.
    fcntl.flock(os.open(lock_folder(), os.O_RDONLY), fcntl.LOCK_SH)
    return list(locks)


def _open_lock(name: str) -> IO[bytes]:
    """The file of a lock, which is created if it is not there; nothing is written to it, and no link is followed.

    Raises UserError if the default folder, whose name others know, belongs to somebody else.
    """
    folder = lock_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not os.environ.get("CM_GPU_LOCKS") and (folder.is_symlink() or folder.stat().st_uid != os.getuid()):
        raise UserError(f"{folder} belongs to another user: set CM_GPU_LOCKS to a folder for the locks of GPUs")
    return open(os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+b", buffering=0)


def lock_folder() -> Path:
    """The folder of the locks: `$CM_GPU_LOCKS`, by default one for each user and machine."""
    return Path(os.environ.get("CM_GPU_LOCKS") or f"{tempfile.gettempdir()}/cm-gpus-{os.getuid()}")
