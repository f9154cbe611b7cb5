"""The command `claims`."""

from __future__ import annotations

from pathlib import Path

import click

from cm import config
from cm.cli.options import FOLDER
from cm.cli.paths import Command
from cm.errors import UserError


@click.command(cls=Command)
@click.option("--suite", default="demo", show_default=True, help="name of a suite, or the file of one")
@click.option("--results", type=FOLDER, default=Path("results"), show_default=True, help="folder of the results")
@click.option("--report", "as_report", is_flag=True, help="print the skeleton of a reproducibility report in Markdown")
def claims(suite: str, results: Path, *, as_report: bool) -> None:
    """Print the verdicts on the claims of the paper that the scores of a suite allow.

    A claim whose scores do not all exist yet is judged by the seeds for which they do. With --report, the verdicts
    stand in the skeleton of a report, with the scope, the methodology and the cost.
    """
    loaded = config.load_suite(config.find_suite(suite))
    chosen = next((one for one in loaded.artefacts.values() if one.kind == "claims"), None)
    if chosen is None:
        raise UserError(f"suite {loaded.name} has no artefact of the kind 'claims'")
    from cm.report import claims as judging
    from cm.report import reproducibility
    from cm.report.writing import markdown

    found = judging.judge(loaded, chosen, results, existing_only=True)
    if as_report:
        print(reproducibility.write_report(loaded, found, results), end="")
    else:
        print(markdown(judging.summarize(found, judging.explain(loaded, found)), chosen.caption), end="")
