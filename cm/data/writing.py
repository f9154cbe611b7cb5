"""Images into a .npy file on disk, a chunk at a time, on all cores, going on after a kill where it was stopped.

The file is made at its full size and filled in place; a journal beside it says which chunks are done. A chunk is
written with `pwrite`, not through a memory map: a full disk is then an error and not a killed process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, get_context, parent_process
from pathlib import Path

import numpy as np

from cm.data.base import Images
from cm.data.journal import Journal
from cm.errors import UserError
from cm.utils.progress_bar import ProgressBar

CHUNK = 1 << 22


class Interrupted(UserError):
    """An error after which a next start can go on: what is finished stays on disk."""


@dataclasses.dataclass(frozen=True)
class Target:
    """A file being written: where the pixels and, 32 bytes an image, the digests of the encoded images go."""

    images: Path
    digests: Path
    offset: int
    shape: tuple[int, int, int, int]

    @property
    def image_bytes(self) -> int:
        return int(np.prod(self.shape[1:]))


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Images `start` to `stop`, and what is wrong with some of them: place to (name, problem)."""

    start: int
    stop: int
    problems: Mapping[int, tuple[str, str]]


def write(images: Images, target: Target, journal: Journal, *, workers: int, allowed: float) -> dict[int, tuple]:
    """Fill `target`, but for the chunks that the journal has; the problems, place to (name, problem).

    Interrupted as soon as more than the share `allowed` of all images cannot be decoded.
    """
    size = max(1, CHUNK // target.image_bytes)
    starts = [start for start in range(0, len(images), size) if start not in journal.done]
    jobs = ((images.part(start, start + size), target, start) for start in starts)
    done = len(images) - sum(min(size, len(images) - start) for start in starts)
    progress = ProgressBar(target.images.stem, len(images), start=done, unit="image")
    problems: dict[int, tuple] = {}
    workers = min(workers, len(starts)) if images.encoded else 1
    with contextlib.closing(_results(jobs, workers)) as chunks, contextlib.closing(progress):
        for chunk in chunks:
            problems |= chunk.problems
            if len(problems) > allowed * len(images):
                raise Interrupted(_undecodable(problems, len(images), allowed))
            if not chunk.problems:
                journal.add(chunk.start)
            progress.update(chunk.stop - chunk.start)
    return dict(sorted(problems.items()))


def _undecodable(problems: Mapping[int, tuple], count: int, allowed: float) -> str:
    listed = "; ".join(f"{name} ({problem})" for _, (name, problem) in sorted(problems.items())[:3])
    many = f"at least {len(problems)} of {count} images cannot be decoded, more than the allowed share of {allowed:g}"
    return f"{many}: {listed}; --allow-undecodable SHARE goes on without such images"


def _results(jobs: Iterable[tuple], workers: int) -> Iterator[Chunk]:
    """What `_write_chunk` returns for each job, in any order; a few jobs a worker are in flight."""
    if workers <= 1:
        yield from (_write_chunk(*job) for job in jobs)
        return
    pool = ProcessPoolExecutor(workers, mp_context=get_context("forkserver"), initializer=_end_with_parent)
    waiting: set[Future] = set()
    try:
        for job in jobs:
            waiting.add(pool.submit(_write_chunk, *job))
            if len(waiting) >= 2 * workers:
                finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in finished)
        yield from (future.result() for future in waiting)
    except BrokenProcessPool:
        raise Interrupted("a worker was killed, perhaps for want of memory: start again with fewer --workers") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """End this worker when the process that started it is killed: nobody else would. Ctrl-C is left to that process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        connection.wait([parent_process().sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _write_chunk(images: Images, target: Target, start: int) -> Chunk:
    """Read, crop and write a chunk, on disk when this returns; undecodable images stay black."""
    pixels = np.zeros((len(images), *target.shape[1:]), np.uint8)
    digests, problems = [], {}
    for index, picture in enumerate(images.read()):
        digests.append(picture.digest)
        if picture.pixels is None:
            problems[start + index] = (picture.name, picture.problem)
        else:
            pixels[index] = picture.pixels
    _write_at(target.images, pixels.data, target.offset + start * target.image_bytes)
    if images.encoded:
        _write_at(target.digests, memoryview(b"".join(digests)), start * hashlib.sha256().digest_size)
    return Chunk(start, start + len(images), problems)


def _write_at(path: Path, data: memoryview, offset: int) -> None:
    data = data.cast("B")
    with open(path, "r+b") as file:
        while data:
            written = os.pwrite(file.fileno(), data, offset)
            data, offset = data[written:], offset + written
        os.fdatasync(file.fileno())
