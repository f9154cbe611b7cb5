"""The command `search`: the time points of multistep sampling."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cm import api, config
from cm.cli.options import Comparison, comparison_options, group
from cm.cli.paths import IN_FILE, OUT_FILE, Command
from cm.cli.sampling import (
    ModelSource,
    SampleSet,
    SamplingChanges,
    check_model_of,
    count_options,
    describe_samples,
    model_options,
    sampling_options,
    scratch_folder,
)
from cm.diffusion.samplers import Multistep, Search
from cm.errors import UserError
from cm.utils import files, provenance

if TYPE_CHECKING:
    import numpy as np

    from cm.evaluation.scoring import Target


@dataclasses.dataclass(frozen=True)
class SearchRequest(SampleSet):
    """What is searched. `previous`: the result of the search for one time point fewer, which is continued."""

    previous: Path | None

    def read_sampler(self) -> Search:
        """The sampler; UserError for one whose time points are not searched."""
        config.previous_search(self.sampler)
        sampler: Search = config.parse_sampler(self.sampler)
        return sampler

    def read_previous(self) -> config.SearchResult | None:
        """The search to continue, None for none; UserError for one of another sampler."""
        if self.previous is None:
            return None
        expected = config.previous_search(self.sampler)
        if expected is None:
            raise UserError(f"the sampler '{self.sampler}' has one time point: there is no search to continue")
        return config.read_search_of(expected, self.previous)


search_options = group(
    "request",
    SearchRequest,
    click.option("--sampler", required=True, help="search,steps~2; search,points~18,steps~3, ..."),
    *count_options,
    click.option("--previous", type=IN_FILE, help="result of the search with one step fewer, which is continued"),
)


@click.command(cls=Command)
@model_options
@search_options
@sampling_options
@comparison_options
@click.option("--out", type=OUT_FILE, required=True, help=".json file to write")
def search(
    source: ModelSource, request: SearchRequest, *, changes: SamplingChanges, comparison: Comparison, out: Path
) -> None:
    """Search the time points of multistep sampling.

    A greedy ternary search for the times with the lowest FID. Samples are made and scored as by `cm evaluate`. A search
    that was interrupted continues with the evaluations that it made.
    """
    started = time.monotonic()
    sampler, protocol, previous = request.read_sampler(), comparison.read(), request.read_previous()
    model = source.load()
    if previous:
        check_model_of(model, previous, request.previous)
    settings, count = changes.apply(model.settings), min(request.count, protocol.samples)
    from cm import build
    from cm.evaluation import metrics, searching
    from cm.evaluation.features import Compute
    from cm.evaluation.scoring import describe_extraction, open_target

    noise, compute = build.build_noise(model.description), Compute(devices=model.devices)
    sampler.candidates(noise)  # before anything is computed
    metrics.check_enough_images(count, "--count", ["fid"])
    target = open_target(
        comparison.reference,
        model.image_shape,
        protocol=protocol,
        make_extractor=comparison.make_extractor(protocol),
        compute=compute,
    )
    about = _describe(model, request, settings, target, count)
    if previous:
        _check_comparable(previous, about, request.previous)
    make_samples = _sampling(model, request.seed, count, settings)
    record = searching.Record(out.with_name(f".{out.name}.partial"), about)
    with scratch_folder(out) as folder:
        measure = searching.Measurement(make_samples, (count, *model.image_shape), target, compute, folder)
        found = searching.search(record.keep(measure), sampler, noise, previous.searches if previous else ())
    result = {**_result(about, found), "extraction": describe_extraction(compute)}
    files.write_json(out, {**result, "seconds": {"search": round(time.monotonic() - started, 3)}})
    record.remove()


def _sampling(
    model: api.Model, seed: int | None, count: int, settings: api.SamplingSettings
) -> Callable[[tuple[float, ...], np.ndarray], object]:
    """A function that fills an array with samples through given time points, always from the same noise."""

    def make_samples(times: tuple[float, ...], out: np.ndarray) -> None:
        name = config.write_sampler(Multistep(times))
        model.sample(name, count=count, seed=seed, settings=settings, out=out)

    return make_samples


def _describe(
    model: api.Model, request: SearchRequest, settings: api.SamplingSettings, target: Target, count: int
) -> dict[str, Any]:
    """Everything that an evaluation depends on."""
    described = describe_samples(model, request, settings)
    return {**described, "precision": settings.precision, "samples": count, **target.describe()}


def _check_comparable(previous: config.SearchResult, about: dict[str, Any], path: Path | None) -> None:
    """UserError for an earlier search by another protocol, extractor, reference or number of samples."""
    for part in ("samples", "protocol", "extractor", "reference"):
        if getattr(previous, part) != about[part]:
            raise UserError(f"{path} was made with another {part} than this search: make it anew")


def _result(about: dict[str, Any], found: list[Any]) -> dict[str, Any]:
    """The content of the file."""
    return {
        **about,
        "times": [one.time for one in found],
        "searches": [dataclasses.asdict(one) for one in found],
        "versions": provenance.versions(),
        "commit": provenance.commit(),
    }
