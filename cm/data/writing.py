"""Writing the images of a split to a .npy file, chunk by chunk, on all cores, so that it can be resumed after a kill.

The file is created with its full size and filled in place; a journal beside it records which chunks are finished. A
chunk is written with `pwrite`, not through a memory map, so that a full disk is an error and does not kill the process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Generator, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np

from cm.data.base import ImageSequence
from cm.data.journal import Journal
from cm.errors import UserError
from cm.utils.parallel import process_pool
from cm.utils.progress_bar import ProgressBar

CHUNK = 1 << 22  # bytes of pixels
DIGEST_BYTES = hashlib.sha256().digest_size

Problems = Mapping[int, tuple[str, str]]  # the index of an undecodable image to its name and what is wrong with it


class ResumableError(UserError):
    """An error after which the preparation can be resumed, because the finished chunks stay on the disk."""


@dataclasses.dataclass(frozen=True)
class SplitFile:
    """The file that is being written.

    `images`: the .npy file, whose pixels, uint8 of `shape` [N, H, W, C], start at the byte `offset`. `digests`: the
    file of the digests of the encoded images, 32 bytes per image.
    """

    images: Path
    digests: Path
    offset: int
    shape: tuple[int, ...]

    @property
    def image_bytes(self) -> int:
        """Bytes per image."""
        return int(np.prod(self.shape[1:]))


@dataclasses.dataclass(frozen=True)
class ChunkResult:
    """The images `start` to `stop` (exclusive) have been written, except those with `problems`."""

    start: int
    stop: int
    problems: Problems


def write_images(
    images: ImageSequence, file: SplitFile, journal: Journal, *, workers: int, allow_undecodable: float
) -> dict[int, tuple[str, str]]:
    """Write all chunks that the journal does not list, and return the problems of undecodable images by their index.

    `workers`: number of processes. Raises ResumableError as soon as more than the share `allow_undecodable` of all
    images cannot be decoded.
    """
    size = images_per_chunk(file.shape)
    starts = [start for start in range(0, len(images), size) if start not in journal.done]
    jobs = ((images.slice(start, start + size), file, start) for start in starts)
    remaining = sum(min(size, len(images) - start) for start in starts)
    progress = ProgressBar(file.images.stem, len(images), start=len(images) - remaining, unit="image")
    problems: dict[int, tuple[str, str]] = {}
    workers = min(workers, len(starts)) if images.encoded else 1
    with (
        contextlib.closing(_run_jobs(jobs, workers, in_workers=images.in_workers)) as results,
        contextlib.closing(progress),
    ):
        for result in results:
            problems |= result.problems
            if len(problems) > allow_undecodable * len(images):
                raise ResumableError(_undecodable_message(problems, len(images), allow_undecodable))
            if not result.problems:
                journal.add(result.start)
            progress.update(result.stop - result.start)
    return dict(sorted(problems.items()))


def images_per_chunk(shape: tuple[int, ...]) -> int:
    """How many images of an array [N, H, W, C] of uint8 are written at a time."""
    return max(1, CHUNK // int(np.prod(shape[1:])))


def _undecodable_message(problems: Problems, count: int, allowed: float) -> str:
    examples = "; ".join(f"{name} ({problem})" for _, (name, problem) in sorted(problems.items())[:3])
    found = f"at least {len(problems)} of {count} images cannot be decoded, more than the allowed share of {allowed:g}"
    return f"{found}: {examples}; --allow-undecodable SHARE leaves such images out"


def _run_jobs(
    jobs: Iterable[tuple[ImageSequence, SplitFile, int]], workers: int, *, in_workers: bool
) -> Generator[ChunkResult]:
    """Yield what `_write_chunk` returns for each job, in any order; at most two jobs per worker are pending.

    Instead of a single worker, this process does the jobs, unless they have to be done `in_workers`.
    """
    if workers <= 1 and not in_workers:
        yield from (_write_chunk(*job) for job in jobs)
        return
    pool = process_pool(workers)
    pending: set[Future[ChunkResult]] = set()
    try:
        for job in jobs:
            pending.add(pool.submit(_write_chunk, *job))
            if len(pending) >= 2 * workers:
                finished, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in finished)
        yield from (future.result() for future in pending)
    except BrokenProcessPool:
        raise ResumableError(
            "a worker was killed, for lack of memory (try again with fewer --workers) or by a damaged image or source"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _write_chunk(images: ImageSequence, file: SplitFile, start: int) -> ChunkResult:
    """Decode a chunk and write it to the disk before this returns; undecodable images stay black."""
    pixels = np.zeros((len(images), *file.shape[1:]), np.uint8)
    digests: list[bytes] = []
    problems: dict[int, tuple[str, str]] = {}
    for index, image in enumerate(images.read()):
        digests.append(image.digest)
        if image.pixels is None:
            problems[start + index] = (image.name, image.problem)
        else:
            pixels[index] = image.pixels
    _write_at(file.images, pixels.data, file.offset + start * file.image_bytes)
    if images.encoded:
        _write_at(file.digests, memoryview(b"".join(digests)), start * DIGEST_BYTES)
    return ChunkResult(start, start + len(images), problems)


def _write_at(path: Path, data: memoryview, offset: int) -> None:
    """Write bytes at an offset of a file; they are on the disk when this returns."""
    data = data.cast("B")
    with open(path, "r+b") as file:
        while data:
            written = os.pwrite(file.fileno(), data, offset)
            data, offset = data[written:], offset + written
        os.fdatasync(file.fileno())
