"""How long a training took, and on which machine: the file that `cm train` leaves beside its models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cm.errors import UserError
from cm.report.scores import layout_of


@dataclass(frozen=True)
class TrainingSeconds:
    """The seconds of a training over all its starts: `wall`, and `processor`, those that the cores worked together.

    `hardware`: the machine of the last start, empty where it was not recorded.
    """

    wall: float
    processor: float
    hardware: str


def read_seconds(run: str, root: Path) -> TrainingSeconds:
    """The seconds of the training of a run, below a `results` folder.

    Raises UserError for a file that is missing, is not one of seconds, or says that a training took no time.
    """
    from cm.report.score_schema import check_seconds
    from cm.utils import files

    path = Path(layout_of(root).seconds(run))
    if not path.exists():
        raise UserError(f"no file {path}: `cm train` writes it when it has trained {run}")
    found = files.read_json(path)
    if not isinstance(found, dict) or not {"wall", "processor"} <= found.keys():
        raise UserError(f"{path} does not have the seconds of a training: expected 'wall' and 'processor'")
    seconds, hardware = {name: found[name] for name in ("wall", "processor")}, found.get("hardware", "")
    check_seconds(path, seconds)
    if not isinstance(hardware, str):
        raise UserError(f"{path}: 'hardware' must be text, not {str(hardware)[:40]}")
    if not seconds["wall"]:
        raise UserError(f"{path}: a training of 0 seconds of wall-clock time")
    return TrainingSeconds(float(seconds["wall"]), float(seconds["processor"]), hardware)
