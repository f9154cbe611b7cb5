"""The JSON file that `cm sample` writes beside its samples: how they were made, which their score records."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from cm.config import RunName
from cm.config.sections import Quantization
from cm.errors import UserError
from cm.utils import files


def read(samples: Path) -> dict[str, Any]:
    """What `cm sample` wrote beside a .npy file of samples; nothing for other images.

    A JSON file without any of the entries is another program's, and ignored. Raises UserError for one that is not JSON,
    and for an entry that is unknown or that `cm sample` would not write.
    """
    if samples.suffix != ".npy" or not (path := samples.with_suffix(".json")).exists():
        return {}
    found = files.read_json(path)
    if not isinstance(found, dict) or not found.keys() & ENTRIES.keys():
        return {}
    for name, value in found.items():
        if name not in ENTRIES:
            raise UserError(f"{path}: unknown entry {name!r:.60}; known: {', '.join(sorted(ENTRIES))}")
        is_valid, expected = ENTRIES[name]
        if not is_valid(value):
            raise UserError(f"{path}: {name} must be {expected}, not {value!r:.60}")
    if "run" in found:
        _check_run(found["run"], path)
    return found


def _check_run(name: str, path: Path) -> None:
    try:
        RunName.parse(name)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _are_seconds(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_duration, value.values()))


def _are_times(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_duration, value))


def _is_duration(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < math.inf


# The entries, and for each a check of its value and what is expected, in words.
ENTRIES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "run": (_is_text, "the name of a run"),
    "progress": (lambda value: _is_count(value) and value <= 100, "a whole number from 0 to 100"),
    "ema_decay": (lambda value: type(value) is float and 0 <= value < 1, "a number from 0 to 1"),
    "sampler": (_is_text, "the name of a sampler"),
    "times": (_are_times, "the time points that a search found"),
    "seed": (_is_count, "a whole number"),
    "quantization": (lambda value: value in get_args(Quantization), " or ".join(get_args(Quantization))),
    "clamp": (lambda value: isinstance(value, bool), "true or false"),
    "model_sha256": (_is_text, "a digest"),
    "trained_at": (lambda value: value is None or _is_text(value), "a commit"),
    "nfe": (_is_count, "a whole number"),
    "seconds": (_are_seconds, "numbers of seconds by name"),
}
