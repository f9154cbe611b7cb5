"""The verbs: each reads files, calls one function, and writes files. `python -m cm VERB --help` tells the rest."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cm import __version__, config, files
from cm.errors import UserError

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
def prepare(dataset: str, out: Path) -> None:
    """Write a data set in the layout that training and scoring read."""
    from cm import data

    data.prepare(dataset, out)


@verb
def train(
    run: str,
    experiments: Path,
    data: Path,
    out: Path,
    keep: list[int],
    teacher: Path | None,
    perceptual: Path | None,
    threads: int | None,
    device: str | None,
) -> None:
    """Train a run; goes on from where an earlier start of it was stopped. Leaves models, and a grid of samples."""
    spec = config.load(run, experiments)
    sampler = config.sampler_of(spec)
    device = _device(device, threads)
    from cm import build
    from cm import train as loop

    inputs = {role: path for role, path in {"teacher": teacher, "perceptual": perceptual}.items() if path}
    loop.run(build.plan(spec, data=data, out=out, keep=keep, inputs=inputs, device=device))
    if sampler:
        module, description = build.trained(out / f"{max(keep)}.safetensors", device)
        files.write_grid(out / "samples.png", build.samples(module, description, sampler, count=64, seed=spec.seed))


@verb
def sample(
    model: Path,
    sampler: str,
    out: Path,
    count: int,
    seed: int | None,
    batch: int,
    rounding: str,
    clamp: bool,
    preview: Path | None,
    threads: int | None,
    device: str | None,
) -> None:
    """Sample a model: uint8 images in OUT.npy and how they were made in OUT.json; a preview as .npy and .png."""
    call = config.sampler(sampler)
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
    how = {"batch": batch, "rounding": rounding, "clamp": clamp}
    made = build.samples(module, description, call, count=count, seed=seed, **how)
    about = {"run": description["run"], "progress": description["progress"], "sampler": sampler, "seed": seed}
    about |= {"nfe": call.evaluations, "seconds": {"sampling": round(time.monotonic() - began, 3)}}
    about |= {"model_sha256": files.sha256_of(model), "trained_at": description["commit"]}
    files.write_array(out, made)
    files.write_json(out.with_suffix(".json"), about)
    if preview:
        files.write_array(preview, made[:64])
        files.write_grid(preview.with_suffix(".png"), made[:64])


@verb
def score(
    images: Path, reference: Path, extractor: Path, out: Path, batch: int, threads: int | None, device: str | None
) -> None:
    """Score images against reference images with the features of a classifier: FID, IS, precision, recall."""
    from cm import registry

    sampled, real = files.read_images(images), files.read_images(reference)
    if sampled.shape[1:] != real.shape[1:]:
        raise UserError(f"{images} holds images of {list(sampled.shape[1:])}, {reference} of {list(real.shape[1:])}")
    device = _device(device, threads)
    from cm import build, features

    began = time.monotonic()
    _, height, width, channels = sampled.shape
    judge, judge_name = build.extractor(extractor, (channels, height, width), device)
    pair = [features.extract(judge.features, these, batch=batch, device=device) for these in (sampled, real)]
    values = {name: metric(*pair) for name, metric in registry.known("metric").items()}
    about = files.read_json(images.with_suffix(".json")) if images.with_suffix(".json").exists() else {}
    seconds = {**about.pop("seconds", {}), "scoring": round(time.monotonic() - began, 3)}
    names = dict(zip(("dataset", "method", "variant"), about.get("run", "").split("/"), strict=False))
    files.write_json(
        out,
        {
            **names,
            "sampler": None,
            **about,
            "metrics": values,
            "images": len(sampled),
            "extractor": {"name": judge_name, "sha256": files.sha256_of(extractor)},
            "reference": {"split": reference.parent.name, "images": len(real), "sha256": files.sha256_of(reference)},
            "seconds": seconds,
            "versions": files.versions(),
            "commit": files.commit(),
        },
    )


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
    for name, low, high in (("count", 1, None), ("batch", 1, None), ("threads", 1, None), ("seed", 0, config.MAX_SEED)):
        value = options.get(name)
        if value is not None and value < low:
            raise UserError(f"{name} must be at least {low}, not {value}")
        if value is not None and high is not None and value > high:
            raise UserError(f"{name} must be at most {high}, not {value}")
    if not all(1 <= percentage <= 100 for percentage in options.get("keep", [])):
        raise UserError(f"keep must be percentages from 1 to 100, not {options['keep']}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cm", description=__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, options in _OPTIONS.items():
        about = VERBS[name].__doc__
        of_verb = verbs.add_parser(name, help=about, description=about, allow_abbrev=False)
        for option, settings in options.items():
            of_verb.add_argument(f"--{option}", **settings)
    return parser


_PATH = {"type": Path, "required": True}
_COMPUTE = {
    "threads": {"type": int, "help": "processor threads torch may use"},
    "device": {"help": "cpu, cuda, cuda:1, ...; by default a GPU if there is one"},
}
_OPTIONS = {
    "prepare": {"dataset": {"required": True}, "out": {**_PATH, "help": "folder to write"}},
    "train": {
        "run": {"required": True, "help": "<dataset>/<method>/<variant>/seed<seed>"},
        "experiments": {"type": Path, "default": config.EXPERIMENTS, "help": "folder of experiment files"},
        "data": {**_PATH, "help": "folder that `prepare` wrote"},
        "out": {**_PATH, "help": "folder for the models"},
        "keep": {"type": int, "nargs": "+", "default": [100], "help": "percentages of training to keep a model of"},
        "teacher": {"type": Path, "help": "model file of the teacher"},
        "perceptual": {"type": Path, "help": "model file whose features the distance compares"},
        **_COMPUTE,
    },
    "sample": {
        "model": {**_PATH, "help": "model file"},
        "sampler": {"required": True, "help": "onestep, multistep,times~0.8 or heun,steps~18, ..."},
        "out": {**_PATH, "help": ".npy file to write"},
        "count": {"type": int, "default": 64, "help": "how many images"},
        "seed": {"type": int, "help": "of the noise; by default the run's"},
        "batch": {"type": int, "default": 256, "help": "images at a time"},
        "rounding": {"choices": ["round", "truncate"], "default": "truncate", "help": "of images to eight bits"},
        "clamp": {"action": "store_true", "help": "clamp every estimate of the denoiser to [-1, 1]"},
        "preview": {"type": Path, "help": ".npy file for the first 64 images; a .png is written beside it"},
        **_COMPUTE,
    },
    "score": {
        "images": {**_PATH, "help": ".npy file of uint8 images [N, H, W, C]"},
        "reference": {**_PATH, "help": ".npy file of the real images"},
        "extractor": {**_PATH, "help": "model file of a classifier"},
        "out": {**_PATH, "help": ".json file to write"},
        "batch": {"type": int, "default": 256},
        **_COMPUTE,
    },
    "draw": {
        "suite": {**_PATH, "help": "suite file"},
        "artefact": {"required": True},
        "results": {"type": Path, "default": Path("results")},
        "out": {"type": Path, "default": Path("reports")},
    },
}

if __name__ == "__main__":
    sys.exit(main())
