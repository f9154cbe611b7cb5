"""What runs within a job: the command of a training, started anew by the scheduler as often as is useful.

submitit starts this in every task of the job, and again after each requeue. The first task keeps the record of the
job: how far the training was at the last start, the files that it has written, and how it ended.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import DelayedSubmission

from cm.training.launch import supervise
from cm.utils import files

STARTS_WITHOUT_PROGRESS = 3  # a job may be preempted, or lose its node, before it could save anything


@dataclasses.dataclass(frozen=True)
class JobFiles:
    """The files of the job `job_id` in the folder of all jobs of one training."""

    folder: Path
    job_id: str

    @property
    def log(self) -> Path:
        """What the first task prints, over all starts."""
        return self.folder / f"{self.job_id}_0_log.out"

    @property
    def status(self) -> Path:
        """The exit status, once the job has ended by itself."""
        return self.folder / f"{self.job_id}_status.json"

    @property
    def start(self) -> Path:
        """The state from which the job was started last, and how many starts were from that state."""
        return self.folder / f"{self.job_id}_start.json"

    def kept(self, output: Path) -> Path:
        """A second name of an output, so that the output can be restored until somebody has collected the result."""
        return self.folder / f"{self.job_id}_{output.name}"


@dataclasses.dataclass(frozen=True)
class Task:
    """A command of a training, as submitit calls it in each task of the job.

    `folder`: of the jobs of this training. `state`: the file that the command replaces as it gets on. `outputs`: the
    files that it leaves in the end. `environment`: variables that it needs beside those of the job. `grace_seconds`:
    how long it may take to save its state after a warning. `seconds`: the time of one start.
    """

    command: tuple[str, ...]
    folder: Path
    state: Path
    outputs: tuple[Path, ...]
    environment: Mapping[str, str]
    grace_seconds: float
    seconds: float

    def __call__(self) -> None:
        """Run the command to its end; exits with its status if it fails."""
        record, is_first = self._record(), submitit.JobEnvironment().global_rank == 0
        if is_first:
            self._record_start(record)
        status = self._run()
        if status == 0 and is_first:
            for output in filter(Path.exists, self.outputs):
                files.link_file(output, record.kept(output))
        if status or is_first:
            self._end(status)

    def checkpoint(self) -> DelayedSubmission:
        """Let the command save its state, and say how the next start continues: as this one, from the saved state.

        submitit calls it in the first task when the time of the job is nearly over, or when the job is preempted.
        """
        before, end = self._signature(), time.monotonic() + self.grace_seconds
        if callable(signal.getsignal(signal.SIGUSR1)):
            signal.raise_signal(signal.SIGUSR1)
            while self._signature() == before and time.monotonic() < end:
                time.sleep(0.1)
        start = self._record().start
        lasted = time.time() - start.stat().st_mtime
        if lasted > self.seconds / 2 and files.read_json(start)["state"] == self._signature():
            self._stop(f"nothing was saved in {lasted:.0f} s: the job needs more time")
        return DelayedSubmission(self)

    def _record(self) -> JobFiles:
        return JobFiles(self.folder, submitit.JobEnvironment().job_id)

    def _record_start(self, record: JobFiles) -> None:
        """Record the state from which this start continues; exits if too many starts continued from the same."""
        now: dict[str, Any] = {"state": self._signature(), "starts": 1}
        if record.start.exists():
            last = files.read_json(record.start)
            now["starts"] += last["starts"] if last["state"] == now["state"] else 0
        if now["starts"] > STARTS_WITHOUT_PROGRESS:
            self._stop(f"it was started {STARTS_WITHOUT_PROGRESS} times without saving a new state")
        files.write_json(record.start, now)

    def _stop(self, reason: str) -> None:
        """End a job that would be started again and again for nothing."""
        print(f"the training makes no progress and is not started again: {reason}", flush=True)
        self._end(1)

    def _end(self, status: int) -> None:
        """Record how the job ended; exits if it failed."""
        files.write_json(self._record().status, {"status": status})
        if status:
            sys.exit(status)

    def _run(self) -> int:
        """Run the command; returns its exit status.

        Slurm sends the warning of submitit, SIGUSR2, to the command as well. While Slurm ends a job that submitit has
        put back into the queue, it may kill the very command that did so, which submitit would report as an error.
        """
        try:
            return supervise(self.command, [self.environment], ignored=[signal.SIGUSR2])
        except subprocess.CalledProcessError as error:
            if error.returncode in (-signal.SIGTERM, -signal.SIGKILL):
                sys.exit("this job goes back into the queue")
            raise

    def _signature(self) -> list[int] | None:
        """What changes whenever the state is saved; None while there is no state."""
        try:
            about = os.stat(self.state)
        except FileNotFoundError:
            return None
        return [about.st_ino, about.st_mtime_ns, about.st_size]
