"""Where jobs run: on this machine, or on a cluster with Slurm. Both are submitted through submitit.

Whether a job of Slurm is alive is what the controller says (`squeue`), which needs no accounting.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import psutil
import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.helpers import clean_env

from cm.errors import UserError
from cm.jobs.request import Request
from cm.training.signals import handle_signals


class Cluster(Protocol):
    """Where jobs run."""

    poll_seconds: float  # between two questions whether a job is alive
    gone_seconds: float  # after which a job that is not alive, and has left no result, counts as dead

    def environment(self) -> dict[str, str]:
        """Variables of this process that a job needs and would not get."""

    def submit(self, task: Callable[[], None], folder: Path, name: str, request: Request) -> str:
        """Submit a job of that name, whose files go to `folder`; returns its id. UserError if it is refused."""

    def find(self, name: str) -> str | None:
        """The id of a job of this name that is queued or running, if there is one that nobody has recorded."""

    def is_alive(self, job_id: str) -> bool | None:
        """Whether the job is queued or running; None if that cannot be known now."""

    def describe_end(self, job_id: str) -> str:
        """What is known of how a dead job ended."""

    def cancel(self, job_id: str) -> None:
        """End a job."""


class Local:
    """Jobs on this machine, which go on when whoever submitted them is killed."""

    poll_seconds, gone_seconds = 1.0, 2.0

    def environment(self) -> dict[str, str]:
        """The GPUs that are visible here; submitit would hide them all."""
        return {name: os.environ[name] for name in ("CUDA_VISIBLE_DEVICES",) if name in os.environ}

    def submit(self, task: Callable[[], None], folder: Path, name: str, request: Request) -> str:
        """Start the job; its id is the number of the process that watches over it, and when that was started."""
        if request.nodes > 1 or request.tasks > 1:
            raise UserError(f"{name}: a job of this machine is one task, which starts further processes itself")
        executor = submitit.LocalExecutor(folder, max_num_timeout=request.requeues)
        executor.update_parameters(
            timeout_min=request.minutes, signal_delay_s=request.grace_seconds, stderr_to_stdout=True
        )
        # Ctrl-C and a terminal that is closed end the launcher, which decides what happens to the job.
        with handle_signals((signal.SIGINT, signal.SIGHUP), signal.SIG_IGN):
            return str(executor.submit(task).job_id)

    def find(self, name: str) -> str | None:
        """None: a job of this machine is recorded at once."""
        return None

    def is_alive(self, job_id: str) -> bool | None:
        """Whether the process that watches over the job runs."""
        try:
            process = psutil.Process(int(job_id))
            return "submitit" in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def describe_end(self, job_id: str) -> str:
        """Nothing is known of a process that was killed."""
        return "was killed"

    def cancel(self, job_id: str) -> None:
        """Ask the process that watches over the job to end it."""
        if self.is_alive(job_id):
            os.kill(int(job_id), signal.SIGTERM)


class Slurm:
    """Jobs of Slurm."""

    poll_seconds, gone_seconds = 10.0, 30.0

    def environment(self) -> dict[str, str]:
        """Nothing: sbatch hands the environment over."""
        return {}

    def submit(self, task: Callable[[], None], folder: Path, name: str, request: Request) -> str:
        """Submit the job with sbatch."""
        if not shutil.which("sbatch"):
            raise UserError("no sbatch on this machine: jobs of Slurm can be submitted where Slurm is installed")
        per_node, rest = divmod(request.tasks, request.nodes)
        if rest or not per_node:
            raise UserError(f"{name}: {request.tasks} tasks cannot be divided among {request.nodes} nodes")
        options: dict[str, Any] = {"requeue": True, **request.sbatch_options()}
        try:
            with clean_env():
                executor = submitit.SlurmExecutor(folder, max_num_timeout=request.requeues)
                executor.update_parameters(
                    job_name=name,
                    time=request.minutes,
                    nodes=request.nodes,
                    ntasks_per_node=per_node,
                    cpus_per_task=request.cpus_per_task,
                    signal_delay_s=request.grace_seconds,
                    stderr_to_stdout=True,
                    # srun does not take over the processors of a task; one dead task ends the others.
                    srun_args=[f"--cpus-per-task={request.cpus_per_task}", "--kill-on-bad-exit=1"],
                    additional_parameters=options,
                )
                return str(executor.submit(task).job_id)
        except (FailedJobError, FailedSubmissionError) as error:
            raise UserError(f"{name}: sbatch refuses the job: {' '.join(str(error).split())}") from None

    def find(self, name: str) -> str | None:
        """A job that was submitted by a process that died before it could record the job."""
        jobs = self._squeue("--name", name)
        return next(iter(jobs), None) if jobs else None

    def is_alive(self, job_id: str) -> bool | None:
        """Whether the controller still has the job; None if it does not answer."""
        jobs = self._squeue()
        return None if jobs is None else job_id in jobs

    def describe_end(self, job_id: str) -> str:
        """The state in which the controller remembers the job."""
        shown = self._call("scontrol", "show", "job", "--oneliner", job_id) or ""
        fields = dict(word.split("=", 1) for word in shown.split() if "=" in word)
        return f"ended in the state {fields['JobState']}" if "JobState" in fields else "has left the queue"

    def cancel(self, job_id: str) -> None:
        """Cancel the job; a training saves its state before Slurm kills it."""
        self._call("scancel", job_id)

    def _squeue(self, *options: str) -> list[str] | None:
        """The ids of jobs of this user that are queued or running; None if the controller does not answer."""
        out = self._call("squeue", "--noheader", f"--user={os.getuid()}", "--format=%i", *options)
        return None if out is None else out.split()

    def _call(self, *command: str) -> str | None:
        """The output of a command of Slurm; None if it fails."""
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout if done.returncode == 0 else None


CLUSTERS: dict[str, type[Cluster]] = {"local": Local, "slurm": Slurm}
