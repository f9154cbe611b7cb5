"""Several processes of one training: how they are started on this machine, and how each finds out which one it is."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import FrameType

from cm.training.signals import HANDLED, handle_signals

START = "CM_START"  # the variable that names a start
GRACE_SECONDS = 20.0  # for the others to leave by themselves once one process has died


@dataclass(frozen=True)
class Environment:
    """Where this process stands among those that were started together.

    `local_rank`: its number on its machine, from 0. `start`: what names this start of them all, for a file through
    which they find each other; empty if `MASTER_ADDR` and `MASTER_PORT` say where the first process listens.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    start: str = ""

    @property
    def is_first(self) -> bool:
        """Whether this is the first process."""
        return self.rank == 0


def read_environment() -> Environment:
    """The place of this process, from the variables of `cm train --processes`, torchrun or srun; else a single one."""
    variables = os.environ
    if "WORLD_SIZE" in variables:
        rank, count, local_rank = (int(variables[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        return Environment(rank, count, local_rank, start=variables.get(START, ""))
    if int(variables.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
        rank, count, local_rank = (int(variables[name]) for name in names)
        start = (variables.get(name, "0") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT"))
        return Environment(rank, count, local_rank, start="slurm-" + "-".join(start))
    return Environment()


def launch(count: int, command: Sequence[str]) -> int:
    """Run a command in `count` processes that find each other by their environment, and return their exit status."""
    shared = {"WORLD_SIZE": str(count), START: uuid.uuid4().hex}
    return supervise(command, [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)])


def supervise(
    command: Sequence[str], environments: Sequence[Mapping[str, str]], ignored: Sequence[signal.Signals] = ()
) -> int:
    """Run a command in one process for each of the environments, which are added to that of this process.

    `ignored`: signals that the processes ignore, because somebody sends them to all processes but means this one.
    Returns the exit status: 0 if all succeed, else that of the first that failed; the others are then stopped within
    GRACE_SECONDS. The signals that a training handles are passed on; the processes are a group of their own, so that
    Ctrl-C in a terminal reaches each of them once.
    """

    def prepare() -> None:
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)

    processes = [
        subprocess.Popen(
            command, env=os.environ | environment, process_group=0, preexec_fn=prepare if ignored else None
        )
        for environment in environments
    ]

    def pass_on(number: int, frame: FrameType | None) -> None:
        for process in processes:
            process.send_signal(number)

    try:
        with handle_signals(HANDLED, pass_on):
            return _wait(processes)
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    """The exit status of all, once all have ended or one has failed and the others have had their time to leave."""
    failed, deadline = 0, float("inf")
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        statuses = [process.poll() for process in processes]
        if not failed and any(statuses):
            failed = _shell_status(next(status for status in statuses if status))
            deadline = time.monotonic() + GRACE_SECONDS
        time.sleep(0.1)
    return failed or max(_shell_status(process.poll() or 0) for process in processes)


def _shell_status(status: int) -> int:
    """An exit status as a shell reports it: 128 and the number of the signal that ended the process."""
    return 128 - status if status < 0 else status
