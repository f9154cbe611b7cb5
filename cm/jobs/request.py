"""What a job asks a cluster for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from cm.errors import UserError

TRAINING_PREFIX = "cm_train_"  # how the names of the jobs of `cm launch` begin


@dataclasses.dataclass(frozen=True)
class Request:
    """The resources of a job.

    `minutes`: the time of one start. `requeues`: how many times it is started again when that is over. `grace_seconds`:
    how long before the end of its time it is told to save its state. `sbatch`: further options of sbatch, `NAME=VALUE`.
    """

    minutes: int
    nodes: int
    tasks: int
    cpus_per_task: int
    requeues: int
    grace_seconds: int
    sbatch: tuple[str, ...]

    def sbatch_options(self) -> Mapping[str, str]:
        """The further options of sbatch by their long names without dashes; UserError for one without a value."""
        options = {}
        for option in self.sbatch:
            name, separator, value = option.partition("=")
            if not separator or not name.strip("-"):
                raise UserError(f"--sbatch must be NAME=VALUE, not {option}")
            options[name.lstrip("-")] = value
        return options
