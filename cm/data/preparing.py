"""Preparation of a data set: from its source to the layout that training and scoring read, whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cm import __version__, config, registry
from cm.data.base import DataSet, Source
from cm.data.locating import find_source
from cm.data.split import Split
from cm.data.writing import Problems, ResumableError
from cm.errors import UserError
from cm.utils import files

SCRATCH = ".partial"


def prepare(
    dataset: str,
    out: Path,
    *,
    source: Path | str | None = None,
    workers: int | None = None,
    allow_undecodable: float = 0.0,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write `<out>/<split>/images.npy`, `<out>/<split>/labels.npy` and, at the end, `<out>/manifest.json`.

    `source`: a path or URL; by default the one that the data set finds in the cache or fetches. `workers`: number of
    processes, by default one per core. `allow_undecodable`: the share of images that may be undecodable; they are left
    out and listed in the manifest. `settings`: those of the data set.

    Raises UserError for any problem. After a kill, a full disk or an undecodable image the next call resumes the work
    in `<out>/.partial`; after any other error nothing is left behind.
    """
    _check_options(workers, allow_undecodable)
    data_set = config.check(registry.get("dataset", dataset), settings or {}, f"data set '{dataset}'")
    scratch = out / SCRATCH
    _check_links(scratch)
    with _remove_after_error(scratch, keep=scratch.exists()):
        opened = data_set.open(find_source(source), scratch)
        splits = _make_splits(dataset, data_set, opened, scratch)
        _check_space(splits, out)
    with _remove_after_error(scratch):
        for split in splits:
            split.write(workers=workers or len(os.sched_getaffinity(0)), allow_undecodable=allow_undecodable)
        manifest = _manifest(dataset, data_set, opened, splits)
        (out / "manifest.json").unlink(missing_ok=True)
        for split in splits:
            split.move(out / split.name)
        files.write_json(out / "manifest.json", manifest)
    shutil.rmtree(scratch)


def _check_options(workers: int | None, allow_undecodable: float) -> None:
    if workers is not None and workers < 1:
        raise UserError(f"workers must be at least 1, not {workers}")
    if not 0 <= allow_undecodable < 1:
        share = "the allowed share of undecodable images"
        raise UserError(f"{share} must be at least 0 and below 1, not {allow_undecodable}")


def _check_links(scratch: Path) -> None:
    """UserError for a link in the place of a file to write; their names must be known, so that work can be resumed."""
    for path in (scratch, *scratch.glob("*")):
        if path.is_symlink():
            raise UserError(f"{path} is a link, which nothing here has made: remove it")


@contextlib.contextmanager
def _remove_after_error(scratch: Path, *, keep: bool = False) -> Iterator[None]:
    """A context that removes `scratch`, unless `keep`, after a UserError other than a ResumableError.

    An OSError, such as that of a full disk, becomes a ResumableError.
    """
    try:
        yield
    except ResumableError:
        raise
    except OSError as error:
        problem = f"{error.filename or scratch.parent}: {error.strerror or error}"
        raise ResumableError(f"{problem}; solve this and run the same command again to resume") from None
    except UserError:
        if not keep:
            shutil.rmtree(scratch, ignore_errors=True)
            with contextlib.suppress(OSError):
                scratch.parent.rmdir()
        raise


def _make_splits(dataset: str, data_set: DataSet, source: Source, scratch: Path) -> list[Split]:
    shape = (data_set.resolution, data_set.resolution, data_set.channels)
    inputs = {
        "dataset": dataset,
        "settings": data_set.settings(),
        "preprocessing": data_set.preprocessing,
        "source": source.fingerprint,
        "version": __version__,
    }
    splits = source.splits.items()
    return [Split(images, name, scratch, image_shape=shape, inputs=inputs) for name, images in splits]


def _check_space(splits: Sequence[Split], out: Path) -> None:
    """Raise UserError if the images do not fit on the disk (1 GB = 10^9 bytes)."""
    parent = next(folder for folder in (out, *out.resolve().parents) if folder.exists())
    missing, free = sum(split.missing_bytes for split in splits), shutil.disk_usage(parent).free
    if missing > free:
        raise UserError(f"the images take {missing / 1e9:.1f} GB more at {out}, where {free / 1e9:.1f} GB are free")


def _manifest(dataset: str, data_set: DataSet, source: Source, splits: Sequence[Split]) -> dict[str, Any]:
    """What was prepared from what. Raises UserError if the images or labels do not have the expected digests."""
    summaries = {split.name: split.summary() for split in splits}
    _check_digests(data_set.digests, summaries, source.name)
    return {
        "dataset": dataset,
        "settings": data_set.settings(),
        "resolution": data_set.resolution,
        "classes": max(summary["classes"] for summary in summaries.values()),
        "images": sum(summary["images"] for summary in summaries.values()),
        "preprocessing": data_set.preprocessing,
        "source": {"name": source.name, "sha256": _source_sha256(source, splits), "sha256_of": source.sha256_of},
        "undecodable": {split.name: _list_problems(split.problems) for split in splits if split.problems},
        "splits": summaries,
        "version": __version__,
    }


def _source_sha256(source: Source, splits: Sequence[Split]) -> str:
    """The digest of the source; of several splits of encoded images, the digest of their digests."""
    if source.sha256 is not None:
        return source.sha256
    digests = [split.source_sha256() for split in splits]
    return digests[0] if len(digests) == 1 else files.sha256("".join(digests).encode())


def _list_problems(problems: Problems) -> list[dict[str, str]]:
    return [{"name": name, "problem": problem} for name, problem in problems.values()]


def _check_digests(expected: Mapping[str, tuple[str, str]], summaries: Mapping[str, Any], source: str) -> None:
    for split, (images, labels) in expected.items():
        for what, key, digest in (("images", "sha256", images), ("labels", "labels_sha256", labels)):
            found = summaries[split][key]
            if found != digest:
                raise UserError(f"the {split} {what} of {source} have sha256 {found}, not {digest}: they are others")
