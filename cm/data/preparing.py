"""From a source to the layout that training and scoring read; whole or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cm import __version__, config, registry
from cm.data.base import DataSet, Opened
from cm.data.locating import located
from cm.data.split import Split
from cm.data.writing import Interrupted
from cm.errors import UserError
from cm.utils import files

SCRATCH = ".partial"


def prepare(
    dataset: str,
    out: Path,
    *,
    source: Path | str | None = None,
    workers: int | None = None,
    allowed: float = 0.0,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write `<out>/<split>/images.npy`, `labels.npy` and, last, `<out>/manifest.json`.

    `source`: a path or URL; by default what the data set finds or fetches itself. `workers`: processes, by default one
    a core. `allowed`: the share of images that may be undecodable; they are left out, and listed in the manifest.
    UserError for whatever is wrong. After a kill, a full disk or an undecodable image a next start goes on from
    `<out>/.partial`; after any other error nothing is left.
    """
    _check(workers, allowed)
    data_set = config.check(registry.get("dataset", dataset), settings or {}, f"data set '{dataset}'")
    scratch = out / SCRATCH
    with _clean(scratch, keep=scratch.exists()):
        opened = data_set.open(located(source), scratch)
        splits = _splits(dataset, data_set, opened, scratch)
        _check_space(splits, out)
    with _clean(scratch):
        for split in splits:
            split.write(workers=workers or len(os.sched_getaffinity(0)), allowed=allowed)
        manifest = _manifest(dataset, data_set, opened, splits)
        (out / "manifest.json").unlink(missing_ok=True)
        for split in splits:
            split.move(out / split.name)
        files.write_json(out / "manifest.json", manifest)
    shutil.rmtree(scratch)


def _check(workers: int | None, allowed: float) -> None:
    if workers is not None and workers < 1:
        raise UserError(f"workers must be at least 1, not {workers}")
    if not 0 <= allowed < 1:
        raise UserError(f"the allowed share of undecodable images must be at least 0 and below 1, not {allowed}")


@contextlib.contextmanager
def _clean(scratch: Path, *, keep: bool = False) -> Iterator[None]:
    """Removes `scratch` after a UserError, but for one after which work can go on; an OSError is told in one line."""
    try:
        yield
    except Interrupted:
        raise
    except OSError as error:
        what = f"{error.filename or scratch.parent}: {error.strerror or error}"
        raise Interrupted(f"{what}; when that is put right, the same command goes on where it stopped") from None
    except UserError:
        if not keep:
            shutil.rmtree(scratch, ignore_errors=True)
            with contextlib.suppress(OSError):
                scratch.parent.rmdir()
        raise


def _splits(dataset: str, data_set: DataSet, opened: Opened, scratch: Path) -> list[Split]:
    """Every split, with all that a byte of it hangs on: if that is another next time, work starts over."""
    shape = (data_set.resolution, data_set.resolution, data_set.channels)
    about = {"dataset": dataset, "settings": dataclasses.asdict(data_set), "preprocessing": data_set.preprocessing}
    about |= {"source": opened.stamp, "version": __version__}
    splits = opened.splits.items()
    return [Split(images, name, scratch, image_shape=shape, about=about) for name, images in splits]


def _check_space(splits: Sequence[Split], out: Path) -> None:
    """UserError if the disk has no room for all images, with 1 GB = 10^9 bytes."""
    home = next(folder for folder in (out, *out.resolve().parents) if folder.exists())
    missing, free = sum(split.missing for split in splits), shutil.disk_usage(home).free
    if missing > free:
        raise UserError(f"the images take {missing / 1e9:.1f} GB more at {out}, where {free / 1e9:.1f} GB are free")


def _manifest(dataset: str, data_set: DataSet, opened: Opened, splits: Sequence[Split]) -> dict[str, Any]:
    """What was made of what; UserError if a data set that never changes came out otherwise."""
    summaries = {split.name: split.summary() for split in splits}
    _check_digests(data_set.digests, summaries, opened.name)
    digests = "".join(split.digest() for split in splits) if opened.sha256 is None else ""
    sha256 = opened.sha256 or (digests if len(splits) == 1 else files.sha256(digests.encode()))
    undecodable = {split.name: _listed(split.problems) for split in splits if split.problems}
    return {
        "dataset": dataset,
        "settings": dataclasses.asdict(data_set),
        "resolution": data_set.resolution,
        "classes": max(summary["classes"] for summary in summaries.values()),
        "images": sum(summary["images"] for summary in summaries.values()),
        "preprocessing": data_set.preprocessing,
        "source": {"name": opened.name, "sha256": sha256, "sha256_of": opened.of},
        "undecodable": undecodable,
        "splits": summaries,
        "version": __version__,
    }


def _listed(problems: Mapping[int, tuple[str, str]]) -> list[dict[str, str]]:
    return [{"name": name, "problem": problem} for name, problem in problems.values()]


def _check_digests(wanted: Mapping[str, tuple[str, str]], summaries: Mapping[str, dict], source: str) -> None:
    for split, digests in wanted.items():
        got = (summaries[split]["sha256"], summaries[split]["labels_sha256"])
        for what, is_, should in zip(("images", "labels"), got, digests, strict=True):
            if is_ != should:
                raise UserError(f"the {split} {what} of {source} have sha256 {is_}, not {should}: they are others")
