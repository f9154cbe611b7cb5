"""The command `status`."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import time
from pathlib import Path

import click

from cm import config
from cm.cli.options import FOLDER, Number
from cm.errors import UserError
from cm.status import text
from cm.status.runs import inspect_suite

CLEAR = "\x1b[2J\x1b[H"  # the screen of a terminal


@click.command()
@click.argument("suite", default="demo")
@click.option("--results", type=FOLDER, default=Path("results"), show_default=True, help="folder of the results")
@click.option("--watch", is_flag=True, help="show the states again and again, until Ctrl-C")
@click.option("--every", type=Number(0.1), default=5.0, show_default=True, help="seconds between, with --watch")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def status(suite: str, results: Path, *, watch: bool, every: float, as_json: bool) -> None:
    """List the runs of a suite, and how far they are.

    A run is finished, running, silent (on another machine, without a sign of life), failed, stopped or waiting. SUITE
    is the name of a suite or the file of one, by default demo.
    """
    if watch and as_json:
        raise UserError("give --watch or --json, not both")
    if not results.is_dir():
        raise UserError(f"no folder {results}: give --results, or start in the folder of the suite")
    loaded = config.load_suite(config.find_suite(suite))
    if as_json:
        found = inspect_suite(loaded, results)
        print(json.dumps({"suite": loaded.name, "runs": [dataclasses.asdict(one) for one in found]}, indent=1))
    elif watch:
        _watch(loaded, results, every)
    else:
        print(text.describe(loaded.name, inspect_suite(loaded, results)))


def _watch(suite: config.Suite, results: Path, every: float) -> None:
    """Print the states every few seconds; on a terminal, in place of those before, and no more than it has room for."""
    on_terminal = sys.stdout.isatty()
    try:
        while True:
            height = shutil.get_terminal_size().lines if on_terminal else None
            shown = text.describe(suite.name, inspect_suite(suite, results), height)
            print(f"{CLEAR}{shown}" if on_terminal else f"{shown}\n", flush=True)
            time.sleep(every)
    except KeyboardInterrupt:
        print()
