"""The commands about models: `train`, `convert` and `describe`."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from cm import config
from cm.cli.cards import make_card
from cm.cli.options import (
    Machine,
    Number,
    WholeNumber,
    experiments_option,
    group,
    machine_options,
)
from cm.cli.paths import IN_FILE, IN_FILE_OR_FOLDER, IN_FOLDER, OUT_FILE, OUT_FILE_OR_FOLDER, Command
from cm.cli.tracking import Tracking, tracking_options
from cm.config.layout import PREVIEW_COUNT
from cm.errors import UserError
from cm.training import launch
from cm.utils import files, outputs


class TrainCommand(Command):
    """A command whose `--out` takes several values, which click does not offer: `--out A B` is `--out A --out B`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta["arguments"] = list(args)
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
    click.option("--teacher", type=IN_FILE, help="model file of the teacher"),
    click.option("--perceptual", type=IN_FILE, help="model file whose features a perceptual distance compares"),
)


@click.command(cls=TrainCommand)
@click.option("--run", required=True, help="<dataset>/<method>/<variant>/seed<seed>")
@experiments_option
@click.option("--data", type=IN_FOLDER, required=True, help="folder that `cm prepare` wrote")
@click.option(
    "--out",
    type=OUT_FILE,
    required=True,
    multiple=True,
    help="model files to write, one or more, named by percentages of training: 50.safetensors 100.safetensors",
)
@input_options
@machine_options
@tracking_options
def train(
    run: str,
    experiments: Path,
    data: Path,
    out: Sequence[Path],
    *,
    inputs: Inputs,
    machine: Machine,
    tracking: Tracking,
) -> None:
    """Train a run, or continue its training.

    Writes its models, what it measures on the way (metrics.jsonl) and, if its experiment file names a sampler, a
    picture of samples. Several processes train together if `--processes`, torchrun or srun starts them.
    """
    settings = machine.settings() | tracking.settings()
    spec = config.Experiments(experiments).run(run)
    if spec.released:
        raise UserError(f"{run} takes its weights from {spec.released.url}: use `cm convert`")
    folder, keep = _parse_outputs(out)
    sampler = config.sampler_of(spec)
    environment = _start_processes(spec, machine)
    device = machine.select_device_of(environment)
    from cm.training.processes import connect

    with connect(environment, folder, device) as processes:
        from cm import build
        from cm.training.trainer import train as run_training

        plan = build.plan_training(spec, data=data, out=folder, keep=keep, inputs=inputs.paths(), device=device)
        run_training(dataclasses.replace(plan, processes=processes, **settings))
    if sampler and processes.is_first:
        module, description = build.load_model(folder / f"{max(keep)}.safetensors", device)
        images = build.sample_images(module, description, sampler, count=PREVIEW_COUNT, seed=spec.seed)
        files.write_grid(folder / "samples.png", images)


def _start_processes(run: config.Run, machine: Machine) -> launch.Environment:
    """The place of this process among those that train together.

    If this command is to start them, it does, and exits with their status. Raises UserError for more processes than
    images of a batch.
    """
    environment = launch.read_environment()
    count = environment.count if environment.count > 1 else machine.count_processes()
    if count > run.training.batch:
        raise UserError(f"{run.name}: a batch of {run.training.batch} cannot be divided among {count} processes")
    if count > environment.count:
        machine.take_gpus_of_processes()
        context = click.get_current_context()
        arguments = _without_option(context.meta["arguments"], "--processes")
        context.exit(launch.launch(count, [sys.executable, "-m", "cm", "train", *arguments]))
    return environment


def _without_option(arguments: Sequence[str], option: str) -> list[str]:
    """The arguments of a command line without an option and its value."""
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if not skip and argument != option and not argument.startswith(f"{option}="):
            kept.append(argument)
        skip = argument == option
    return kept


def _parse_outputs(out: Sequence[Path]) -> tuple[Path, list[int]]:
    """The folder of the model files, and the percentages of training that they are named by."""
    folders = {path.parent for path in out}
    matches = [re.fullmatch(r"([1-9][0-9]?|100)\.safetensors", path.name) for path in out]
    progress = [int(match[1]) for match in matches if match]
    if len(folders) > 1 or len(progress) < len(out):
        raise UserError(
            "out must be files of one folder named by percentages of training, such as 50.safetensors 100.safetensors, "
            f"not {' '.join(map(str, out))}"
        )
    return folders.pop(), progress


@click.command(cls=Command)
@click.option("--run", help="the run that takes its weights from the checkpoint; it describes the network")
@click.option(
    "--checkpoint", type=IN_FILE_OR_FOLDER, help="file or folder to read; by default the released one, which is fetched"
)
@experiments_option
@click.option("--model", type=IN_FILE, help="model file to write in another form")
@click.option("--to", type=click.Choice(["bfloat16", "diffusers", "openai"]), help="that form")
@click.option("--out", type=OUT_FILE_OR_FOLDER, required=True, help="file to write; a folder for diffusers")
def convert(
    run: str | None, checkpoint: Path | None, experiments: Path, *, model: Path | None, to: str | None, out: Path
) -> None:
    """Convert a checkpoint to a model file, or back.

    With --run, a published checkpoint becomes the model file of that run. With --model and --to, a model file becomes a
    checkpoint of another project, or a model file of half the size, with weights in bfloat16. A folder for diffusers
    gets a model card, README.md, as `cm card` writes it.
    """
    if (run is None) == (model is None) or (model is not None) != (to is not None):
        raise UserError("give --run, to read a checkpoint, or --model and --to, to write one")
    if run is not None:
        outputs.check_file(out)
        _import_checkpoint(run, checkpoint, experiments, out)
    elif model is not None and to is not None:
        outputs.check_new(out)
        from cm import build, checkpoints

        tensors, description = build.read_model(model)
        card = make_card(model, description, experiments, file=out.name, library=to) if to == "diffusers" else None
        checkpoints.export_checkpoint(tensors, description, out, to, card)


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
    type=Number(),
    default=100.0,
    show_default=True,
    help="assumed speed of a GPU, 10^12 operations per second",
)
@click.option(
    "--profile",
    "profiles",
    multiple=True,
    help="profile of Snakemake, by name or path: state also the jobs, GPUs and hours that it requests for a suite",
)
@click.option("--target", default="all", show_default=True, help="rule or file whose jobs are stated with --profile")
def describe(
    subject: str, experiments: Path, batch: int, teraflops: float, *, profiles: Sequence[str], target: str
) -> None:
    """Print the parameters and the cost of a run or a suite.

    CONFIG is a run, <dataset>/<method>/<variant>/seed<seed>, the name of a suite, or the file of one.
    """
    from cm import cost

    print(
        cost.describe(
            subject,
            batch=batch,
            rate=teraflops * 1e12,
            experiments=config.Experiments(experiments),
            profiles=profiles,
            target=target,
        )
    )
