"""The score file of an edit: read and checked."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cm.config.runs import RunName
from cm.errors import UserError

NUMBERS = ("psnr", "ssim", "lpips", "fid", "known")
REQUIRED = ("edit", "run", "nfe", "images", "source", "methods", "protocol", "extractor", "perceptual")


@dataclasses.dataclass(frozen=True)
class EditScore:
    """The scores of an edit with one model.

    `dataset`: of the model. `methods`: from `model` and each baseline to its numbers, None for one that is unavailable.
    `images`: how many were edited, the first of `source`. `protocol`, `extractor`, `perceptual`: the names of what
    compares them.
    """

    path: Path
    dataset: str
    edit: str
    nfe: int
    images: int
    source: str
    protocol: str
    extractor: str
    perceptual: str | None
    methods: Mapping[str, Mapping[str, Any]]

    def interval(self, method: str) -> tuple[float, float] | None:
        """Low and high end of the bootstrap interval of the FID of a method, None if there is no interval."""
        ends = self.methods[method]["uncertainty"].get("fid", {})
        return (ends["low"], ends["high"]) if {"low", "high"} <= set(ends) else None


def read_edit_score(path: Path) -> EditScore:
    """The score file of an edit.

    Raises UserError for a file that is missing, is not such a score, or has a number that is not finite.
    """
    from cm.utils import files

    if not path.exists():
        raise UserError(f"no score {path}: run snakemake '{path}'")
    found = files.read_json(path)
    for key in REQUIRED:
        if not isinstance(found, dict) or key not in found:
            raise UserError(f"{path} is not the score of an edit: it has no '{key}'")
    for part in ("methods", "protocol", "extractor"):
        if not isinstance(found[part], dict):
            raise UserError(f"{path}: {part} must be an object")
    for count in ("nfe", "images"):
        if type(found[count]) is not int or found[count] < 1:
            raise UserError(f"{path}: {count} must be a whole number of at least 1, not {found[count]!r:.60}")
    if "model" not in found["methods"]:
        raise UserError(f"{path}: its methods do not have 'model'")
    for name, numbers in found["methods"].items():
        _check_numbers(path, name, numbers)
    return EditScore(
        path=path,
        dataset=RunName.parse(str(found["run"])).dataset,
        edit=str(found["edit"]),
        nfe=found["nfe"],
        images=found["images"],
        source=str(found["source"]),
        protocol=str(found["protocol"].get("name")),
        extractor=str(found["extractor"].get("name")),
        perceptual=None if found["perceptual"] is None else str(found["perceptual"]),
        methods=found["methods"],
    )


def _check_numbers(path: Path, method: str, numbers: Any) -> None:
    """UserError unless a method has all numbers, each finite or None, and an interval of finite numbers or none."""
    if not isinstance(numbers, dict) or not {*NUMBERS, "uncertainty"} <= numbers.keys():
        raise UserError(f"{path}: method '{method}' must have {', '.join(NUMBERS)} and uncertainty")
    uncertainty = numbers["uncertainty"]
    ends = uncertainty.get("fid", {}) if isinstance(uncertainty, dict) else None
    if not isinstance(ends, dict):
        raise UserError(f"{path}: uncertainty of method '{method}' must be an object of objects")
    for name, value in [*((name, numbers[name]) for name in NUMBERS), *ends.items()]:
        if value is not None and (type(value) not in (int, float) or not math.isfinite(value)):
            raise UserError(f"{path}: {name} of method '{method}' is {value!r:.60}, not a finite number")
