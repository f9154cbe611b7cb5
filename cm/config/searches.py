"""Results of `cm search`: the time points of multistep sampling, and every FID that was measured to find them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

from cm.config.checking import check, check_known
from cm.config.runs import RunName
from cm.config.settings import at_least, at_most
from cm.errors import UserError

Time = Annotated[float, at_least(0.0), at_most(1e6)]
Distance = Annotated[float, at_least(0.0), at_most(1e30)]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The FID with a time point at `time`; `low` and `high` are the ends of its 95 % bootstrap interval."""

    time: Time
    fid: Distance
    low: Distance
    high: Distance


@dataclasses.dataclass(frozen=True)
class Violation:
    """A pair of times that contradicts an FID with a single minimum, of which the ternary search makes use.

    From the chosen time over `nearer` to `farther` FID must not fall, but it falls by `drop`. `within_intervals`:
    whether the intervals of the two overlap, so that the samples may be the reason.
    """

    nearer: Time
    farther: Time
    drop: Distance
    within_intervals: bool


@dataclasses.dataclass(frozen=True)
class PointSearch:
    """The search for one time point after the points `fixed`.

    `candidates`: the number of times among which `time` was chosen. `evaluations`: all that were made, by decreasing
    time. `at_end`: whether the chosen time is the first or the last of the candidates.
    """

    fixed: tuple[Time, ...]
    candidates: Annotated[int, at_least(1), at_most(10**4)]
    time: Time
    at_end: bool
    evaluations: tuple[Evaluation, ...]
    violations: tuple[Violation, ...]


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """The result of `cm search`.

    `times`: the chosen time points. `searches`: one for each of them. `run`, `progress`, `sampler`: what was searched.
    `samples`: how many were scored for each evaluation. `protocol`, `extractor`, `reference`,
    `versions`, `commit`, `quantization`: how, as in a score file.
    """

    run: str
    progress: Annotated[int, at_least(0), at_most(100)]
    sampler: str
    samples: Annotated[int, at_least(2), at_most(10**12)]
    times: tuple[Time, ...]
    searches: tuple[PointSearch, ...]
    protocol: dict[str, Any]
    extractor: dict[str, Any]
    reference: dict[str, Any]
    versions: dict[str, str]
    commit: str
    quantization: str | None = None


def read_search(path: Path) -> SearchResult:
    """The result of a search in a file.

    Raises UserError for a file that is missing or damaged, and for times that no sampler has.
    """
    from cm.utils import files

    if not path.exists():
        raise UserError(f"no result of a search {path}: `cm search` writes it")
    content = files.read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} is not the result of a search: expected a JSON object")
    found = check_known(SearchResult, content, str(path))
    RunName.parse(found.run)
    if list(found.times) != [search.time for search in found.searches]:
        raise UserError(f"{path}: the chosen times {list(found.times)} are not those of its searches")
    for search in found.searches:
        if search.time not in [evaluation.time for evaluation in search.evaluations]:
            raise UserError(f"{path}: the chosen time {search.time:g} was not evaluated")
    return found


def check_point(value: Any, where: str) -> Evaluation:
    """One evaluation from plain values; UserError, which names `where`, for anything else."""
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected an evaluation, not {value!r:.60}")
    return check(Evaluation, value, where)


def read_search_of(sampler: str, path: Path) -> SearchResult:
    """The result of the search for the time points of a sampler; UserError as `read_search`, or for another sampler."""
    found = read_search(path)
    if found.sampler != sampler:
        raise UserError(f"{path} is the search of '{found.sampler}', not of '{sampler}'")
    return found
