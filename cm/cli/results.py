"""The commands `results` and `published`: scores, and published numbers, as one table of data."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cm import api
from cm.cli.paths import IN_SCORES, OUT_FILE, Command
from cm.report import result_files

if TYPE_CHECKING:
    from pandas import DataFrame

out_option = click.option("--out", type=OUT_FILE, help=".csv or .parquet file to write; by default CSV is printed")


@click.command(cls=Command)
@click.argument("paths", metavar="PATH...", type=IN_SCORES, nargs=-1, required=True)
@click.option("--protocol", help="take the scores by this protocol")
@click.option("--mixed", is_flag=True, help="admit several protocols and numbers of samples, which do not compare")
@click.option("--origin", help="whose scores they are, as tables state it; by default their PATH")
@out_option
def results(paths: Sequence[Path], protocol: str | None, mixed: bool, origin: str | None, out: Path | None) -> None:
    """Collect scores in one table.

    PATH is a folder of results, a zip of one, a score file, or a table that this command wrote. There is a row for each
    score, with its run, sampler, protocol, metrics and commit. Scores that do not compare are refused.
    """
    _check(out)
    _write(api.results(paths, protocol=protocol, mixed=mixed, origin=origin), out)


@click.command(cls=Command)
@click.option("--table", help="table1 or table2 of the paper, or successors")
@click.option("--dataset", help="cifar10, imagenet64, lsun_bedroom or lsun_cat")
@out_option
def published(table: str | None, dataset: str | None, out: Path | None) -> None:
    """Write the published numbers of the paper and its successors.

    They have the columns of `cm results`.
    """
    _check(out)
    _write(api.published(table, dataset), out)


def _check(out: Path | None) -> None:
    if out is not None:
        result_files.check_suffix(out)


def _write(frame: DataFrame, out: Path | None) -> None:
    if out is None:
        sys.stdout.write(frame.to_csv(index=False))
    else:
        result_files.write(frame, out)
