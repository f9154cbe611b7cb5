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


def chosen(path: Path, count: int) -> np.ndarray:
    """`count` of the uint8 images [N, H, W, C] of a file, without repetition."""
    images = files.read_images(path)
    return images[np.random.RandomState(SEED).choice(len(images), count, replace=False)]


def measured(folder: Path, weights_file: Path, count: int, *, batch: int, device: str) -> tuple[float, float]:
    """FID of the two halves, and images per second through the Inception."""
    inception, _ = weights.extractor(weights_file, device)
    began = time.monotonic()
    halves = [
        features.extract(lambda x: (inception.features(x)[0],) * 2, chosen(path, count), batch=batch, device=device)
        for path in (folder / "train" / "images.npy", folder / "test" / "images.npy")
    ]
    rate = 2 * count / (time.monotonic() - began)
    return metrics.fid(*halves), rate


def main() -> int:
    """Measure, and print or write a Markdown table; 1 if the full count misses the published value."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--weights", type=Path, default=Path("results/weights/inception.safetensors"))
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    fid, rate = measured(options.images, options.weights, options.count, batch=options.batch, device=options.device)
    where = f"{options.threads} threads" if options.device == "cpu" else options.device
    text = (
        "| images | FID here | FID published | difference | images / s |\n|---|---|---|---|---|\n"
        f"| {options.count:,} and {options.count:,} | {fid:.7f} | {PUBLISHED if options.count == COUNT else ''} | "
        f"{fid - PUBLISHED if options.count == COUNT else np.nan:.7f} | {rate:.2f} |\n\n"
        f"{where}, torch {torch.__version__}, Python {platform.python_version()}; CIFAR-10 train against test; "
        "published: torch-fidelity's test of its PyTorch against the TensorFlow code.\n"
    )
    if options.out:
        options.out.write_text(text)
    print(text, end="")
    return int(options.count == COUNT and abs(fid - PUBLISHED) > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
