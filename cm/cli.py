"""The verbs: each reads files, calls one function, and writes files. `python -m cm VERB --help` tells the rest."""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cm import __version__, config
from cm.errors import UserError
from cm.options import OPTIONS, POSITIONAL
from cm.utils import files

if TYPE_CHECKING:
    from cm.evaluation.features import Compute

VERBS = {}


def verb(function):
    """Make a function a verb of the command line; the first line of its docstring is its help."""
    VERBS[function.__name__] = function
    return function


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; 2 after a user's mistake, which is told in one line."""
    options = vars(_parser().parse_args(arguments))
    name = options.pop("verb")
    try:
        _check_numbers(options)
        VERBS[name](**options)
    except UserError as error:
        print(f"cm {name}: error: {error}", file=sys.stderr)
        return 2
    return 0


@verb
def prepare(
    dataset: str, source: str | None, out: Path, workers: int | None, allow_undecodable: float, **settings: int | None
) -> None:
    """Write a data set in the layout that training and scoring read; goes on where an earlier start was killed."""
    from cm import data

    given = {name: value for name, value in settings.items() if value is not None}
    data.prepare(dataset, out, source=source, workers=workers, allowed=allow_undecodable, settings=given)


@verb
def train(
    run: str,
    experiments: Path,
    data: Path,
    out: list[Path],
    teacher: Path | None,
    perceptual: Path | None,
    threads: int | None,
    device: str | None,
) -> None:
    """Train a run; goes on from where an earlier start of it was stopped. Leaves models, and a grid of samples."""
    spec = config.Experiments(experiments).run(run)
    if spec.released:
        raise UserError(f"{run} takes its weights from {spec.released.url}: use `cm convert`")
    folder, keep = _kept(out)
    sampler = config.sampler_of(spec)
    device = _device(device, threads)
    from cm import build
    from cm.training.trainer import train as run_training

    inputs = {role: path for role, path in {"teacher": teacher, "perceptual": perceptual}.items() if path}
    run_training(build.plan(spec, data=data, out=folder, keep=keep, inputs=inputs, device=device))
    if sampler:
        module, description = build.trained(folder / f"{max(keep)}.safetensors", device)
        files.write_grid(folder / "samples.png", build.samples(module, description, sampler, count=64, seed=spec.seed))


def _kept(out: list[Path]) -> tuple[Path, list[int]]:
    """The folder of model files, and the percentages of training that they are named by."""
    folders = {path.parent for path in out}
    named = [re.fullmatch(r"([1-9]\d?|100)\.safetensors", path.name) for path in out]
    if len(folders) > 1 or not all(named):
        raise UserError(
            "out must be files of one folder named by percentages of training, such as 50.safetensors 100.safetensors, "
            f"not {' '.join(map(str, out))}"
        )
    return folders.pop(), [int(match[1]) for match in named]


@verb
def convert(
    run: str | None, checkpoint: Path | None, experiments: Path, model: Path | None, to: str | None, out: Path
) -> None:
    """Make a model file of a published checkpoint (--run), or give a model another project's form (--model, --to)."""
    if (run is None) == (model is None) or (model is None) != (to is None):
        raise UserError("give --run, to read a checkpoint, or --model and --to, to write one")
    if model:
        from cm import build, checkpoints

        checkpoints.export_checkpoint(*build.model_file(model), out, to)
        return
    spec = config.Experiments(experiments).run(run)
    if checkpoint is None and spec.released is None:
        raise UserError(f"{run} names no checkpoint of its experiment's 'released:': give --checkpoint")
    from cm import build
    from cm.checkpoints import native

    native.save(out, *build.released(spec, checkpoint))


@verb
def weights(name: str, source: Path | None, out: Path) -> None:
    """Write pretrained weights, of the FID Inception or an LPIPS network, as scoring and training read them."""
    from cm.evaluation import pretrained

    pretrained.made(name, out, source)


@verb
def describe(subject: str, experiments: Path, batch: int, teraflops: float) -> None:
    """Print what a run, or every run of a suite, has of parameters, and what it costs."""
    from cm import cost

    print(cost.describe(subject, batch=batch, rate=teraflops * 1e12, experiments=config.Experiments(experiments)))


@verb
def sample(
    model: Path,
    sampler: str,
    out: Path,
    count: int,
    seed: int | None,
    batch: int,
    quantization: str,
    clamp: bool,
    precision: str,
    preview: Path | None,
    threads: int | None,
    device: str | None,
) -> None:
    """Sample a model: uint8 images in OUT.npy and how they were made in OUT.json; a preview as .npy and .png."""
    call = config.parse_sampler(sampler)
    for path in (out, *([preview] if preview else [])):
        if path.suffix != ".npy":
            raise UserError(f"{path} must end in .npy: other files are written beside it")
    device = _device(device, threads)
    from cm import build

    module, description = build.trained(model, device)
    if description["preconditioning"] is None:
        raise UserError(f"{model} holds {description['run']}, which makes no images")
    seed = _seed_of(description) if seed is None else seed
    began = time.monotonic()
    how = {"batch": batch, "quantization": quantization, "clamp": clamp, "precision": precision}
    channels, height, width = build.image_shape(description)
    with files.new_array(out, (count, height, width, channels)) as made:
        build.samples(module, description, call, count=count, seed=seed, out=made, **how)
    about = {"run": description["run"], "progress": description["progress"], "sampler": sampler, "seed": seed}
    about |= {
        "quantization": quantization,
        "clamp": clamp,
        "nfe": call.evaluations,
        "seconds": {"sampling": round(time.monotonic() - began, 3)},
    }
    about |= {"model_sha256": files.sha256_of(model), "trained_at": description["commit"]}
    files.write_json(out.with_suffix(".json"), about)
    if preview:
        files.write_array(preview, made[:64])
        files.write_grid(preview.with_suffix(".png"), made[:64])


@verb
def featurize(images: Path, protocol: str, extractor: Path | None, out: Path, compact: bool, **compute: Any) -> None:
    """Summarise the features of real images, once for all scores that compare with them; goes on where it stopped."""
    scoring_by = config.read_protocol(protocol)
    how = _compute(**compute)
    from cm.evaluation import features, reference, scoring

    if compact:
        found, about = scoring.featurized(images, dataclasses.replace(scoring_by, statistics=None), extractor, how)
        reference.pack(out, *found.moments(), about)
    else:
        features.write(out, *scoring.featurized(images, scoring_by, extractor, how))


@verb
def score(images: Path, reference: Path, protocol: str, extractor: Path | None, out: Path, **compute: Any) -> None:
    """Score images against real ones, or their summary, by a protocol: FID, KID, precision, recall, IS."""
    scoring_by = config.read_protocol(protocol)
    how = _compute(**compute)
    from cm.evaluation import scoring

    files.write_json(out, scoring.scored(images, reference, scoring_by, extractor, how))


def _compute(batch: int, workers: int, threads: int | None, device: str | None) -> Compute:
    devices = tuple(_device(one, threads) for one in (device.split(",") if device else [None]))
    from cm.evaluation.features import Compute

    return Compute(batch, workers, devices)


@verb
def draw(suite: Path, artefact: str, results: Path, out: Path) -> None:
    """Draw a table or a figure of a suite from its score files."""
    from cm import report

    report.draw(config.load_suite(suite), artefact, results, out)


def _seed_of(description: dict) -> int:
    return int(description["run"].rpartition("seed")[2])


def _device(device: str | None, threads: int | None) -> str:
    """The device to use, after torch was told how many threads it may."""
    import torch

    if threads:
        torch.set_num_threads(threads)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device '{device}' cannot be used here: {str(error).splitlines()[0]}") from None
    return device


def _check_numbers(options: dict) -> None:
    for name, low, high in (
        ("count", 1, None),
        ("batch", 1, None),
        ("workers", 1, None),
        ("threads", 1, None),
        ("seed", 0, config.MAX_SEED),
    ):
        value = options.get(name)
        if value is not None and value < low:
            raise UserError(f"{name} must be at least {low}, not {value}")
        if value is not None and high is not None and value > high:
            raise UserError(f"{name} must be at most {high}, not {value}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cm", description=__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, options in OPTIONS.items():
        about = VERBS[name].__doc__
        of_verb = verbs.add_parser(name, help=about, description=about, allow_abbrev=False)
        for option, settings in options.items():
            of_verb.add_argument(option if option in POSITIONAL.get(name, ()) else f"--{option}", **settings)
    return parser


if __name__ == "__main__":
    sys.exit(main())
