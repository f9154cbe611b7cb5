"""The commands about models: `train`, `convert`, `describe`, `sample` and `evaluate`."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Sequence
from pathlib import Path

import click

from cm import config
from cm.cli.options import (
    FILE,
    FILE_OR_FOLDER,
    FOLDER,
    Hardware,
    ModelSource,
    SamplingChanges,
    Scoring,
    WholeNumber,
    experiments_option,
    group,
    hardware_options,
    model_options,
    reference_option,
    sampling_options,
    scoring_options,
)
from cm.config.layout import PREVIEW_COUNT
from cm.errors import UserError
from cm.utils import files


class TrainCommand(click.Command):
    """A command whose `--out` takes several values, which click does not offer: `--out A B` is `--out A --out B`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, _repeat_option(args, "--out"))


def _repeat_option(arguments: Sequence[str], option: str) -> list[str]:
    """The arguments with the option written before each of its values."""
    repeated: list[str] = []
    within = False
    for argument in arguments:
        if argument.startswith("-"):
            within = argument == option
        elif within and repeated[-1] != option:
            repeated.append(option)
        repeated.append(argument)
    return repeated


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The models that a training starts from."""

    teacher: Path | None
    perceptual: Path | None

    def paths(self) -> dict[str, Path]:
        """Role to model file, for those that are given."""
        return {role: path for role, path in dataclasses.asdict(self).items() if path}


input_options = group(
    "inputs",
    Inputs,
    click.option("--teacher", type=FILE, help="model file of the teacher"),
    click.option("--perceptual", type=FILE, help="model file whose features a perceptual distance compares"),
)


@click.command(cls=TrainCommand)
@click.option("--run", required=True, help="<dataset>/<method>/<variant>/seed<seed>")
@experiments_option
@click.option("--data", type=FOLDER, required=True, help="folder that `cm prepare` wrote")
@click.option(
    "--out",
    type=FILE,
    required=True,
    multiple=True,
    help="model files to write, one or more, named by percentages of training: 50.safetensors 100.safetensors",
)
@input_options
@hardware_options
def train(run: str, experiments: Path, data: Path, out: Sequence[Path], *, inputs: Inputs, hardware: Hardware) -> None:
    """Train a run, or continue its training.

    Writes its models and, if its experiment file names a sampler, a picture of samples.
    """
    spec = config.Experiments(experiments).run(run)
    if spec.released:
        raise UserError(f"{run} takes its weights from {spec.released.url}: use `cm convert`")
    folder, keep = _parse_outputs(out)
    sampler = config.sampler_of(spec)
    device = hardware.select()
    from cm import build
    from cm.training.trainer import train as run_training

    plan = build.plan_training(spec, data=data, out=folder, keep=keep, inputs=inputs.paths(), device=device)
    run_training(plan)
    if sampler:
        module, description = build.load_model(folder / f"{max(keep)}.safetensors", device)
        images = build.sample_images(module, description, sampler, count=PREVIEW_COUNT, seed=spec.seed)
        files.write_grid(folder / "samples.png", images)


def _parse_outputs(out: Sequence[Path]) -> tuple[Path, list[int]]:
    """The folder of the model files, and the percentages of training that they are named by."""
    folders = {path.parent for path in out}
    matches = [re.fullmatch(r"([1-9]\d?|100)\.safetensors", path.name) for path in out]
    progress = [int(match[1]) for match in matches if match]
    if len(folders) > 1 or len(progress) < len(out):
        raise UserError(
            "out must be files of one folder named by percentages of training, such as 50.safetensors 100.safetensors, "
            f"not {' '.join(map(str, out))}"
        )
    return folders.pop(), progress


@click.command()
@click.option("--run", help="the run that takes its weights from the checkpoint; it describes the network")
@click.option(
    "--checkpoint", type=FILE_OR_FOLDER, help="file or folder to read; by default the released one, which is fetched"
)
@experiments_option
@click.option("--model", type=FILE, help="model file to write in another form")
@click.option("--to", type=click.Choice(["diffusers", "openai"]), help="that form")
@click.option("--out", type=FILE_OR_FOLDER, required=True, help="file to write; a folder for diffusers")
def convert(
    run: str | None, checkpoint: Path | None, experiments: Path, *, model: Path | None, to: str | None, out: Path
) -> None:
    """Convert a checkpoint to a model file, or a model file for others.

    With --run, a published checkpoint becomes the model file of that run. With --model and --to, a model file becomes a
    checkpoint of another project.
    """
    if (run is None) == (model is None) or (model is not None) != (to is not None):
        raise UserError("give --run, to read a checkpoint, or --model and --to, to write one")
    if run is not None:
        _import_checkpoint(run, checkpoint, experiments, out)
    elif model is not None and to is not None:
        from cm import build, checkpoints

        checkpoints.export_checkpoint(*build.read_model(model), out, to)


def _import_checkpoint(run: str, checkpoint: Path | None, experiments: Path, out: Path) -> None:
    spec = config.Experiments(experiments).run(run)
    if checkpoint is None and spec.released is None:
        raise UserError(f"{run} names no checkpoint of its experiment's 'released:': give --checkpoint")
    from cm import build
    from cm.checkpoints import native

    native.save(out, *build.import_released(spec, checkpoint))


@click.command()
@click.argument("subject", metavar="CONFIG")
@experiments_option
@click.option(
    "--batch", type=WholeNumber(1), default=1, show_default=True, help="images of the step whose memory is stated"
)
@click.option(
    "--teraflops",
    type=float,
    default=100.0,
    show_default=True,
    help="assumed speed of a GPU, 10^12 operations per second",
)
def describe(subject: str, experiments: Path, batch: int, teraflops: float) -> None:
    """Print the parameters and the cost of a run or a suite.

    CONFIG is a run, <dataset>/<method>/<variant>/seed<seed>, the name of a suite, or the file of one.
    """
    from cm import cost

    print(cost.describe(subject, batch=batch, rate=teraflops * 1e12, experiments=config.Experiments(experiments)))


@dataclasses.dataclass(frozen=True)
class SampleFiles:
    """The files that `sample` writes."""

    out: Path
    preview: Path | None

    def check(self) -> None:
        """UserError for a name that is not that of a .npy file."""
        for path in filter(None, (self.out, self.preview)):
            if path.suffix != ".npy":
                raise UserError(f"{path} must end in .npy: other files are written beside it")


output_options = group(
    "outputs",
    SampleFiles,
    click.option("--out", type=FILE, required=True, help=".npy file to write; its description is written beside it"),
    click.option("--preview", type=FILE, help=f".npy file for the first {PREVIEW_COUNT}; a .png is written beside it"),
)


@dataclasses.dataclass(frozen=True)
class SampleRequest:
    """Which samples of a model are made."""

    sampler: str
    count: int
    seed: int | None


request_options = group(
    "request",
    SampleRequest,
    click.option("--sampler", required=True, help="onestep, multistep,times~0.8 or ode,solver~heun,steps~18, ..."),
    click.option("--count", type=WholeNumber(1), default=64, show_default=True, help="number of samples"),
    click.option("--seed", type=WholeNumber(0, config.MAX_SEED), help="of the noise; by default the run's"),
)


@click.command()
@model_options
@request_options
@output_options
@sampling_options
def sample(source: ModelSource, request: SampleRequest, *, outputs: SampleFiles, changes: SamplingChanges) -> None:
    """Sample a model file (--model) or the model of a run (--run).

    Writes uint8 images to OUT.npy, and how they were made to OUT.json.
    """
    _write_samples(source, request, outputs, changes)


@click.command()
@model_options
@request_options
@output_options
@sampling_options
@scoring_options
@reference_option
@click.option("--score", type=FILE, required=True, help=".json file to write: the score of the samples")
def evaluate(
    source: ModelSource,
    request: SampleRequest,
    *,
    outputs: SampleFiles,
    changes: SamplingChanges,
    scoring: Scoring,
    reference: Path,
    score: Path,
) -> None:
    """Sample a model and score the samples: `cm sample` and `cm score` in one process, which starts torch once."""
    protocol = scoring.read()
    device = _write_samples(source, request, outputs, changes)
    from cm.evaluation.features import Compute
    from cm.evaluation.scoring import score_images

    make_extractor, compute = scoring.make_extractor(protocol), Compute(devices=(device,))
    result = score_images(outputs.out, reference, protocol=protocol, make_extractor=make_extractor, compute=compute)
    files.write_json(score, result)


def _write_samples(source: ModelSource, request: SampleRequest, outputs: SampleFiles, changes: SamplingChanges) -> str:
    """Write samples, their description and a preview; returns the device that the model is on."""
    sampler = config.parse_sampler(request.sampler)
    outputs.check()
    model = source.load()
    settings = changes.apply(model.settings)
    started = time.monotonic()
    with files.create_array(outputs.out, (request.count, *model.image_shape)) as images:
        model.sample(request.sampler, count=request.count, seed=request.seed, settings=settings, out=images)
    description = {
        "run": model.run,
        "progress": model.description["progress"],
        "sampler": request.sampler,
        "seed": model.seed if request.seed is None else request.seed,
        "quantization": settings.quantization,
        "clamp": settings.clamp,
        "nfe": sampler.evaluations,
        "seconds": {"sampling": round(time.monotonic() - started, 3)},
        "model_sha256": files.sha256_of(model.path),
        "trained_at": model.description["commit"],
    }
    files.write_json(outputs.out.with_suffix(".json"), description)
    if outputs.preview:
        files.write_array(outputs.preview, images[:PREVIEW_COUNT])
        files.write_grid(outputs.preview.with_suffix(".png"), images[:PREVIEW_COUNT])
    return str(next(model.module.parameters()).device)
