"""Where the source of a data set is: at a path, at a URL, or in the cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cm.errors import UserError
from cm.utils import fetch


def find_source(source: Path | str | None) -> Path | None:
    """Return the path of a source; a URL is fetched into the cache, and None stays None.

    Raises UserError if there is no such file or folder, or if the URL cannot be fetched.
    """
    if source is None:
        return None
    if "://" in str(source):
        return fetch.fetch_file(str(source))
    if not Path(source).exists():
        raise UserError(f"no file or folder {source}")
    return Path(source)


def find_in_cache(names: Sequence[str]) -> Path | None:
    """Return the path of the first of `names` that is a file or folder in the cache, None if there is none."""
    return next(filter(None, map(fetch.find_archive, names)), None)


def require_in_cache(names: Sequence[str], home: str) -> Path:
    """Return the path of the first of `names` in the cache, for a data set whose licence forbids fetching it.

    Raises UserError, which says that it is published at `home`, if there is none.
    """
    path = find_in_cache(names)
    if path is None:
        folder = fetch.cache_folder()
        raise UserError(f"no {names[0]}: download it from {home}, then give --source or put it at {folder}")
    return path
