"""The source of a data set: a path, a URL, or something in the cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cm.errors import UserError
from cm.utils import fetch


def located(source: Path | str | None) -> Path | None:
    """The file or folder that was named; a URL is fetched into the cache. UserError if there is none."""
    if source is None:
        return None
    if "://" in str(source):
        return fetch.fetch_file(str(source))
    if not Path(source).exists():
        raise UserError(f"no file or folder {source}")
    return Path(source)


def cached(names: Sequence[str]) -> Path | None:
    """The first of the files or folders `names` that is in the cache."""
    return next((fetch.cache_folder() / name for name in names if (fetch.cache_folder() / name).exists()), None)


def by_hand(names: Sequence[str], home: str) -> Path:
    """What somebody put into the cache; UserError that tells how, for a data set whose licence forbids to fetch it."""
    path = cached(names)
    if path is None:
        raise UserError(
            f"no {names[0]}: download it from {home}, then give --source or put it at {fetch.cache_folder()}"
        )
    return path
