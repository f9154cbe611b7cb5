"""Whether our FID is the published one, and how fast it is compared with clean-fid and torch-fidelity.

    cm prepare --dataset cifar10 --out results/data/cifar10
    cm weights --name inception --out results/weights/inception.safetensors
    python benchmarks/scoring.py --data results/data/cifar10 --inception inception-2015-12-05.pt [--out scoring.md]

In torch-fidelity's own test against the TensorFlow code, 5,000 CIFAR-10 training images have FID 10.3233274 against
5,000 test images; NumPy's RandomState(2020) chooses both. Here the statistics of the training images are computed once.
Then each system scores a folder with PNG files of the test images, in a separate process, one after another, with the
same number of threads. `--inception` is the TorchScript that clean-fid itself downloads; without it, clean-fid is left
out. clean-fid calls a function that current SciPy no longer has; it is replaced, and nothing else is changed. The
benchmark takes half an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

PUBLISHED, TOLERANCE = 10.3233274, 1e-4
COUNT, SEED, BATCH = 5000, 2020, 50


class Stopwatch:
    """The seconds that are spent inside functions."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def wrap(self, function: Callable) -> Callable:
        """The function, whose time is added to `seconds`."""

        def timing(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                self.seconds += time.perf_counter() - began

        return timing


def score_with_this_suite(place: Path, options: argparse.Namespace, stopwatch: Stopwatch) -> float:
    """FID as `cm score` computes it."""
    from cm.evaluation import features, imagesets, metrics, pretrained
    from cm.evaluation.features import Compute

    extractor = pretrained.load_extractor(options.weights)
    extractor.network.forward = stopwatch.wrap(extractor.network.forward)
    found = features.extract(extractor, imagesets.open_images(place / "images"), Compute(BATCH, options.threads))
    return metrics.fid(found, features.read(place / "statistics.npz")[0])


def score_with_clean_fid(place: Path, options: argparse.Namespace, stopwatch: Stopwatch) -> float:
    """FID by clean-fid's `compute_fid`, in the mode that the paper uses."""
    import cleanfid.fid
    import scipy.linalg
    from cleanfid.inception_torchscript import InceptionV3W

    root = scipy.linalg.sqrtm
    cleanfid.fid.linalg = argparse.Namespace(sqrtm=lambda product, disp: (root(product), None))
    cleanfid.fid.get_reference_statistics = lambda *_, **__: _read_statistics(place)
    InceptionV3W.forward = stopwatch.wrap(InceptionV3W.forward)
    how = {"mode": "legacy_tensorflow", "device": "cpu", "num_workers": options.threads, "batch_size": BATCH}
    with _copy_to(options.inception, Path("/tmp/inception-2015-12-05.pt")):
        return cleanfid.fid.compute_fid(str(place / "images"), verbose=False, use_dataparallel=False, **how)


def score_with_torch_fidelity(place: Path, options: argparse.Namespace, stopwatch: Stopwatch) -> float:
    """FID by torch-fidelity's features, statistics and distance."""
    import torch
    from torch_fidelity import metric_fid, utils
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3 as Inception

    from cm.checkpoints import native

    tensors, _ = native.load(options.weights)
    state = {name.removeprefix("body."): tensor for name, tensor in tensors.items()}
    state |= {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    torch.save(state, place / "inception.pth")
    Inception.forward = stopwatch.wrap(Inception.forward)
    network = Inception("inception", ["2048"], feature_extractor_weights_path=str(place / "inception.pth"))
    how = {"input1": str(place / "images"), "batch_size": BATCH, "cuda": False, "verbose": False}
    found = utils.extract_featuresdict_from_input_id(1, network, **how)
    mean, covariance = _read_statistics(place)
    statistics = {"mu": mean.astype(np.float32), "sigma": covariance}  # it asserts that means have one type
    own = metric_fid.fid_features_to_statistics(found["2048"])
    return metric_fid.fid_statistics_to_metric(own, statistics, verbose=False)["frechet_inception_distance"]


SYSTEMS = {
    "this suite": score_with_this_suite,
    "clean-fid": score_with_clean_fid,
    "torch-fidelity": score_with_torch_fidelity,
}


def prepare(options: argparse.Namespace, place: Path) -> None:
    """Write the PNG files of the test images and the statistics of the training images."""
    from PIL import Image

    from cm.evaluation import features, imagesets, pretrained
    from cm.evaluation.features import Compute

    (place / "images").mkdir()
    chosen = {}
    for split in ("train", "test"):
        images = imagesets.open_images(options.data / split / "images.npy")
        chosen[split] = images.subset(np.random.RandomState(SEED).choice(len(images), COUNT, replace=False))
    for index, image in enumerate(chosen["test"].pixels):
        Image.fromarray(image).save(place / "images" / f"{index:04}.png")
    found = features.extract(
        pretrained.load_extractor(options.weights), chosen["train"], Compute(BATCH, options.threads)
    )
    features.write(place / "statistics.npz", found, {})


def measure(name: str, place: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The FID, seconds and peak memory of one system, from files to the number."""
    stopwatch, started = Stopwatch(), time.perf_counter()
    fid = float(SYSTEMS[name](place, options, stopwatch))
    return {"fid": fid, "seconds": time.perf_counter() - started, "forward": stopwatch.seconds, "peak": _peak()}


def format_table(rows: dict[str, dict[str, Any]], threads: int) -> str:
    """The measurements of all systems as Markdown."""
    import torch

    titles = ("", "FID", "difference", "seconds", "images / s", "in the network", "peak memory, GiB")
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for name, row in rows.items():
        numbers = (
            f"{row['fid']:.7f} | {row['fid'] - PUBLISHED:+.7f} | {row['seconds']:.0f} | {COUNT / row['seconds']:.2f}"
        )
        lines.append(f"| {name} | {numbers} | {row['forward'] / row['seconds']:.1%} | {row['peak']:.2f} |")
    where = f"{threads} thread(s), torch {torch.__version__}, Python {platform.python_version()}"
    return "\n".join(lines) + (
        f"\n\n{COUNT:,} CIFAR-10 test images, PNG, against statistics of {COUNT:,} training images; {where}, one after "
        f"another on one machine. Difference: from {PUBLISHED}, torch-fidelity's test against the TensorFlow code.\n"
    )


def main() -> int:
    """Measure all systems, or the one of `--only` in this process. Returns 1 if our FID is not the published one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and test/images.npy")
    parser.add_argument("--weights", type=Path, default=Path("results/weights/inception.safetensors"))
    parser.add_argument("--inception", type=Path, help="inception-2015-12-05.pt, as clean-fid downloads it")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--only", choices=SYSTEMS, help=argparse.SUPPRESS)
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    if options.only:
        print(json.dumps(measure(options.only, options.place, options)))
        return 0
    names = [name for name in SYSTEMS if options.inception or name != "clean-fid"]
    with _prepare_folder(options) as place:
        rows = {name: _measure_in_process(name, place) for name in names}
    text = format_table(rows, options.threads)
    if options.out:
        options.out.write_text(text)
    print(text, end="")
    return int(abs(rows["this suite"]["fid"] - PUBLISHED) > TOLERANCE)


@contextmanager
def _prepare_folder(options: argparse.Namespace) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        prepare(options, Path(folder))
        yield Path(folder)


def _measure_in_process(name: str, place: Path) -> dict[str, Any]:
    command = [sys.executable, *sys.argv, "--place", str(place), "--only", name]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    print(name, done.stdout.splitlines()[-1], file=sys.stderr, flush=True)
    return json.loads(done.stdout.splitlines()[-1])


def _peak() -> float:
    """The peak memory of this process in GiB; the `resource` module's includes that of the parent process."""
    status = Path("/proc/self/status")
    if status.exists():
        return (
            int(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1]) / 2**20
        )
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _read_statistics(place: Path) -> tuple[np.ndarray, np.ndarray]:
    from cm.evaluation import features

    return features.read(place / "statistics.npz")[0].moments()


@contextmanager
def _copy_to(source: Path, place: Path) -> Iterator[None]:
    """A copy of a file where clean-fid looks for it, unless one is there."""
    new = not place.exists()
    if new:
        shutil.copy(source, place)
    try:
        yield
    finally:
        if new:
            place.unlink()


if __name__ == "__main__":
    sys.exit(main())
