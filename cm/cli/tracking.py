"""The options of a training about what it measures, and to whom it reports that."""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from cm.cli.options import WholeNumber, group
from cm.training.trackers import BY_DEFAULT, NO_TRACKER, TRACKERS, select_trackers


@dataclasses.dataclass(frozen=True)
class Tracking:
    """What a training measures. Nothing of it changes the weights. `tracker`: names as the command line has them."""

    tracker: tuple[str, ...]
    log_steps: int | None

    def settings(self) -> dict[str, Any]:
        """The settings of a plan. Raises UserError for a tracker that is unknown or not installed."""
        return {"trackers": select_trackers(self.tracker), "log_steps": self.log_steps}


tracking_options = group(
    "tracking",
    Tracking,
    click.option(
        "--tracker",
        multiple=True,
        envvar=TRACKERS,
        show_envvar=True,
        help=f"what else gets the numbers of metrics.jsonl, or `{NO_TRACKER}`; by default {', '.join(BY_DEFAULT)}, if "
        "it is installed",
    ),
    click.option(
        "--log-steps",
        type=WholeNumber(1),
        help="steps between two lines of metrics.jsonl; by default a 200th of the training, at most 100",
    ),
)
