"""Trackers: services and files, beside `metrics.jsonl`, to which a training reports its measurements.

A tracker is one class with a package that may be missing:

    @register("tracker", "tensorboard")
    class TensorBoard(Tracker): ...

Packages of trackers are imported when a training opens its trackers, and at no other time.
"""

from __future__ import annotations

import abc
import dataclasses
import importlib
import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from cm import registry
from cm.errors import UserError
from cm.registry import register

TRACKERS = "CM_TRACKERS"  # the variable with the names of the trackers, separated by spaces
NO_TRACKER = "none"
BY_DEFAULT = ("tensorboard",)  # where their packages are installed


@dataclasses.dataclass(frozen=True)
class TrackedRun:
    """What a tracker knows of a training.

    `name`: of the run. `folder`: of the run, for files of the tracker. `identifier`: the same for all starts that
    continue one another, and another one for a training that starts anew. `step`: the steps done before this start.
    `settings`: the description of the models.
    """

    name: str
    folder: Path
    identifier: str
    step: int
    settings: Mapping[str, Any]


class Tracker(abc.ABC):
    """Reports the measurements of one start of a training. `package`: what is imported, and the name of the extra."""

    package: ClassVar[str]

    @abc.abstractmethod
    def __init__(self, run: TrackedRun) -> None: ...

    @abc.abstractmethod
    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Report numbers by name after a step."""

    @abc.abstractmethod
    def close(self) -> None:
        """Report what has not been reported yet, at the end of this start."""


@register("tracker", "tensorboard")
class TensorBoard(Tracker):
    """Events in the folder `tensorboard` of the run; steps that are done again replace those of an earlier start."""

    package: ClassVar[str] = "tensorboard"

    def __init__(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=run.step + 1, flush_secs=10)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Service(Tracker):
    """A package with the functions `init`, `log` and `finish`, as W&B has. `project`: the variable of its project."""

    project: ClassVar[str]

    def __init__(self, run: TrackedRun) -> None:
        self._module = importlib.import_module(self.package)
        project = os.environ.get(self.project, "consistency-models")
        self._module.init(project=project, config=dict(run.settings), resume="allow", **self.identify(run))

    @abc.abstractmethod
    def identify(self, run: TrackedRun) -> dict[str, str]:
        """The arguments of `init` by which the service finds the run of an earlier start again."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._module.log(dict(values), step=step)

    def close(self) -> None:
        self._module.finish()


@register("tracker", "wandb")
class WeightsAndBiases(_Service):
    """A run of W&B, which ignores a step that it has already."""

    package: ClassVar[str] = "wandb"
    project: ClassVar[str] = "WANDB_PROJECT"

    def identify(self, run: TrackedRun) -> dict[str, str]:
        return {"id": run.identifier, "name": run.name, "dir": str(run.folder)}


@register("tracker", "trackio")
class Trackio(_Service):
    """A run of trackio, which knows runs by their names only; a step that is done again is there twice."""

    package: ClassVar[str] = "trackio"
    project: ClassVar[str] = "TRACKIO_PROJECT"

    def identify(self, run: TrackedRun) -> dict[str, str]:
        return {"name": f"{run.name}-{run.identifier[:8]}"}


def select_trackers(names: Sequence[str]) -> tuple[str, ...]:
    """The names of the trackers that a training has: the given ones, or else those by default that are installed.

    `none` alone stands for no tracker. Raises UserError for an unknown name, and for a package that is not installed.
    """
    if not names:
        return tuple(name for name in BY_DEFAULT if _is_installed(name))
    if NO_TRACKER in names:
        if len(names) > 1:
            raise UserError(f"trackers: '{NO_TRACKER}' stands alone, not beside {', '.join(names)}")
        return ()
    for name in names:
        package = registry.get("tracker", name).package
        if not _is_installed(name):
            raise UserError(f"tracker '{name}' needs the package {package}: install the extra '{package}'")
    return tuple(dict.fromkeys(names))


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(registry.get("tracker", name).package) is not None
