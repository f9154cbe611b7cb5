"""The command `card`: the model card of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from cm import config
from cm.checkpoints import descriptions, native
from cm.cli.options import experiments_option
from cm.cli.paths import IN_FILE, IN_SCORES, OUT_FILE, Command
from cm.config.layout import Layout
from cm.errors import UserError
from cm.report import result_files, results
from cm.report.card import find_origins, write_card
from cm.utils import files


@click.command(cls=Command)
@click.argument("model", type=IN_FILE)
@click.option(
    "--scores",
    type=IN_SCORES,
    multiple=True,
    help="where its scores are, as for `cm results`; by default in the folder of results that the model is in",
)
@click.option("--url", help="where the scores are published, which the metadata name as their source")
@experiments_option
@click.option("--out", type=OUT_FILE, help="file to write, such as README.md; by default the card is printed")
def card(model: Path, scores: Sequence[Path], url: str | None, experiments: Path, out: Path | None) -> None:
    """Write the model card of a model.

    It says how the model was made, from which data, with which licences, how it scores, and how to load it, with
    metadata for a model hub.
    """
    description = native.description(model)
    descriptions.check_model(description, model)
    text = make_card(model, description, experiments, scores=scores, file=model.name, url=url)
    if out is None:
        print(text, end="")
        return
    with files.replace_file(out) as temporary:
        temporary.write_text(text, encoding="utf-8")


def make_card(
    model: Path, description: Mapping[str, Any], experiments: Path, scores: Sequence[Path] = (), **how: Any
) -> str:
    """The card of a model file; `how`: the named arguments of `write_card`.

    `scores`: where the scores are, by default in the folder of results that the model is in. Raises UserError for given
    scores of which none is of the model.
    """
    rows = _find_scores(model, scores or _find_results(model, description["run"]))
    if scores and not rows:
        raise UserError(f"no score of {model} in {', '.join(map(str, scores))}: their model_sha256 is another")
    return write_card(description, find_origins(description["run"], config.Experiments(experiments)), rows, **how)


def _find_results(model: Path, run: str) -> list[Path]:
    """The folder of the scores of a run, if the model is in a folder of results and has scores there."""
    place = Layout().parse_model(model.absolute().as_posix())
    if place.get("run") != run:
        return []
    folder = Path(Layout(place["results"]).score(run, place["progress"], "sampler", "protocol")).parents[1]
    return [folder] if folder.is_dir() else []


def _find_scores(model: Path, scores: Sequence[Path]) -> list[result_files.Row]:
    """The scores whose samples are of this model file."""
    if not scores:
        return []
    digest = files.sha256_of(model)
    return [row for row in results.read_rows(scores) if row.get("model_sha256") == digest]
