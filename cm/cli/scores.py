"""The commands about scores: `weights`, `featurize`, `score`, `draw` and `schema`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from cm import config
from cm.cli.options import (
    FOLDER,
    IMAGES,
    Comparison,
    ExtractionOptions,
    Scoring,
    comparison_options,
    extraction_options,
    scoring_options,
)
from cm.cli.paths import IN_FILE, OUT_FILE, OUT_FOLDER, Command
from cm.utils import files


@click.command(cls=Command)
@click.option("--name", required=True, help="inception, dinov2, lpips-vgg16 or lpips-alexnet")
@click.option("--source", type=IN_FILE, help="file to read; by default it is fetched to $CM_CACHE")
@click.option("--out", type=OUT_FILE, required=True, help="file to write")
def weights(name: str, source: Path | None, out: Path) -> None:
    """Write pretrained weights of Inception, DINOv2 or LPIPS."""
    from cm.evaluation import pretrained

    pretrained.write_weights(name, out, source)


images_argument = click.argument("images", type=IMAGES)


@click.command(cls=Command)
@images_argument
@scoring_options
@click.option(
    "--statistics",
    type=IN_FILE,
    help="file whose mean and covariance are taken instead of computed; by default the protocol's, if it names one",
)
@click.option("--out", type=OUT_FILE, required=True, help=".npz file to write")
@click.option("--compact", is_flag=True, help="only the mean and covariance, computed anew: small enough to publish")
@extraction_options
def featurize(
    images: Path,
    scoring: Scoring,
    statistics: Path | None,
    *,
    out: Path,
    compact: bool,
    extraction: ExtractionOptions,
) -> None:
    """Summarize the features of real images.

    All scores by a protocol compare with this summary. An interrupted computation is continued.

    IMAGES is a folder, a zip, a .npz or a .npy of 8-bit images; arrays are [N, H, W, C].
    """
    protocol = scoring.read()
    if compact:
        protocol, statistics = dataclasses.replace(protocol, statistics=None), None
    compute, make_extractor = extraction.select(), scoring.make_extractor(protocol)
    from cm.evaluation import features, reference
    from cm.evaluation.scoring import summarize_reference

    found, about = summarize_reference(
        images, protocol=protocol, make_extractor=make_extractor, statistics=statistics, compute=compute
    )
    if compact:
        reference.pack(out, *found.moments(), about)
    else:
        features.write(out, found, about)


@click.command(cls=Command)
@images_argument
@comparison_options
@click.option("--out", type=OUT_FILE, required=True, help=".json file to write")
@extraction_options
def score(images: Path, comparison: Comparison, *, out: Path, extraction: ExtractionOptions) -> None:
    """Score images against real images by a protocol.

    Computes the metrics of the protocol, such as FID, KID, precision and recall.

    IMAGES is a folder, a zip, a .npz or a .npy of 8-bit images; arrays are [N, H, W, C].
    """
    protocol = comparison.read()
    compute, make_extractor = extraction.select(), comparison.make_extractor(protocol)
    from cm.evaluation.scoring import score_images

    result = score_images(
        images, comparison.reference, protocol=protocol, make_extractor=make_extractor, compute=compute
    )
    files.write_json(out, result)


@click.command(cls=Command)
@click.option("--suite", type=IN_FILE, required=True, help="suite file")
@click.option("--artefact", required=True, help="name of a table, a figure or an ablation of the suite")
@click.option("--results", type=FOLDER, default=Path("results"), show_default=True, help="folder of the results")
@click.option("--out", type=OUT_FOLDER, default=Path("reports"), show_default=True, help="folder to write")
def draw(suite: Path, artefact: str, results: Path, out: Path) -> None:
    """Draw a table or a figure of a suite from its scores."""
    from cm import report

    report.draw(config.load_suite(suite), artefact, results, out, _FlopCounter())


class _FlopCounter:
    """Counts FLOPs; torch is imported when something is counted."""

    def of_evaluation(self, run: config.Run) -> int:
        from cm.cost import counting

        return counting.flops(run)

    def of_training(self, run: config.Run, experiments: config.Experiments) -> int:
        from cm.cost import costs

        return costs.training_flops(run, experiments)


@click.command(cls=Command)
@click.option("--out", type=OUT_FOLDER, default=Path("workflow/schemas"), show_default=True, help="folder to write")
def schema(out: Path) -> None:
    """Write JSON Schemas of the configuration files.

    Editors complete and check experiment, suite and protocol files by them.
    """
    from cm.config.schema import write_schemas

    write_schemas(out)
