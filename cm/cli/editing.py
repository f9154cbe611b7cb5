"""The command that edits images with a model: `edit`."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cm import api
from cm.cli.edit_options import (
    EditFiles,
    EditingChanges,
    EditRequest,
    EditScoring,
    computing_options,
    edit_scoring_options,
    output_options,
    request_options,
)
from cm.cli.paths import Command
from cm.cli.sampling import ModelSource, model_options
from cm.config.layout import EDIT_PREVIEW_COUNT
from cm.errors import UserError
from cm.utils import files

if TYPE_CHECKING:
    import numpy as np

    from cm.diffusion.operators import Operator
    from cm.evaluation.editing import EditingSettings
    from cm.evaluation.imagesets import Images


@click.command(cls=Command)
@model_options
@request_options
@computing_options
@output_options
@edit_scoring_options
def edit(
    source: ModelSource,
    request: EditRequest,
    changes: EditingChanges,
    outputs: EditFiles,
    scoring: EditScoring,
) -> None:
    """Edit images with a model: inpainting, colorization, super-resolution, strokes, denoising, interpolation.

    What is known is taken from the originals, which also score the results (--score).
    """
    outputs.check()
    parsed = request.check()
    model = source.load()
    parsed.check_images(_channels_first(model), model.run)
    if request.images is None:
        _interpolate(parsed, model, request, changes, outputs)
    else:
        _edit_images(parsed, model, request, changes, outputs, scoring)


def _edit_images(
    parsed: Any,
    model: api.Model,
    request: EditRequest,
    changes: EditingChanges,
    outputs: EditFiles,
    scoring: EditScoring,
) -> None:
    started = time.monotonic()
    images = _open_images(request, model)
    settings = _settings(model, request, changes, len(images))
    operator = _operator_of(parsed, model, request)
    shape = _channels_first(model)
    scorer = scoring.make_scorer(operator, shape, model.devices) if outputs.score else None
    if scorer:
        scorer.check(len(images), str(request.images))
    if outputs.preview:
        _write_preview(outputs.preview, parsed, operator, model, images, settings)
    if not (outputs.out or scorer):
        return
    from cm.evaluation import edit_scores, editing

    place = outputs.out or outputs.score or Path()
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".editing-", dir=place.parent) as folder:
        batches = editing.edit_images(model.module, parsed, operator, images, settings)
        results, originals = edit_scores.write_results(batches, len(images), Path(folder))
        if scorer and outputs.score:
            about = _describe(parsed, model, request, images) | scoring.describe()
            score = about | scorer.score(results, originals)
            files.write_json(outputs.score, score | {"seconds": {"editing": round(time.monotonic() - started, 3)}})
        if outputs.out:
            files.link_file(results[edit_scores.MODEL], outputs.out)


def _open_images(request: EditRequest, model: api.Model) -> Images:
    """The images that are edited; UserError for those that the model does not take."""
    from cm.evaluation import imagesets, similarity

    images = imagesets.open_images(request.images or Path())
    if images.shape != model.image_shape:
        raise UserError(
            f"{request.images} has images of {list(images.shape)}, {model.run} edits those of {list(model.image_shape)}"
        )
    similarity.check_size(images.shape, str(request.images))
    return images if request.count is None else images.subset(slice(request.count))


def _settings(model: api.Model, request: EditRequest, changes: EditingChanges, count: int) -> EditingSettings:
    from cm import build
    from cm.evaluation.editing import EditingSettings

    return EditingSettings(
        noise=build.build_noise(model.description),
        seed=model.seed if request.seed is None else request.seed,
        labels=_read_labels(model, request.labels, count),
        batch=changes.batch or model.settings.batch,
        precision=changes.precision or model.settings.precision,
        devices=model.devices,
    )


def _read_labels(model: api.Model, text: str | None, count: int) -> np.ndarray | None:
    """The classes of the images, int64 [count]; UserError where they are missing, or fit neither model nor images."""
    import numpy as np

    from cm.data.base import check_labels
    from cm.evaluation.editing import check_labels_are_given
    from cm.utils import npy

    classes = model.classes
    check_labels_are_given(model.run, classes, text)
    if text is None:
        return None
    if not text.endswith(".npy"):
        if not text.isascii() or not text.isdecimal():
            raise UserError(f"labels must be a class, or a .npy file with one for each image, not '{text}'")
        return np.broadcast_to(check_labels([int(text)], classes, "--labels"), (count,)).copy()
    labels = check_labels(np.array(npy.read_array(text)), classes, text)
    if len(labels) < count:
        raise UserError(f"{text} has {len(labels)} labels of {count} images")
    return labels[:count]


def _operator_of(parsed: Any, model: api.Model, request: EditRequest) -> Operator:
    """What is known of the images; UserError for a mask or images that the edit cannot take."""
    if not parsed.needs_mask:
        operator: Operator = parsed.operator(_channels_first(model))
        return operator
    import torch

    from cm.data import masks

    height, width, _ = model.image_shape
    mask = masks.make_mask(parsed.mask, request.mask, height, width)
    known: Operator = parsed.operator(_channels_first(model), torch.from_numpy(mask).float())
    return known


def _channels_first(model: api.Model) -> tuple[int, int, int]:
    height, width, channels = model.image_shape
    return channels, height, width


def _write_preview(
    path: Path, parsed: Any, operator: Operator, model: api.Model, images: Images, settings: EditingSettings
) -> None:
    """Write a row for each of the first images: what was given, the results, the original."""
    import numpy as np

    from cm.evaluation import editing

    first = images.subset(slice(EDIT_PREVIEW_COUNT))
    batches = editing.edit_images(model.module, parsed, operator, first, settings, results=parsed.results)
    rows = [np.stack([batch.given, *batch.edited, batch.original], axis=1) for batch in batches]
    _write_rows(path, np.concatenate(rows))


def _write_rows(path: Path, rows: np.ndarray) -> None:
    """Write rows [n, k, H, W, C] of pictures as an array [n k, H, W, C], and as a grid of k columns."""
    pictures = rows.reshape(-1, *rows.shape[2:])
    files.write_array(path, pictures)
    files.write_grid(path.with_suffix(".png"), pictures, columns=rows.shape[1])


def _interpolate(
    parsed: Any, model: api.Model, request: EditRequest, changes: EditingChanges, outputs: EditFiles
) -> None:
    if outputs.score:
        raise UserError("interpolated samples have no originals, so they have no score")
    count = request.count or EDIT_PREVIEW_COUNT
    settings = _settings(model, request, changes, count)
    from cm.evaluation import editing

    rows = editing.interpolate(model.module, parsed, _channels_first(model), count, settings)
    if outputs.out:
        files.write_array(outputs.out, rows.reshape(-1, *rows.shape[2:]))
    if outputs.preview:
        _write_rows(outputs.preview, rows[:EDIT_PREVIEW_COUNT])


def _describe(parsed: Any, model: api.Model, request: EditRequest, images: Images) -> dict[str, Any]:
    """What was edited and how, as the score records it."""
    path = request.images or Path()
    return {
        "run": model.run,
        "progress": model.description["progress"],
        "edit": request.edit,
        "nfe": parsed.evaluations,
        "seed": model.seed if request.seed is None else request.seed,
        "images": len(images),
        "source": f"{path.parent.parent.name}/{path.parent.name}" if path.suffix == ".npy" else path.name,
        "images_sha256": images.sha256(),
        "mask_sha256": files.sha256_of(request.mask) if request.mask else None,
        "model_sha256": files.sha256_of(model.path),
        "trained_at": model.description["commit"],
    }
