"""What a network and a run cost, before anything is started; `describe` is the text that `cm describe` prints.

A multiply-add counts as two FLOPs. No network is evaluated on numbers: `counting` runs networks on shapes without
memory, and `evaluations` counts how often an objective calls its networks.
"""

from __future__ import annotations

from pathlib import Path

from cm.config import Experiments, load_suite
from cm.errors import UserError

SUITES = Path("config/suites")


def describe(subject: str, *, batch: int = 1, rate: float = 1e14, experiments: Experiments | None = None) -> str:
    """The description of a run, of the suite of that name, or of the suite in that file.

    `batch`: images of the training step whose memory is described. `rate`: FLOPs per second that a GPU is assumed to
    reach. Raises UserError for a subject that is neither a run nor a suite, or whose configuration has a mistake.
    """
    if not rate > 0:
        raise UserError(f"the rate of a GPU must be above 0, not {rate:g}")
    if subject.endswith(".yaml"):
        return _describe_suite(Path(subject), rate)
    if "/" in subject:
        return _describe_run(subject, experiments or Experiments(), batch=batch, rate=rate)
    return _describe_suite(_find_suite(subject), rate)


def _describe_run(name: str, experiments: Experiments, *, batch: int, rate: float) -> str:
    run = experiments.run(name)
    experiments.inputs(run)  # a mistake in them is reported before torch is imported
    from cm.cost import pages

    return pages.describe_run(run, experiments, batch=batch, rate=rate)


def _describe_suite(path: Path, rate: float) -> str:
    suite = load_suite(path)
    from cm.cost import pages

    return pages.describe_suite(suite, rate=rate)


def _find_suite(name: str) -> Path:
    path = SUITES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in SUITES.glob("*.yaml"))) or "none"
        raise UserError(
            f"'{name}' is neither a run, <dataset>/<method>/<variant>/seed<seed>, nor a suite; known suites: {known}"
        )
    return path
