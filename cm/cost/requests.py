"""What profiles of Snakemake request for a suite, before anything is submitted: jobs, GPUs, cores, memory, hours."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from cm.cost.text import Row, hours, table
from cm.errors import UserError

WHOLE_SUITE = "all"  # the target that makes everything
HEADER = ("rule", "jobs", "GPUs", "cores", "memory (MB)", "run time (h)", "GPUs at a time", "hours", "GPU hours")


@dataclasses.dataclass(frozen=True)
class Request:
    """What a job of a rule requests.

    `local`: it runs where Snakemake runs. `submitted`: it requests something of the cluster, as a local one does that
    submits a job of its own. `memory`: MB on each node, `minutes`: run time, both None where the profile leaves them
    to the cluster. `cores`: of each of its `tasks`. `retries`: how often it is requested again if it fails.
    """

    rule: str
    local: bool
    submitted: bool
    retries: int
    gpus: int
    nodes: int
    tasks: int
    cores: int
    memory: int | None
    minutes: int | None

    @property
    def gpu_minutes(self) -> int:
        """GPUs times run time."""
        return self.gpus * (self.minutes or 0)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a command of Snakemake requests for a target.

    `jobs`, `gpus`: the most of them that it allows at a time, with None for GPUs without a limit.
    """

    command: str
    target: str
    jobs: int
    gpus: int | None
    requests: Sequence[Request]

    def gpus_at_a_time(self, requests: Iterable[Request]) -> int:
        """The most GPUs that these jobs have at a time, whatever the order in which they run."""
        together = sum(sorted((request.gpus for request in requests), reverse=True)[: self.jobs])
        return together if self.gpus is None else min(together, self.gpus)


def plan_jobs(suite: str, profiles: Sequence[str], target: str) -> Plan:
    """What Snakemake would request for a target of a suite with these profiles, of which the later wins for each key.

    `suite`: name or path. `target`: a rule or a file. Raises UserError, with the words of Snakemake, for its mistakes.
    """
    options = itertools.chain.from_iterable(("--profile", profile) for profile in profiles)
    arguments = [target, *options, "--config", f"suite={suite}"]
    done = subprocess.run([sys.executable, "-m", "cm.cost.dry_run", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"snakemake: {_last_error(done.stderr)}")
    document = json.loads(done.stdout)
    requests = [Request(**request) for request in document.pop("requests")]
    return Plan(shlex.join(["snakemake", *arguments]), target, **document, requests=requests)


def _last_error(text: str) -> str:
    """What stands behind the last `error: ` of an output, or else its last line, in one line."""
    *_, message = re.split(r"(?:^|: )error: ", text.strip(), flags=re.IGNORECASE | re.MULTILINE)
    return " ".join(message.split())


def describe_plan(plan: Plan, *, estimate: float) -> str:
    """A row for each kind of request, and their sum; what runs where Snakemake runs; how the sum is to be read.

    `estimate`: the GPU seconds of the suite by its FLOPs.
    """
    submitted = [request for request in plan.requests if request.submitted]
    here = Counter(request.rule for request in plan.requests if not request.submitted)
    blocks = [
        f"What `{plan.command}` requests if no file exists yet, by a dry run of Snakemake (--forceall)",
        _list_requests(plan, submitted),
        f"Run where Snakemake runs: {', '.join(f'{rule} {count:,}' for rule, count in sorted(here.items()))}.",
        "\n".join([*_note_limits(plan, submitted), *_note_gpu_hours(plan, submitted, estimate)]),
    ]
    return "\n\n".join(blocks)


def _note_limits(plan: Plan, requests: Sequence[Request]) -> Iterator[str]:
    limits = [f"{plan.jobs:,} jobs (`jobs`)"] if plan.jobs < sys.maxsize else []
    limits += [] if plan.gpus is None else [f"{plan.gpus:,} GPUs (`resources`)"]
    if limits:
        yield f"Queued or running at a time, at most: {' and '.join(limits)}."
    if own := sorted({request.rule for request in requests if request.local}):
        yield f"Running where Snakemake runs, and submitting jobs of their own: {', '.join(own)}."
    if unknown := sum(request.minutes is None for request in requests):
        yield f"The hours are without those of {unknown:,} jobs that state no run time (-)."


def _note_gpu_hours(plan: Plan, requests: Sequence[Request], estimate: float) -> Iterator[str]:
    if not any(request.gpus for request in requests):
        yield "No job requests a GPU."
        return
    requested = 60 * sum(request.gpu_minutes for request in requests)
    retried = 60 * sum((1 + request.retries) * request.gpu_minutes for request in requests)
    yield f"GPU hours estimated above from FLOPs, for the whole suite: {hours(estimate)}."
    yield f"GPU hours requested: {hours(requested)} at most, or {hours(retried)} if all jobs use all `retries`."
    if plan.target == WHOLE_SUITE and estimate > retried:
        yield "At that speed not all jobs can finish: raise `runtime` or `retries`, or request more GPUs for a job."


def _list_requests(plan: Plan, requests: Sequence[Request]) -> str:
    rows = [_request_row(plan, request, count) for request, count in sorted(Counter(requests).items(), key=_order)]
    total = ("sum", f"{len(requests):,}", "", "", "", "", f"{plan.gpus_at_a_time(requests):,}", *_sum_hours(requests))
    return table([HEADER, *rows, (), total])


def _order(item: tuple[Request, int]) -> tuple[int, int, str]:
    """Those with most GPU hours first, then those with most hours."""
    request, count = item
    return -count * request.gpu_minutes, -count * (request.minutes or 0), request.rule


def _request_row(plan: Plan, request: Request, count: int) -> Row:
    counts = {"nodes": request.nodes, "tasks": request.tasks}
    machines = [f"{number} {what}" for what, number in counts.items() if number > 1]
    return (
        ", ".join([request.rule, *machines]),
        f"{count:,}",
        f"{request.gpus:,}",
        f"{request.cores:,}",
        "-" if request.memory is None else f"{request.memory:,}",
        "-" if request.minutes is None else hours(60 * request.minutes),
        f"{plan.gpus_at_a_time([request] * count):,}",
        *_sum_hours([request] * count),
    )


def _sum_hours(requests: Sequence[Request]) -> Row:
    """Hours of all these jobs, and GPU hours."""
    minutes = sum(request.minutes or 0 for request in requests)
    return hours(60 * minutes), hours(60 * sum(request.gpu_minutes for request in requests))
