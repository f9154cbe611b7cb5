"""The state of each run of a suite: finished, running, silent, stopped, failed or waiting.

A training that runs holds the lock of its folder. If the process that the lock names is of another host, it counts as
running while files change, and as silent after that: nobody can know here whether it is alive.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cm.config import Run, Suite
from cm.config.layout import Layout
from cm.config.measurements import Measurement, read_measurements
from cm.status.logs import find_error
from cm.utils.locks import LockState, inspect_lock
from cm.utils.running import find_written

STATES = ("running", "silent", "failed", "stopped", "waiting", "finished")  # in the order in which they are listed
SILENCE_SECONDS = 1800.0  # after which a training of another host that has changed no file counts as silent
RECENT = 10  # measurements that state the speed


@dataclasses.dataclass(frozen=True)
class RunStatus:
    """The state of a run, one of STATES, and how far it is.

    `step`: of the last measurement. `seconds_left`: of a training that runs. `note`: what else is known, in words.
    """

    run: str
    state: str
    step: int
    total_steps: int
    loss: float | None = None
    images_per_second: float | None = None
    seconds_left: float | None = None
    note: str = ""


def inspect_suite(suite: Suite, results: Path) -> list[RunStatus]:
    """The state of every run that a suite needs, by state in the order of STATES.

    Raises UserError for a file of measurements that is damaged.
    """
    layout = Layout(str(results))
    models: dict[str, set[str]] = {}
    for cell in suite.required_cells():
        models.setdefault(cell.run.name, set()).add(cell.samples[1])
    written = find_written(Path(layout.logs))
    runs = suite.required_runs()
    found = [inspect_run(run, models.get(run.name, set()), layout, written) for run in runs]
    finished = {status.run for status in found if status.state == "finished"}
    named = [_name_inputs(status, run, suite, finished) for status, run in zip(found, runs, strict=True)]
    return sorted(named, key=lambda status: STATES.index(status.state))


def inspect_run(run: Run, models: Iterable[str], layout: Layout, written: Iterable[Path] = ()) -> RunStatus:
    """The state of a run of which models of these names are needed, and the last one.

    `written`: files that a process of this machine is writing. Raises UserError as `inspect_suite` does.
    """
    if run.released:
        return _inspect_release(run, layout)
    paths = [Path(layout.model(run.name, name)) for name in {"100", *models}]
    is_complete = all(path.exists() for path in (*paths, Path(layout.seconds(run.name))))
    lock = inspect_lock(Path(layout.lock(run.name)))
    if is_complete and not lock and not Path(layout.state(run.name)).exists():
        return RunStatus(run.name, "finished", run.training.total_steps, run.training.total_steps)
    return _inspect_unfinished(run, lock, layout, {path.resolve() for path in written})


def _inspect_release(run: Run, layout: Layout) -> RunStatus:
    """The state of a run whose weights are published: it has no steps."""
    if Path(layout.model(run.name, 100)).exists():
        return RunStatus(run.name, "finished", 0, 0, note="published weights")
    error = find_error(Path(layout.log("release", run.name)))
    return RunStatus(run.name, "failed" if error else "waiting", 0, 0, note=error or "published weights")


def _inspect_unfinished(run: Run, lock: LockState | None, layout: Layout, written: set[Path]) -> RunStatus:
    metrics, log = Path(layout.metrics(run.name)), Path(layout.log("train", run.name))
    measured = read_measurements(metrics) if metrics.exists() else []
    state, note = _find_state(lock, run.name, layout, log.resolve() in written)
    if state == "waiting" and not note:
        if error := find_error(log):
            state, note = "failed", error
        elif measured or lock or Path(layout.state(run.name)).exists():
            state, note = "stopped", f"{lock.holder} died without a message" if lock else "the same command continues"
    return _measure(RunStatus(run.name, state, 0, run.training.total_steps, note=note), run, measured)


def _find_state(lock: LockState | None, run: str, layout: Layout, is_logging: bool) -> tuple[str, str]:
    """`running`, `silent` or `waiting`, and why, by what knows of processes and jobs."""
    if lock is not None and lock.alive:
        return "running", lock.holder
    if lock is not None and lock.alive is None:
        age = _seconds_since_change(layout.metrics(run), layout.state(run), layout.lock(run))
        if age < SILENCE_SECONDS:
            return "running", lock.holder
        return "silent", f"{lock.holder}: no file has changed for {age / 3600:.1f} h"
    if job := _read_job(Path(layout.jobs(run)) / "job.json"):
        return "waiting", f"job {job} has not started to train"
    return ("running", "starting") if is_logging else ("waiting", "")


def _seconds_since_change(*paths: str) -> float:
    """The seconds since the last change of one of the files, of which one at least exists."""
    times = [Path(path).stat().st_mtime for path in paths if Path(path).exists()]
    return time.time() - max(times, default=time.time())


def _read_job(path: Path) -> str | None:
    """The id of the job of a training that was submitted by `cm launch`."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        return str(json.loads(path.read_bytes())["id"])
    return None


def _measure(status: RunStatus, run: Run, measured: Sequence[Measurement]) -> RunStatus:
    """The status with what the measurements say of the progress."""
    if not measured:
        return status
    last, speeds = measured[-1], [one.images_per_second for one in measured[-RECENT:]]
    status = dataclasses.replace(status, step=last.step, loss=last.loss)
    speed = statistics.median(speeds)
    if status.state != "running" or not speed:
        return status
    left = (run.training.total_steps - last.step) * run.training.batch / speed
    return dataclasses.replace(status, images_per_second=speed, seconds_left=left)


def _name_inputs(status: RunStatus, run: Run, suite: Suite, finished: set[str]) -> RunStatus:
    """The status, which says what a waiting run waits for."""
    if status.state != "waiting" or status.note:
        return status
    inputs: Mapping[str, object] = suite.experiments.inputs(run)
    names = [other.name for other in inputs.values() if isinstance(other, Run) and other.name not in finished]
    return dataclasses.replace(status, note=f"needs {', '.join(names)}" if names else "")
