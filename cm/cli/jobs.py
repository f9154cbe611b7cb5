"""The command that runs another one as a job: `launch`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from cm.cli.options import Decorator, WholeNumber, group
from cm.cli.paths import OUT_FILE, OUT_FOLDER, Command
from cm.jobs.request import Request


def _whole_number(name: str, least: int, default: int, meaning: str) -> Decorator:
    return click.option(f"--{name}", type=WholeNumber(least), default=default, show_default=True, help=meaning)


request_options = group(
    "request",
    Request,
    _whole_number("minutes", 1, 1440, "time of one start of the job"),
    _whole_number("nodes", 1, 1, "nodes of the job"),
    _whole_number("tasks", 1, 1, "tasks of the job, each of which runs the command"),
    _whole_number("cpus-per-task", 1, 1, "processor cores of a task"),
    _whole_number("requeues", 0, 20, "how many times the job is started again when its time is over"),
    _whole_number("grace-seconds", 1, 120, "how long before the end of its time the job is told to save its state"),
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
@request_options
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def launch(
    cluster: str,
    folder: Path,
    state: Path,
    *,
    output: Sequence[Path],
    key: str,
    request: Request,
    command: Sequence[str],
) -> None:
    """Run a training as a job that outlives this command, and wait for it.

    The job is submitted through submitit, to Slurm or to this machine. When its time is over, or it is preempted, it
    saves its state and is queued again. The same command waits for a job that was submitted before: there are never two
    of one folder.
    """
    request.sbatch_options()
    from cm.jobs.launcher import Training, launch_job

    status = launch_job(Training(command, key, folder, state, output), request, cluster)
    click.get_current_context().exit(status)
