"""What a network and a run cost, told before anything is started: `describe` is the text of the verb.

FLOPs count a multiply-add as two. Nothing is computed: networks are counted as shapes without memory (`counting`),
and objectives are asked how often they call their networks (`evaluations`).
"""

from __future__ import annotations

from pathlib import Path

from cm.config import Experiments, load_suite
from cm.errors import UserError

SUITES = Path("config/suites")


def describe(subject: str, *, batch: int = 1, rate: float = 1e14, experiments: Experiments | None = None) -> str:
    """The description of a run, of the suite of that name, or of the suite in that file.

    `batch`: images of the step whose memory is told; `rate`: FLOPs a second that a GPU is assumed to reach. UserError
    for a subject that is none of these, or not a sound one.
    """
    if not rate > 0:
        raise UserError(f"the rate of a GPU must be above 0, not {rate:g}")
    if subject.endswith(".yaml"):
        return _suite(Path(subject), rate)
    if "/" in subject:
        return _run(subject, experiments or Experiments(), batch=batch, rate=rate)
    return _suite(_path_of(subject), rate)


def _run(name: str, experiments: Experiments, *, batch: int, rate: float) -> str:
    run = experiments.run(name)
    experiments.inputs(run)
    from cm.cost import pages

    return pages.of_run(run, experiments, batch=batch, rate=rate)


def _suite(path: Path, rate: float) -> str:
    suite = load_suite(path)
    from cm.cost import pages

    return pages.of_suite(suite, rate=rate)


def _path_of(name: str) -> Path:
    path = SUITES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(one.stem for one in SUITES.glob("*.yaml"))) or "none"
        raise UserError(
            f"'{name}' is neither a run, <dataset>/<method>/<variant>/seed<seed>, nor a suite; known suites: {known}"
        )
    return path
