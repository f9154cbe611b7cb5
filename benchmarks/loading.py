"""How fast the images of a training are loaded, with nothing else to do: images/s, and what eight GPUs need.

    python benchmarks/loading.py [--gigabytes 4] [--rounds 3] [--folder FOLDER] [--out benchmarks/loading.md]

Each row has the batches of a run of the paper suite, from a file of random images in a temporary folder, which is
removed. `cold`: a thread copies the images from a file that was dropped from the page cache. `warm`: it copies the same
again. `not announced`: the same without announcing to the operating system which parts of the file are needed; both are
measured in turn, and each number is a median. `converted`: warm, and also flipped in the thread and converted to floats
outside it, with one core; on a GPU the GPU converts.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cm import config
from cm.config import Run
from cm.training.batches import Batches, copy_images
from cm.training.plan import Plan
from cm.utils.parallel import map_in_order

BLOCK = 1 << 28  # bytes of random pixels that are written again and again


@dataclasses.dataclass(frozen=True)
class Case:
    """A run, the number of images of its data set, the steps to load in a round, and what eight GPUs need.

    `needed`: images/s of eight GPUs together. `source`: where that number is from.
    """

    run: str
    images: int
    steps: int
    needed: int
    source: str


CASES = (
    Case("cifar10/cd/default/seed0", 50_000, 8, 2_272, "ECT: 284 for each A100; EDM: 145 for each V100"),
    Case("imagenet64/cd/default/seed0", 1_281_167, 2, 560, "70 for each A100"),
    Case("lsun_bedroom/edm/default/seed0", 3_033_042, 1, 279, "8.956 TFLOPs an image (cm describe), 312 TFLOPS a GPU"),
)
READINGS = ("cold", "cold, not announced", "warm", "warm, not announced", "converted")
COLUMNS = ("run", "image", "batch", "microbatch", "file", *READINGS, "needed")


def write_images(path: Path, shape: tuple[int, ...]) -> None:
    """Write a .npy file of random images and wait until it is on the disk."""
    pixels = np.random.default_rng(0).integers(0, 256, BLOCK, np.uint8).tobytes()
    size = int(np.prod(shape))
    with open(path, "wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, size, BLOCK):
            file.write(pixels[: size - start])
        file.flush()
        os.fsync(file.fileno())


def drop_from_cache(path: Path) -> None:
    """Remove a file that is not mapped from the page cache."""
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def copying_rate(images: np.ndarray, run: Run, indices: np.ndarray) -> float:
    """Images/s that a thread copies, a microbatch at a time."""
    size = run.training.microbatch or run.training.batch
    parts = np.array_split(indices, len(indices) // size)
    began = time.perf_counter()
    for _ in map_in_order(lambda part: copy_images(images, part), parts, workers=1):
        pass
    return len(indices) / (time.perf_counter() - began)


def loading_rate(images: np.ndarray, run: Run, seed: int, steps: int) -> float:
    """Images/s of whole batches."""
    plan = Plan(
        name=run.name,
        seed=seed,
        objective=run.objective,
        training=run.training,
        noise=run.noise,
        student=nn.Identity(),
        images=images,
        labels=None,
        keep=[],
        out=Path(tempfile.gettempdir()),
        description={},
    )
    with closing(Batches(plan)) as batches:
        began = time.perf_counter()
        count = sum(len(batch.x) for step in range(steps) for batch in batches.microbatches(step))
        return count / (time.perf_counter() - began)


def measure_round(path: Path, run: Run, seed: int, steps: int) -> dict[str, float]:
    """Images/s of every reading; each cold one has images of its own, which are read again for the warm one."""
    rates: dict[str, float] = {}
    for number, ending in enumerate(("", ", not announced")):
        drop_from_cache(path)
        images = np.load(path, mmap_mode="r")
        indices = np.random.default_rng([seed, number]).permutation(len(images))[: steps * run.training.batch]
        hidden = np.asarray(images) if ending else images  # only images in a file are announced
        for state in ("cold", "warm"):
            rates[f"{state}{ending}"] = copying_rate(hidden, run, indices)
        rates["converted"] = loading_rate(images, run, seed, steps)
        del images, hidden  # a mapped file is not dropped
    return rates


def measure(case: Case, folder: Path, options: argparse.Namespace) -> str:
    """A row of the table."""
    run, path = config.Experiments(options.experiments).run(case.run), folder / "images.npy"
    side = run.network.resolution
    count = min(case.images, int(options.gigabytes * 1e9) // (3 * side**2))
    write_images(path, (count, side, side, 3))
    rounds = [measure_round(path, run, seed, case.steps) for seed in range(options.rounds)]
    path.unlink()
    batch = (f"{run.training.batch:,}", f"{run.training.microbatch or run.training.batch:,}")
    medians = [f"{statistics.median(rates[name] for rates in rounds):,.0f}" for name in READINGS]
    cells = (case.run, f"{side}x{side}", *batch, f"{count * 3 * side**2 / 1e9:.2f} GB", *medians, f"{case.needed:,}")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure and print or write a Markdown table."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiments", type=Path, default=config.EXPERIMENTS)
    parser.add_argument("--gigabytes", type=float, default=4.0, help="size of the largest file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the file is written, on the disk to measure")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    print("\n".join(lines), flush=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for case in CASES:
            lines.append(measure(case, Path(folder), options))
            print(lines[-1], flush=True)
    sources = "; ".join(f"{case.run.split('/')[0]}: {case.source}" for case in CASES)
    lines.append(
        f"\nImages/s, medians of {options.rounds} rounds, {os.cpu_count()} cores, torch {torch.__version__}, "
        f"Python {platform.python_version()}. Needed by eight GPUs: {sources}."
    )
    print(lines[-1])
    if options.out:
        options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
