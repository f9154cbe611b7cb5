"""The command that runs another one as a job: `launch`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from cm.cli.options import WholeNumber, group
from cm.cli.paths import OUT_FILE, OUT_FOLDER, Command
from cm.errors import UserError


@dataclasses.dataclass(frozen=True)
class Resources:
    """What a job asks the cluster for."""

    minutes: int
    nodes: int
    tasks: int
    cpus_per_task: int
    requeues: int
    grace_seconds: int
    sbatch: Sequence[str]

    def options(self) -> Mapping[str, str]:
        """The further options of sbatch; UserError for one without a value."""
        options = {}
        for option in self.sbatch:
            name, separator, value = option.partition("=")
            if not separator or not name.strip("-"):
                raise UserError(f"--sbatch must be NAME=VALUE, not {option}")
            options[name.lstrip("-")] = value
        return options


resource_options = group(
    "resources",
    Resources,
    click.option(
        "--minutes", type=WholeNumber(1), default=1440, show_default=True, help="time of one start of the job"
    ),
    click.option("--nodes", type=WholeNumber(1), default=1, show_default=True, help="nodes of the job"),
    click.option(
        "--tasks",
        type=WholeNumber(1),
        default=1,
        show_default=True,
        help="tasks of the job, each of which runs the command",
    ),
    click.option(
        "--cpus-per-task", type=WholeNumber(1), default=1, show_default=True, help="processor cores of a task"
    ),
    click.option(
        "--requeues",
        type=WholeNumber(0),
        default=20,
        show_default=True,
        help="how many times the job is started again when its time is over",
    ),
    click.option(
        "--grace-seconds",
        type=WholeNumber(1),
        default=120,
        show_default=True,
        help="how long before the end of its time the job is told to save its state",
    ),
    click.option("--sbatch", multiple=True, metavar="NAME=VALUE", help="a further option of sbatch, as account=NAME"),
)


@click.command(cls=Command)
@click.option("--cluster", type=click.Choice(["local", "slurm"]), default="local", show_default=True)
@click.option("--folder", type=OUT_FOLDER, required=True, help="folder of the jobs of this training")
@click.option(
    "--state", type=click.Path(path_type=Path), required=True, help="file that the command replaces as it gets on"
)
@click.option("--output", type=OUT_FILE, multiple=True, help="file that the command leaves in the end")
@click.option("--key", default="", help="what names the settings: a job of another key is cancelled, not waited for")
@resource_options
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def launch(
    cluster: str,
    folder: Path,
    state: Path,
    *,
    output: Sequence[Path],
    key: str,
    resources: Resources,
    command: Sequence[str],
) -> None:
    """Run a training as a job that outlives this command, and wait for it.

    The job is submitted through submitit, to Slurm or to this machine. When its time is over, or it is preempted, it
    saves its state and is queued again. The same command waits for a job that was submitted before: there are never two
    of one folder.
    """
    from cm.jobs.clusters import Request
    from cm.jobs.launcher import Training, job_name, launch_job

    wanted = dataclasses.asdict(resources) | {"name": job_name(folder), "options": resources.options()}
    del wanted["sbatch"]
    status = launch_job(Training(command, key, folder, state, output), Request(**wanted), cluster)
    click.get_current_context().exit(status)
