"""The command `unlock`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from cm.config.layout import Layout
from cm.errors import UserError
from cm.jobs.request import TRAINING_PREFIX
from cm.utils.running import find_running


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def unlock(arguments: Sequence[str]) -> None:
    """Remove the lock of a Snakemake that was killed.

    Refused while it, or a job that it started in this folder, is running. Trainings of `cm launch` may go on, since the
    next Snakemake finds them again.

    ARGUMENTS are further ones of `snakemake --unlock`, such as --snakefile FILE.
    """
    running = find_running(Path(), Layout().logs, ignored=TRAINING_PREFIX)
    if running:
        raise UserError(f"not unlocked, since Snakemake or a job of it is running: {'; '.join(running)}")
    status = subprocess.run([sys.executable, "-m", "snakemake", "--unlock", *arguments]).returncode
    click.get_current_context().exit(status)
