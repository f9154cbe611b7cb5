"""The file `metrics.jsonl` of a training: one JSON object on each line, for one of its steps, in ascending order.

A line counts once its end is written, so a training may be killed while it writes one.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from cm.config.checking import check_known
from cm.config.settings import at_least, at_most
from cm.errors import UserError
from cm.utils import files

Positive = Annotated[float, at_least(0.0), at_most(1e30)]


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What a training measures after a step; a number that is not finite, or that the method does not have, is None.

    `step`: steps done. `loss`: mean loss per image over the steps since the measurement before. `gradient_norm`: the
    2-norm of the gradient of this step before it is clipped. `rate`: the learning rate of this step. `N`, `mu`: those
    of the curriculum at this step. `images_per_second`: since the measurement before. `memory`: bytes, the peak since
    the start of the process: of the GPU, or else of the process. `seconds`: of wall-clock time, over all starts.
    """

    step: Annotated[int, at_least(1), at_most(10**9)]
    loss: Annotated[float, at_least(-1e39), at_most(1e39)] | None
    gradient_norm: Positive | None
    rate: Positive
    N: Annotated[int, at_least(1), at_most(10**9)] | None
    mu: Annotated[float, at_least(0.0), at_most(1.0)] | None
    images_per_second: Positive
    memory: Annotated[int, at_least(0), at_most(2**60)]
    seconds: Positive

    @property
    def values(self) -> dict[str, float]:
        """The numbers by name, but for the step and for those that are None."""
        found = dataclasses.asdict(self)
        return {name: value for name, value in found.items() if name != "step" and value is not None}

    def to_line(self) -> bytes:
        """The line of the file."""
        return json.dumps(dataclasses.asdict(self)).encode() + b"\n"


def read_measurements(path: Path | str) -> list[Measurement]:
    """The measurements in a file, but for a last line without its end.

    Raises UserError, which names the line, for a file that is missing, that is not JSON, or whose steps do not rise.
    """
    if (size := files.check_regular(path).st_size) > files.LARGEST_JSON:
        raise UserError(f"{path} has {size} bytes, more than the {files.LARGEST_JSON} that are read of measurements")
    found: list[Measurement] = []
    for number, line in enumerate(_complete_lines(Path(path).read_bytes()), 1):
        where = f"{path}, line {number}"
        measurement = _parse(line, where)
        if found and measurement.step <= found[-1].step:
            raise UserError(f"{where}: step {measurement.step} does not follow step {found[-1].step}")
        found.append(measurement)
    return found


def find_end(data: bytes, step: int) -> int:
    """How many bytes of a file belong to the first `step` steps of a training, without what is damaged."""
    end, last = 0, 0
    for line in _complete_lines(data):
        try:
            measurement = _parse(line, "a measurement")
        except UserError:
            break
        if not last < measurement.step <= step:
            break
        end, last = end + len(line), measurement.step
    return end


def _complete_lines(data: bytes) -> Iterator[bytes]:
    """The lines that have an end, with it."""
    return (line for line in data.splitlines(keepends=True) if line.endswith(b"\n"))


def _parse(line: bytes, where: str) -> Measurement:
    values: Any = files.parse_json(line, where)
    if not isinstance(values, dict):
        raise UserError(f"{where}: expected the measurements of a step, not {str(values)[:100]}")
    return check_known(Measurement, values, where)
