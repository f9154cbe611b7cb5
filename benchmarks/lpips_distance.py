"""LPIPS as a training distance: images per second of a forward and backward pass, memory, and errors of precisions.

    python benchmarks/lpips_distance.py --weights FILE --data FOLDER --data FOLDER [--out benchmarks/lpips_distance.md]

FILE: what `cm weights --name lpips-vgg16` writes. FOLDER: a prepared data set. Each speed is measured in processes of
its own, whose peak memory is measured too, in turns with two passes of the network, of which only the student's has a
backward pass, and with one pass of both batches. The time is CPU time of one thread, which other processes disturb
least.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import platform
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cm.checkpoints import native
from cm.diffusion.distances import LPIPS, Distance
from cm.diffusion.noise import KarrasNoise
from cm.diffusion.perceptual import FeatureDistance
from cm.diffusion.precision import multiply_in_float32
from cm.evaluation import pretrained
from cm.evaluation.pretrained.modules import perceptual

BATCHES = {28: 64, 32: 64, 64: 16, 224: 2}  # images of a measurement, by their width in pixels
PRECISIONS = ("float32", "bfloat16")
REPEATS = 3
PAIRS = {None: 4, 224: 1}  # pairs of each kind, by the size of the distance
NOISY = (0.02, 0.2, 2.0)  # noise levels of images that are compared with clean ones
STEPS = (12, 8, 4)  # intervals of the grid of 18 times, at whose ends images are denoised and compared
LOSS_SCALE = 128.0  # what a loss scaling of 2^16 leaves to each of 512 images
SPEEDS = "| pixels | batch | precision | images/s, two passes | one pass | memory an image, two passes | one pass |"
ERRORS = (
    "| data | pixels | precision | pairs | count | value, median | max | cosine, median | min | norm, median | max |"
)


# ---- speed and memory ----


def load_network(weights: Path) -> nn.Module:
    """The network of LPIPS in a file, as `pretrained.load_lpips` prepares it."""
    network = perceptual.build("lpips-vgg16")
    native.restore(network, perceptual.add_aliases(native.load(weights)[0]), weights)
    return network.to(memory_format=torch.channels_last).eval().requires_grad_(False)


def one_pass(network: nn.Module, precision: str) -> Distance:
    """The metric of `perceptual.metric`, by one pass over both batches, whose backward pass is over both, too."""
    dtype = getattr(torch, precision)
    network.net.to(dtype)
    compare = FeatureDistance(lambda maps: maps, network.lins)

    def metric(a: Tensor, b: Tensor) -> Tensor:
        pairs = [maps.chunk(2) for maps in perceptual.maps(network, torch.cat([a, b]), dtype)]
        return compare([u for u, _ in pairs], [v for _, v in pairs])

    return metric


PASSES: dict[str, Callable[[nn.Module, str], Distance]] = {"two": perceptual.metric, "one": one_pass}


def measure(network: nn.Module, passes: str, precision: str, size: int, batch: int) -> tuple[float, float]:
    """CPU seconds of a forward and backward pass, and the bytes by which it raised the peak memory of the process."""
    metric, (a, b) = PASSES[passes](network, precision), torch.rand(2, batch, 3, size, size)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with multiply_in_float32(a.device, precision):
        metric(a.requires_grad_(), b).sum().backward()
    return time.process_time() - began, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def speed_rows(weights: Path, batches: dict[int, int]) -> Iterator[str]:
    """A row for each width of images and each precision."""
    network = load_network(weights)
    for (size, batch), precision in itertools.product(batches.items(), PRECISIONS):
        found: dict[str, list[tuple[float, float]]] = {passes: [] for passes in PASSES}
        for passes in [*PASSES] * REPEATS:
            with multiprocessing.get_context("fork").Pool(1) as pool:
                found[passes].append(pool.apply(measure, (network, passes, precision, size, batch)))
        seconds = [statistics.median(cost for cost, _ in found[passes]) for passes in PASSES]
        peaks = [max(peak for _, peak in found[passes]) for passes in PASSES]
        rates = (f"{batch / second:.1f}" for second in seconds)
        memory = (f"{peak / batch / 1e6:.1f} MB" for peak in peaks)
        yield f"| {size} | {batch} | {precision} | {' | '.join(rates)} | {' | '.join(memory)} |"


# ---- errors ----


def read_images(folder: Path, count: int) -> Tensor:
    """The first training images, [count, C, H, W] in [-1, 1]."""
    images = np.array(np.load(folder / "train" / "images.npy", mmap_mode="r")[:count])
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def linear_denoiser(images: Tensor) -> Callable[[Tensor, float], Tensor]:
    """The best linear denoiser (x, t) -> x of images: that of the Gaussian with their mean and covariance."""
    flat = images.flatten(1)
    mean, (values, vectors) = flat.mean(0), torch.linalg.eigh(torch.cov(flat.T))
    gains = values.clamp(min=0)

    def denoise(x: Tensor, t: float) -> Tensor:
        return (mean + (x.flatten(1) - mean) @ (vectors * (gains / (gains + t**2))) @ vectors.T).reshape(x.shape)

    return denoise


def pairs(folder: Path) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Noisy and clean images, and images denoised from two neighbouring times, as student and target see them."""
    images, grid = read_images(folder, 3000), KarrasNoise().times(18)
    x, denoise = images[: max(PAIRS.values())], linear_denoiser(images)
    z = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    for t in NOISY:
        yield "noisy", x + t * z, x
    for t, s in ((float(grid[step]), float(grid[step + 1])) for step in STEPS):
        yield "denoised", denoise(x + t * z, t), denoise(x + s * z, s)


def value_and_gradient(distance: Distance, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """d(a, b), [B], and its gradient, [B, C H W]."""
    a = a.clone().requires_grad_()
    value = distance(a, b)
    (value * LOSS_SCALE).sum().backward()
    return value.detach(), a.grad.flatten(1) / LOSS_SCALE


def compare(exact: Distance, distance: Distance, a: Tensor, b: Tensor) -> Tensor:
    """[B, 3]: the relative error of the value, the cosine of the gradients, and the relative error of their norm."""
    (value, gradient), (other, changed) = (value_and_gradient(one, a, b) for one in (exact, distance))
    norms = changed.norm(dim=1) / gradient.norm(dim=1)
    cosine = nn.functional.cosine_similarity(gradient, changed)
    return torch.stack([(other / value - 1).abs(), cosine, (norms - 1).abs()], 1)


def error_rows(weights: Path, folders: list[Path]) -> Iterator[str]:
    """A row for each data set, size, precision and kind of pairs."""
    data = {folder.name: list(pairs(folder)) for folder in folders}
    for size, precision in ((None, "bfloat16"), (None, "float16"), (224, "bfloat16")):
        distances = [
            LPIPS(size, precision=name).with_network(pretrained.load_lpips(weights, precision=name))
            for name in ("float32", precision)
        ]
        for (name, kinds), kind in itertools.product(data.items(), ("noisy", "denoised")):
            chosen = [(a[: PAIRS[size]], b[: PAIRS[size]]) for label, a, b in kinds if label == kind]
            found = torch.cat([compare(*distances, a, b) for a, b in chosen])
            value, cosine, norm = found.unbind(1)
            cells = [f"{value.median():.1e}", f"{value.max():.1e}", f"{cosine.median():.4f}", f"{cosine.min():.4f}"]
            cells += [f"{norm.median():.1e}", f"{norm.max():.1e}"]
            yield f"| {name} | {size or 'own'} | {precision} | {kind} | {len(found)} | {' | '.join(cells)} |"


# ---- page ----


def options_of() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True, help="file that `cm weights --name lpips-vgg16` writes")
    parser.add_argument("--data", type=Path, action="append", default=[], help="prepared data set; may be repeated")
    parser.add_argument("--out", type=Path, help="Markdown file whose measurements are replaced")
    return parser.parse_args()


def write_rows(lines: list[str], columns: str, rows: Iterator[str]) -> None:
    """Add a table to the lines, and print its rows as they are measured."""
    lines += [columns, "|" + "---|" * (columns.count("|") - 1)]
    for row in rows:
        print(row, flush=True)
        lines.append(row)
    lines.append("")


MARK = "<!-- measurements -->\n"  # in the page: what follows is replaced


def main() -> None:
    """Measure and print, or write the page."""
    options, lines, began = options_of(), [], time.perf_counter()
    torch.set_num_threads(1)
    write_rows(lines, SPEEDS, speed_rows(options.weights, BATCHES))
    write_rows(lines, ERRORS, error_rows(options.weights, options.data))
    lines.append(f"One thread, torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}; ")
    lines[-1] += f"measured in {time.perf_counter() - began:.0f} s."
    if options.out:
        text = options.out.read_text().partition(MARK)[0] if options.out.is_file() else ""
        options.out.write_text(f"{text}{MARK}{chr(10).join(lines)}\n")


if __name__ == "__main__":
    main()
