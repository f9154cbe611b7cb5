"""The skeleton of a reproducibility report in Markdown, after the template of the ML Reproducibility Challenge.

What follows from the files is filled in: claims with their verdicts, data, hyper-parameters, protocols, versions and
cost. What only an author can say is left open and marked.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cm.report import claims, footnotes, headings, scores
from cm.report.training_seconds import read_seconds
from cm.report.verdicts import VERDICTS, Verdict
from cm.report.writing import markdown, table

if TYPE_CHECKING:
    from cm.config import Run, Suite
    from cm.report.scores import Score

OPEN = "*To be written by the author: {}.*"
PAPER = 'Y. Song, P. Dhariwal, M. Chen and I. Sutskever, "Consistency Models", ICML 2023, arXiv 2303.01469'


def write_report(suite: Suite, found: Sequence[Verdict], root: Path) -> str:
    """The report on a suite as Markdown. `found`: the verdicts; costs are read from the results below `root`."""
    sections = [
        ("# [Re] Consistency Models", f"A reproduction of {PAPER}. Suite `{suite.name}`."),
        ("## Reproducibility summary", _summarize(suite, found)),
        ("## 1 Introduction", OPEN.format("what the paper proposes, and why it is reproduced")),
        ("## 2 Scope of reproducibility", _list_claims(found)),
        ("## 3 Methodology", OPEN.format("what was taken from the authors, and what was written anew")),
        ("### 3.1 Models", _list_models(suite)),
        ("### 3.2 Data sets", _list_datasets(suite)),
        ("### 3.3 Hyper-parameters", _list_settings(suite)),
        ("### 3.4 Experimental setup and code", _describe_setup(suite, found)),
        ("### 3.5 Computational requirements", _state_cost(suite, root)),
        ("## 4 Results", _count_verdicts(found)),
        *_list_results(found),
        ("### Results beyond the paper", _list_additions(suite)),
        ("## 5 Discussion", OPEN.format("whether the results support the paper's claims, and what limits this report")),
        ("### What was easy", OPEN.format("what could be reproduced without effort")),
        ("### What was difficult", OPEN.format("what took time, what the paper leaves open")),
        ("### Communication with the authors", OPEN.format("what was asked, what was answered")),
    ]
    return "\n\n".join(f"{title}\n\n{text.strip()}" for title, text in sections) + "\n"


def _summarize(suite: Suite, found: Sequence[Verdict]) -> str:
    names = {verdict.measurement.name for verdict in found}
    sources = "; ".join(dict.fromkeys(verdict.measurement.claim.source for verdict in found))
    return "\n\n".join(
        [
            f"**Scope of reproducibility.** {len(names)} claims of the paper ({sources}).",
            f"**Methodology.** {len(suite.all_runs())} trainings of suite `{suite.name}`, see Section 3.",
            f"**Results.** {_count_verdicts(found)}",
            "**What was easy.** " + OPEN.format("one or two sentences"),
            "**What was difficult.** " + OPEN.format("one or two sentences"),
            "**Communication with the authors.** " + OPEN.format("one or two sentences"),
        ]
    )


def _count_verdicts(found: Iterable[Verdict]) -> str:
    counts = collections.Counter(verdict.word for verdict in found)
    holds, fails, undecided = (counts[word] for word in VERDICTS)
    words = [_agree(holds, "holds", "hold"), _agree(fails, "fails", "fail"), _agree(undecided, "is", "are")]
    return f"Verdicts on {counts.total()} claims and metrics: {', '.join(words)} undecided."


def _agree(count: int, singular: str, plural: str) -> str:
    return f"{count} {singular if count == 1 else plural}"


def _list_claims(found: Iterable[Verdict]) -> str:
    lines = dict.fromkeys(
        f"- `{verdict.measurement.name}`: {verdict.measurement.claim.statement} ({verdict.measurement.claim.source})"
        for verdict in found
    )
    return "\n".join(lines)


# ---- methodology ----------------------------------------------------------------------------------------------------


def _list_models(suite: Suite) -> str:
    networks: dict[str, dict[str, None]] = {}
    for run in suite.all_runs():
        network = f"{run.describe()['network']['name']} on {run.dataset}"
        networks.setdefault(network, {})[run.method] = None
    return "\n".join(f"- {network}: {', '.join(methods)}" for network, methods in networks.items())


def _list_datasets(suite: Suite) -> str:
    lines = []
    for folder in dict.fromkeys(run.dataset for run in suite.all_runs()):
        data = suite.experiments.data(folder)
        settings = ", ".join(f"{key} {value}" for key, value in data.settings.items())
        lines.append(f"- {headings.dataset_title(data.name)}{f' ({settings})' if settings else ''}")
    return "\n".join(dict.fromkeys(lines))


def _list_settings(suite: Suite) -> str:
    """The first run of each method, in the order of the suite; the table `runs` of the suite has them all."""
    first: dict[tuple[str, str], Run] = {}
    for run in suite.all_runs():
        first.setdefault((run.dataset, run.method), run)
    rows = [
        {
            "data set": run.dataset,
            "method": run.method,
            "variant": run.variant,
            "steps": run.training.total_steps,
            "batch": run.training.batch,
            "learning rate": f"{run.training.lr:g}",
            "optimiser": run.describe()["training"]["optimiser"],
        }
        for run in first.values()
    ]
    return markdown(table(rows, ["All other settings stand in the experiment files."]))


def _describe_setup(suite: Suite, found: Iterable[Verdict]) -> str:
    used: list[Score] = []
    for verdict in found:
        used += [*verdict.measurement.runs, *verdict.measurement.reference]
    seeds = ", ".join(map(str, suite.seeds))
    lines = [f"Seeds {seeds}; a claim is tested over the seeds that both of its sides have."]
    if not used:
        return "\n\n".join([*lines, "There are no scores yet."])
    versions = "; ".join(sorted({f"{score.version}, commit {score.commit}" for score in used}))
    lines += footnotes.of_claims(used)
    return "\n\n".join([*lines, f"Packages: {versions}.", OPEN.format("where the code is, and the hardware")])


# ---- cost -----------------------------------------------------------------------------------------------------------


def _state_cost(suite: Suite, root: Path) -> str:
    """Hours of the trainings that have left their seconds, by method, and of the scores that exist."""
    runs: dict[tuple[str, str], list[Run]] = {}
    for run in suite.all_runs():
        runs.setdefault((run.dataset, run.method), []).append(run)
    rows = [_cost_row(dataset, method, group, root) for (dataset, method), group in runs.items()]
    notes = ["Hours of wall-clock time and of the processor's cores, of the trainings that are finished."]
    return markdown(table(rows, [*notes, _cost_of_scores(suite, root), OPEN.format("the hardware and its price")]))


def _cost_row(dataset: str, method: str, runs: Sequence[Run], root: Path) -> dict[str, Any]:
    layout = scores.layout_of(root)
    finished = [run for run in runs if Path(layout.seconds(run.name)).exists()]
    seconds = [read_seconds(run.name, root) for run in finished]
    return {
        "data set": dataset,
        "method": method,
        "trainings": len(runs),
        "finished": len(finished),
        "wall hours": sum(one.wall for one in seconds) / 3600,
        "core hours": sum(one.processor for one in seconds) / 3600,
    }


def _cost_of_scores(suite: Suite, root: Path) -> str:
    cells = {scores.score_path(cell, root): cell for cell in suite.all_cells() if not cell.edit}
    existing = [cell for path, cell in cells.items() if path.exists()]
    spent: collections.Counter[str] = collections.Counter()
    for cell in existing:
        spent.update(scores.read(cell, root).seconds)
    parts = ", ".join(f"{seconds / 3600:.2f} h of {what}" for what, seconds in spent.items())
    return f"{len(existing)} of {len(cells)} scores exist{f': {parts}' if parts else ''}."


# ---- results --------------------------------------------------------------------------------------------------------


def _list_results(found: Sequence[Verdict]) -> list[tuple[str, str]]:
    """A section for each source, with a table of its claims."""
    sources: dict[str, list[Verdict]] = {}
    for verdict in found:
        sources.setdefault(verdict.measurement.claim.source, []).append(verdict)
    return [
        (f"### {source}", f"{markdown(claims.summarize(group))}\n{OPEN.format('what these results mean')}")
        for source, group in sources.items()
    ]


def _list_additions(suite: Suite) -> str:
    lines = [f"- `{name}`: {one.caption.strip()}" for name, one in suite.all_artefacts.items() if not one.paper]
    return "\n".join(lines) or OPEN.format("what was tried that is not in the paper")
