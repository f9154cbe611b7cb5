"""The command `report`."""

from __future__ import annotations

import os
import urllib.parse
from pathlib import Path

import click

from cm import config
from cm.cli.options import FOLDER
from cm.cli.paths import IN_FILE, OUT_FILE, Command
from cm.config.layout import Layout


@click.command(cls=Command)
@click.option("--suite", type=IN_FILE, required=True, help="suite file")
@click.option("--results", type=FOLDER, default=Path("results"), show_default=True, help="folder of the results")
@click.option("--reports", type=FOLDER, default=Path("reports"), show_default=True, help="folder of the artefacts")
@click.option("--workflow-report", type=IN_FILE, help="Snakemake's own report, to which the page links")
@click.option("--out", type=OUT_FILE, required=True, help=".html file to write")
def report(suite: Path, results: Path, reports: Path, *, workflow_report: Path | None, out: Path) -> None:
    """Write the report of a suite as one HTML page.

    It shows what was run and every table and figure that has been drawn, and needs no network.
    """
    from cm.report import page
    from cm.utils import files

    link = ""
    if workflow_report is not None:
        files.check_regular(workflow_report)
        link = urllib.parse.quote(os.path.relpath(workflow_report, out.parent))
    layout = Layout(str(results), str(reports))
    page.write_page(config.load_suite(suite), suite, layout, out, link)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")
