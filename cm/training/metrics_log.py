"""The log of a training: the lines of `metrics.jsonl`, and the trackers that have the same numbers.

The file always ends before or at the last step that was done. A start that continues from a state cuts the lines of
later steps, which it does again, so the file of a training that was killed is that of one that was not, but for times.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from cm import registry
from cm.config.layout import METRICS_FILE
from cm.config.measurements import Measurement, find_end
from cm.errors import UserError
from cm.training.optimisers import learning_rate
from cm.training.plan import Plan
from cm.training.state import TrainingState
from cm.training.trackers import TrackedRun, Tracker
from cm.utils import files


class MetricsLog:
    """Writes the measurements of one start of a training, in the first process. `trackers`: by name, those open."""

    def __init__(self, plan: Plan, state: TrainingState, file: int, trackers: dict[str, Tracker]) -> None:
        self._plan, self._state, self._file, self._trackers = plan, state, file, trackers
        self._path = plan.out / METRICS_FILE
        self._step, self._time = state.step, time.monotonic()

    def write(self, gradient_norm: float) -> None:
        """Write the line of the last step, whose gradient had this norm."""
        loss = self._state.losses.take()
        if not self._plan.processes.is_first:
            return
        measurement = self._measure(loss, gradient_norm if math.isfinite(gradient_norm) else None)
        with files.name_in_errors(self._path):
            os.write(self._file, measurement.to_line())
        for name, tracker in list(self._trackers.items()):
            if not _succeeds(name, functools.partial(tracker.log, measurement.step, measurement.values)):
                del self._trackers[name]

    def save(self) -> None:
        """Wait until all lines are on the disk, before a state that continues from them is written."""
        if self._plan.processes.is_first:
            os.fsync(self._file)

    def _measure(self, loss: float | None, gradient_norm: float | None) -> Measurement:
        training, step, now = self._plan.training, self._state.step, time.monotonic()
        images = (step - self._step) * training.batch
        rate, self._step, self._time = images / max(now - self._time, 1e-9), step, now
        times, mu = self._plan.objective.curriculum_at(step - 1, training.total_steps)
        return Measurement(
            step=step,
            loss=loss,
            gradient_norm=gradient_norm,
            rate=learning_rate(training, step - 1),
            N=times,
            mu=mu,
            images_per_second=round(rate, 3),
            memory=_peak_memory(torch.device(self._plan.device)),
            seconds=self._state.seconds["wall"],
        )


@contextlib.contextmanager
def open_log(plan: Plan, state: TrainingState) -> Iterator[MetricsLog]:
    """The log of a start that continues from `state`.

    Raises UserError, before a step is done, for a tracker that cannot be opened.
    """
    if not plan.processes.is_first:
        yield MetricsLog(plan, state, -1, {})
        return
    with contextlib.ExitStack() as stack:
        file = _open_file(plan, state.step)
        stack.callback(os.close, file)
        trackers: dict[str, Tracker] = {}
        for name in plan.trackers:
            trackers[name] = _open_tracker(name, plan, state)
            stack.callback(_succeeds, name, trackers[name].close)
        yield MetricsLog(plan, state, file, trackers)


def _open_file(plan: Plan, step: int) -> int:
    """The descriptor of the file, which has only lines of the first `step` steps now."""
    path = plan.out / METRICS_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    os.ftruncate(file, find_end(path.read_bytes(), step))
    return file


def _open_tracker(name: str, plan: Plan, state: TrainingState) -> Tracker:
    run = TrackedRun(plan.name, plan.out, state.identifier, state.step, plan.description)
    try:
        tracker: Tracker = registry.get("tracker", name)(run)
    except Exception as error:
        raise UserError(f"tracker '{name}' cannot be opened in {plan.out}: {_describe(error)}") from None
    return tracker


def _succeeds(name: str, report: Callable[[], Any]) -> bool:
    """Whether a tracker could report something; if not, a line says so, and the training goes on."""
    try:
        report()
    except Exception as error:
        print(f"tracker '{name}' failed and is not used any more: {_describe(error)}", flush=True)
        return False
    return True


def _describe(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _peak_memory(device: torch.device) -> int:
    """Bytes: the most that tensors took on a GPU, or that this process took, since it started."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def gradient_norm(parameters: Sequence[Tensor], scale: float) -> Tensor:
    """The 2-norm of all gradients together, divided by the `scale` of the loss; a tensor without axes."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients) / scale
