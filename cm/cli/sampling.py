"""The commands that sample a model: `sample` and `evaluate`."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from cm import api, config
from cm.cli.options import (
    FOLDER,
    Comparison,
    Hardware,
    WholeNumber,
    comparison_options,
    experiments_option,
    group,
    hardware,
)
from cm.cli.paths import IN_FILE, OUT_FILE, Command, OutputPath
from cm.config.layout import PREVIEW_COUNT
from cm.diffusion.samplers import Multistep
from cm.errors import UserError
from cm.utils import files

SAMPLES = OutputPath(suffix=".npy", beside=".json", dir_okay=False)
PREVIEW = OutputPath(suffix=".npy", beside=".png", dir_okay=False)


@dataclasses.dataclass(frozen=True)
class ModelSource(Hardware):
    """Where `sample` takes its model from, a file or a run, and what it computes on."""

    model: Path | None
    run: str | None
    ema_decay: float | None
    experiments: Path
    results: Path

    def load(self) -> api.Model:
        """The model.

        Raises UserError, before torch is imported, for an unknown run and if not exactly one of model and run is given.
        """
        if (self.model is None) == (self.run is None):
            raise UserError("give either --model or --run: the model file, or the run whose model is sampled")
        if self.run is not None:
            config.Experiments(self.experiments).run(self.run)
        device = ",".join(self.select_devices())
        subject = self.run or self.model or ""
        folders = {"experiments": self.experiments, "results": self.results}
        return api.load(subject, device=device, ema_decay=self.ema_decay, **folders)


model_options = group(
    "source",
    ModelSource,
    click.option("--model", type=IN_FILE, help="model file"),
    click.option(
        "--run",
        help="<dataset>/<method>/<variant>/seed<seed>: its model in the results, or the published checkpoint of a "
        "released run, sampled by the evaluation settings of the run where the options below are not given",
    ),
    click.option("--ema-decay", type=float, help="of the averaged weights to sample, where a training has several"),
    experiments_option,
    click.option("--results", type=FOLDER, default=Path("results"), show_default=True, help="folder of the results"),
    *hardware,
)


@dataclasses.dataclass(frozen=True)
class SamplingChanges:
    """Settings of sampling that replace those of the model; None for those that do not."""

    quantization: str | None
    clamp: bool | None
    precision: str | None
    batch: int | None

    def apply(self, settings: api.SamplingSettings) -> api.SamplingSettings:
        """The settings with the changes."""
        changes = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        return dataclasses.replace(settings, **changes)


sampling_options = group(
    "changes",
    SamplingChanges,
    click.option(
        "--quantization", type=click.Choice(["round", "truncate"]), help="of pixels to 8 bits  [default: truncate]"
    ),
    click.option("--clamp/--no-clamp", default=None, help="clamp every estimate of the denoiser to [-1, 1]"),
    click.option(
        "--precision",
        type=click.Choice(["bfloat16", "float16", "float32"]),
        help="of the network  [default: float32]",
    ),
    click.option("--batch", type=WholeNumber(1), help="images sampled at a time  [default: 256]"),
)


@dataclasses.dataclass(frozen=True)
class SampleFiles:
    """The files that `sample` writes, one of them or both."""

    out: Path | None
    preview: Path | None


output_options = group(
    "outputs",
    SampleFiles,
    click.option("--out", type=SAMPLES, help=".npy file to write; its description is written beside it"),
    click.option(
        "--preview",
        type=PREVIEW,
        help=f".npy file for the first {PREVIEW_COUNT}; a .png is written beside it. Without --out, no more are made",
    ),
)


@dataclasses.dataclass(frozen=True)
class SampleSet:
    """Which samples of a model are made."""

    sampler: str
    count: int
    seed: int | None


@dataclasses.dataclass(frozen=True)
class SampleRequest(SampleSet):
    """Samples of a sampler whose time points may have been searched. `search`: the result of the search."""

    search: Path | None

    def read_times(self) -> config.SearchResult | None:
        """The result of the search for the time points of the sampler, None for a sampler that has none to search.

        Raises UserError for an unknown sampler, and for a result that is missing, or that the sampler does not take.
        """
        if not config.is_searched(config.parse_sampler(self.sampler)):
            if self.search:
                raise UserError(f"the sampler '{self.sampler}' takes no --search: its times are in its name")
            return None
        if self.search is None:
            raise UserError(f"the sampler '{self.sampler}' needs --search: the result of `cm search` for the model")
        return config.read_search_of(self.sampler, self.search)


count_options = (
    click.option("--count", type=WholeNumber(1), default=64, show_default=True, help="number of samples"),
    click.option("--seed", type=WholeNumber(0, config.MAX_SEED), help="of the noise; by default the run's"),
)
request_options = group(
    "request",
    SampleRequest,
    click.option("--sampler", required=True, help="onestep, multistep,times~0.8 or ode,solver~heun,steps~18, ..."),
    *count_options,
    click.option("--search", type=IN_FILE, help="result of `cm search`, for a sampler search,steps~n"),
)


@click.command(cls=Command)
@model_options
@request_options
@output_options
@sampling_options
def sample(source: ModelSource, request: SampleRequest, *, outputs: SampleFiles, changes: SamplingChanges) -> None:
    """Sample a model file (--model) or the model of a run (--run).

    Writes uint8 images to OUT.npy, and how they were made to OUT.json; or a preview, or both.
    """
    if outputs.out:
        _write_samples(source, request, outputs.out, changes, preview=outputs.preview)
    elif outputs.preview:
        first = dataclasses.replace(request, count=min(request.count, PREVIEW_COUNT))
        with scratch_folder(outputs.preview) as folder:
            _write_samples(source, first, folder / "samples.npy", changes, preview=outputs.preview)
    else:
        raise UserError("give --out, --preview or both: the files for all samples and for the first of them")


@click.command(cls=Command)
@model_options
@request_options
@sampling_options
@comparison_options
@click.option("--score", type=OUT_FILE, required=True, help=".json file to write: the score of the samples")
@click.option("--preview", type=PREVIEW, help="as of `cm sample`; not written if it is there and newer than the model")
def evaluate(
    source: ModelSource,
    request: SampleRequest,
    *,
    changes: SamplingChanges,
    comparison: Comparison,
    score: Path,
    preview: Path | None,
) -> None:
    """Sample a model and score the samples, which are not kept.

    `cm sample` and `cm score` in one process, which starts torch once.
    """
    protocol = comparison.read()
    with scratch_folder(score) as folder:
        samples = folder / "samples.npy"
        model = _write_samples(source, request, samples, changes, preview=preview, keep_preview=True)
        from cm.evaluation.features import Compute
        from cm.evaluation.scoring import score_images

        make_extractor, compute = comparison.make_extractor(protocol), Compute(devices=model.devices)
        result = score_images(
            samples, comparison.reference, protocol=protocol, make_extractor=make_extractor, compute=compute
        )
    files.write_json(score, result)


@contextlib.contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """A folder beside a file, empty at first and removed at last; one that a killed process left is used again."""
    folder = path.with_name(f".{path.stem}.partial")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_samples(
    source: ModelSource,
    request: SampleRequest,
    out: Path,
    changes: SamplingChanges,
    *,
    preview: Path | None,
    keep_preview: bool = False,
) -> api.Model:
    """Write samples, their description and a preview; returns the model.

    `keep_preview`: not if there is a preview that is newer than the model.
    """
    found = request.read_times()
    name = config.write_sampler(Multistep(found.times)) if found else request.sampler
    model = source.load()
    if found:
        check_model_of(model, found, request.search)
    settings = changes.apply(model.settings)
    started = time.monotonic()
    with files.create_array(out, (request.count, *model.image_shape)) as images:
        model.sample(name, count=request.count, seed=request.seed, settings=settings, out=images)
        description = {
            **describe_samples(model, request, settings),
            **({"times": list(found.times)} if found else {}),
            "nfe": config.parse_sampler(name).evaluations,
            "seconds": {"sampling": round(time.monotonic() - started, 3)},
        }
        files.write_json(out.with_suffix(".json"), description)
    if preview and not (keep_preview and _is_newer(preview, model.path)):
        files.write_array(preview, images[:PREVIEW_COUNT])
        files.write_grid(preview.with_suffix(".png"), images[:PREVIEW_COUNT])
        _write_labels(preview.with_suffix(".json"), model, request, len(images[:PREVIEW_COUNT]))
    return model


def check_model_of(model: api.Model, found: config.SearchResult, path: Path | None) -> None:
    """UserError unless a search was of this model."""
    progress = model.description["progress"]
    if (found.run, found.progress) != (model.run, progress):
        searched = f"{found.run} at {found.progress} %"
        raise UserError(f"{path} is the search of {searched}, but {model.path} holds {model.run} at {progress} %")


def _write_labels(path: Path, model: api.Model, request: SampleSet, count: int) -> None:
    """Write the classes of the samples of a preview, if the model is class-conditional."""
    from cm.diffusion.sampling import labels_of

    if model.classes:
        seed = model.seed if request.seed is None else request.seed
        files.write_json(path, {"labels": labels_of(seed, count, model.classes)})


def describe_samples(model: api.Model, request: SampleSet, settings: api.SamplingSettings) -> dict[str, Any]:
    """What samples are of, as it is written beside them."""
    return {
        "run": model.run,
        "progress": model.description["progress"],
        **({"ema_decay": model.description["ema_decay"]} if "ema_decay" in model.description else {}),
        "sampler": request.sampler,
        "seed": model.seed if request.seed is None else request.seed,
        "quantization": settings.quantization,
        "clamp": settings.clamp,
        "model_sha256": files.sha256_of(model.path),
        "trained_at": model.description["commit"],
    }


def _is_newer(path: Path, other: Path) -> bool:
    return path.exists() and path.stat().st_mtime_ns > other.stat().st_mtime_ns
