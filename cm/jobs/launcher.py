"""Submit a training as a job, wait for it, and find it again after this process was killed.

The folder of the jobs of one training holds the record of the job that is queued or running, `job.json`. A launcher
that finds a record continues to wait for that job, unless the training has other settings now. So there are never two
jobs of one training, however often Snakemake is killed and started.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from cm.errors import Interrupted, UserError
from cm.jobs.clusters import CLUSTERS, Cluster
from cm.jobs.request import TRAINING_PREFIX, Request
from cm.jobs.task import JobFiles, Task
from cm.training.signals import handle_signals
from cm.utils import files
from cm.utils.locks import hold_lock

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclasses.dataclass(frozen=True)
class Training:
    """A training as a job sees it.

    `command`: to run. `key`: what names its settings; a job of another key is cancelled. `folder`: of its jobs.
    `state`: the file that the command replaces as it gets on. `outputs`: the files that it leaves in the end.
    """

    command: Sequence[str]
    key: str
    folder: Path
    state: Path
    outputs: Sequence[Path]


def launch_job(training: Training, request: Request, cluster_name: str) -> int:
    """Submit a training, or find the job that was submitted, wait for its end, and return its exit status.

    What the job prints is printed here too. Ctrl-C cancels the job; SIGTERM and SIGHUP leave it running. Raises
    UserError if the job is refused or dies without a result, and Interrupted after a signal.
    """
    cluster = CLUSTERS[cluster_name]()
    training.folder.mkdir(parents=True, exist_ok=True)
    with hold_lock(training.folder / "lock", f"the job of {training.folder}"):
        job_id = _find_job(training, cluster) or _submit_job(training, request, cluster)
    record = JobFiles(training.folder, job_id)
    with handle_signals(SIGNALS, functools.partial(_interrupt, cluster, record)):
        status = _wait(cluster, record)
    if status == 0 and _collect(training, record):
        shutil.rmtree(training.folder, ignore_errors=True)
        return 0
    _record_path(training.folder).unlink(missing_ok=True)
    return status or 1


def _record_path(folder: Path) -> Path:
    return folder / "job.json"


def _find_job(training: Training, cluster: Cluster) -> str | None:
    """The job of this training that is queued, runs, or was not collected; cancels one of other settings."""
    path = _record_path(training.folder)
    if path.exists():
        recorded = _read_record(path)
    else:
        recorded = {"id": cluster.find(_job_name(training.folder)), "key": training.key}
    job_id = recorded["id"]
    if job_id is None:
        return None
    has_ended = JobFiles(training.folder, job_id).status.exists()
    if not has_ended and cluster.is_alive(job_id) is False:
        return None
    if recorded["key"] != training.key:
        _say(f"job {job_id} has other settings: it is cancelled")
        _cancel(cluster, job_id)
        return None
    _say(f"job {job_id} was submitted before: waiting for it")
    files.write_json(path, recorded)
    return str(job_id)


def _read_record(path: Path) -> dict[str, Any]:
    """The record of a job; UserError for a damaged one, because its job may be running."""
    recorded = files.read_json(path)
    is_record = isinstance(recorded, dict) and isinstance(recorded.get("key"), str)
    if not is_record or not re.fullmatch("[0-9]{1,18}", str(recorded.get("id")), re.ASCII):
        raise UserError(f"{path} does not name a job: cancel the job of this training, if it runs, and remove the file")
    return {"id": str(recorded["id"]), "key": recorded["key"]}


def _read_status(path: Path) -> int:
    """The exit status that a job has recorded; 1 if what it recorded is damaged."""
    try:
        status = files.read_json(path)["status"]
    except (UserError, LookupError, TypeError):
        return 1
    return status if type(status) is int and 0 <= status < 256 else 1


def _submit_job(training: Training, request: Request, cluster: Cluster) -> str:
    """Submit a new job and record it."""
    program = shutil.which(training.command[0])
    if program is None:
        raise UserError(f"no program {training.command[0]} on the path")
    task = Task(
        command=(program, *training.command[1:]),
        folder=training.folder.absolute(),
        state=training.state.absolute(),
        outputs=tuple(output.absolute() for output in training.outputs),
        environment=cluster.environment(),
        grace_seconds=request.grace_seconds * 0.8,
        seconds=request.minutes * 60,
    )
    name = _job_name(training.folder)
    job_id = cluster.submit(task, training.folder.absolute(), name, request)
    files.write_json(_record_path(training.folder), {"id": job_id, "key": training.key})
    _say(f"job {job_id} is submitted as {name}")
    return job_id


def _wait(cluster: Cluster, record: JobFiles) -> int:
    """The exit status of the job, once it has one, or 1 if it is dead; prints what the job prints."""
    shown, asked, last_alive = 0, 0.0, time.monotonic()
    while True:
        shown = _show_log(record.log, shown)
        if record.status.exists():
            _show_log(record.log, shown)
            status = _read_status(record.status)
            if 128 < status < 128 + signal.NSIG:
                name = signal.Signals(status - 128).name
                _say(f"job {record.job_id}: a process of the training was ended by {name}, and so were the others")
            return status
        if time.monotonic() - asked > cluster.poll_seconds:
            asked = time.monotonic()
            if cluster.is_alive(record.job_id) is not False:
                last_alive = asked
            elif asked - last_alive > cluster.gone_seconds:
                _say(f"job {record.job_id} {cluster.describe_end(record.job_id)} and left no result")
                return 1
        time.sleep(0.2)


def _show_log(path: Path, shown: int) -> int:
    """Print what a log has after the first `shown` bytes; returns how many it has now."""
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        file.seek(shown)
        text = file.read()
        sys.stdout.write(text.decode(errors="replace"))
        sys.stdout.flush()
        return shown + len(text)
    return shown


def _collect(training: Training, record: JobFiles) -> bool:
    """Restore outputs that were removed since the job wrote them; False if the job could not keep one."""
    for output in training.outputs:
        kept = record.kept(output.absolute())
        if not output.exists() and not kept.exists():
            _say(f"{output} was removed while job {record.job_id} ended: it must be trained again")
            return False
        if not output.exists():
            files.link_file(kept, output)
    return True


def _interrupt(cluster: Cluster, record: JobFiles, number: int, frame: FrameType | None) -> NoReturn:
    """End this process after a signal: Ctrl-C cancels the job, which goes on after the others."""
    with handle_signals(SIGNALS, signal.SIG_IGN):
        if number == signal.SIGINT:
            _cancel(cluster, record.job_id)
            _record_path(record.folder).unlink(missing_ok=True)
    what = "is cancelled" if number == signal.SIGINT else "goes on; the same command waits for it again"
    raise Interrupted(f"{signal.Signals(number).name}: job {record.job_id} {what}", 128 + number)


def _cancel(cluster: Cluster, job_id: str, seconds: float = 60.0) -> None:
    """Cancel a job, and wait until it has ended, so that it has saved its state."""
    cluster.cancel(job_id)
    end = time.monotonic() + seconds
    while cluster.is_alive(job_id) is not False and time.monotonic() < end:
        time.sleep(0.2)


def _say(line: str) -> None:
    print(line, flush=True)


def _job_name(folder: Path) -> str:
    """The name of the jobs of a training, which begins with its folder and which no other training of this user has."""
    run = "_".join(folder.parts[-4:])
    return f"{TRAINING_PREFIX}{run}_{files.sha256(os.fsencode(folder.absolute()))[:8]}"
