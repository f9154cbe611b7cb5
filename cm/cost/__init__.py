"""What a network and a run cost, before anything is started; `describe` is the text that `cm describe` prints.

A multiply-add counts as two FLOPs. No network is evaluated on numbers: `counting` runs networks on shapes without
memory, and `evaluations` counts how often an objective calls its networks.
"""

from __future__ import annotations

from collections.abc import Sequence

from cm.config import Experiments, find_suite, load_suite, suite_names
from cm.cost.requests import WHOLE_SUITE, plan_jobs
from cm.errors import UserError
from cm.report.costs import GPU_FLOPS


def describe(
    subject: str,
    *,
    batch: int = 1,
    rate: float = GPU_FLOPS,
    experiments: Experiments | None = None,
    profiles: Sequence[str] = (),
    target: str = WHOLE_SUITE,
) -> str:
    """The description of a run, of the suite of that name, or of the suite in that file.

    `batch`: images of the training step whose memory is described. `rate`: FLOPs per second that a GPU is assumed to
    reach. `profiles`: those of Snakemake whose requests for `target` of a suite are described too. Raises UserError for
    a subject that is neither a run nor a suite, and for a mistake in its configuration or in the profiles.
    """
    if not rate > 0:
        raise UserError(f"the rate of a GPU must be above 0, not {rate:g}")
    if "/" in subject and not subject.endswith(".yaml"):
        if profiles:
            raise UserError(f"a profile is for the jobs of a suite, and '{subject}' is a run")
        return _describe_run(subject, experiments or Experiments(), batch=batch, rate=rate)
    return _describe_suite(subject, rate, profiles, target)


def _describe_run(name: str, experiments: Experiments, *, batch: int, rate: float) -> str:
    run = experiments.run(name)
    experiments.inputs(run)  # a mistake in them is reported before torch is imported
    from cm.cost import pages

    return pages.describe_run(run, experiments, batch=batch, rate=rate)


def _describe_suite(subject: str, rate: float, profiles: Sequence[str], target: str) -> str:
    if not subject.endswith(".yaml") and subject not in suite_names():
        known = ", ".join(suite_names()) or "none"
        raise UserError(
            f"'{subject}' is neither a run, <dataset>/<method>/<variant>/seed<seed>, nor a suite; known suites: {known}"
        )
    suite = load_suite(find_suite(subject))
    plan = plan_jobs(subject, profiles, target) if profiles else None
    from cm.cost import pages

    return pages.describe_suite(suite, rate=rate, plan=plan)
