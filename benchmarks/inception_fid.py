"""Whether our Inception and our FID are those of the literature: 5,000 CIFAR-10 training against 5,000 test images.

    cm weights --name inception --out results/weights/inception.safetensors
    cm prepare --dataset cifar10 --out results/images/reference/cifar10
    python benchmarks/inception_fid.py --images results/images/reference/cifar10 [--out benchmarks/inception_fid.md]

torch-fidelity's own test against the TensorFlow code has 10.3233274 for these images, which NumPy's RandomState(2020)
chooses from each half. It takes about half an hour on one core.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from pathlib import Path

import numpy as np
import torch

from cm import features, files, metrics, weights

PUBLISHED, TOLERANCE = 10.3233274, 1e-4
COUNT, SEED = 5000, 2020


def chosen(path: Path) -> np.ndarray:
    """The test's 5,000 of the uint8 images [N, H, W, C] of a file."""
    images = files.read_images(path)
    return images[np.random.RandomState(SEED).choice(len(images), COUNT, replace=False)]


def measured(folder: Path, weights_file: Path, *, batch: int, device: str) -> tuple[float, float]:
    """FID of the two halves, and images per second through the Inception."""
    inception, _ = weights.extractor(weights_file, device)
    began = time.monotonic()
    halves = [
        features.extract(inception.features, chosen(folder / split / "images.npy"), batch=batch, device=device)
        for split in ("train", "test")
    ]
    rate = 2 * COUNT / (time.monotonic() - began)
    return metrics.fid(*halves), rate


def table(fid: float, rate: float, where: str) -> str:
    """One row of Markdown, and what it was measured on."""
    return (
        "| images | FID here | FID published | difference | images / s |\n|---|---|---|---|---|\n"
        f"| {COUNT:,} and {COUNT:,} | {fid:.7f} | {PUBLISHED} | {fid - PUBLISHED:+.7f} | {rate:.2f} |\n\n"
        f"CIFAR-10 train against test; {where}, torch {torch.__version__}, Python {platform.python_version()}. "
        "Published: torch-fidelity's test of its PyTorch against the TensorFlow code.\n"
    )


def main() -> int:
    """Measure, and print or write a Markdown table; 1 if it misses the published value."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help="folder with train/ and test/images.npy")
    parser.add_argument("--weights", type=Path, default=Path("results/weights/inception.safetensors"))
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    fid, rate = measured(options.images, options.weights, batch=options.batch, device=options.device)
    text = table(fid, rate, f"{options.threads} thread(s)" if options.device == "cpu" else options.device)
    if options.out:
        options.out.write_text(text)
    print(text, end="")
    return int(abs(fid - PUBLISHED) > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
