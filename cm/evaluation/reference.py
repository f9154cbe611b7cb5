"""Reference statistics: mean and covariance of the features of real images, all that FID needs to know of them.

Others publish them, and these .npz files are read:

    clean-fid or EDM   mu [D], sigma [D, D]
    clean-fid KID      feats [N, D], of which both are computed
    ADM                mu, sigma, arr_0 (some of the images), and mu_s, sigma_s of spatial features, which are left out

Ours are the summary that `features.write` writes, mean [D], covariance [D, D], units [n, D] and about, and a packed
form that is small enough to be committed: float32 mean [D], covariance_triangle [D (D + 1) / 2], the upper triangle row
by row from the diagonal on, and about, which is JSON. With 2048 features that is 8 MB for 34. Rounding to float32 moves
FID by less than 1e-8 if there are more images than features; if not, its errors stand where there is no variance, and
their roots add up: by up to 1e-3.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cm.errors import UserError
from cm.evaluation.metrics import Moments
from cm.utils import files

FORMS = {
    "summary": ("mean", "covariance", "units", "about"),
    "packed": ("mean", "covariance_triangle", "about"),
    "ADM": ("mu", "sigma", "arr_0"),
    "clean-fid or EDM": ("mu", "sigma"),
    "clean-fid KID": ("feats",),
}
UNREAD = "arr_0"  # images, which a mean and a covariance do not need
PICKLE = ".pkl"
TOLERANCE = 1e-6  # of the largest entry: asymmetry of a covariance, and how far below zero a variance may be rounded


@dataclass(frozen=True, eq=False)
class Statistics:
    """`mean` [D] and `covariance` [D, D], float64; `units` [n, D] float32, the features that the file has too.

    `about`: what these are of, or, of others' files, the file, its form and digest.
    """

    mean: np.ndarray
    covariance: np.ndarray
    units: np.ndarray | None
    about: dict[str, Any]


def is_statistics(path: Path | str) -> bool:
    """Whether `read` is for this file: a .npz file of a known form, or EDM2's pickle, which `read` has an answer to.

    UserError for a .npz file that is missing or damaged. ADM's files are sets of images as well.
    """
    suffix = Path(path).suffix.lower()
    return suffix == PICKLE or (suffix == ".npz" and not Path(path).is_dir() and _form(files.array_names(path)) != "")


def read(path: Path | str) -> Statistics:
    """Statistics in any of the forms; UserError for another file, or for numbers that are no mean and covariance."""
    path = Path(path)
    if path.suffix.lower() == PICKLE:
        raise UserError(f"{path} is a pickle, which is not read: np.savez(file, mu=..., sigma=...) of its 'fid' is")
    form = _form(names := files.array_names(path))
    if not form:
        known = "; ".join(f"{', '.join(needed)} ({of})" for of, needed in FORMS.items())
        raise UserError(f"{path} has no statistics but {', '.join(names) or 'nothing'}; known: {known}")
    arrays = files.read_arrays(path, [name for name in FORMS[form] if name != UNREAD])
    about = _about(path, arrays.pop("about")) if "about" in arrays else _foreign(path, form)
    for name, array in arrays.items():
        _check_numbers(array, f"{path}, {name}")
    mean, covariance = _checked(*_moments(path, arrays), path)
    return Statistics(mean, covariance, _units(path, arrays, len(mean)), about)


def pack(path: Path | str, mean: np.ndarray, covariance: np.ndarray, about: Mapping[str, Any]) -> None:
    """Write the packed form, the same bytes for the same statistics; UserError for what `read` would refuse."""
    for name, array in (("mean", mean), ("covariance", covariance)):
        _check_numbers(array, f"{path}, {name}")
    mean, covariance = _checked(mean, covariance, path)
    triangle = covariance[_upper(len(mean))].astype(np.float32)
    with files.replace_file(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(
            file, mean=mean.astype(np.float32), covariance_triangle=triangle, about=np.array(json.dumps(about))
        )


def _form(names: Sequence[str]) -> str:
    """The first form whose arrays are all there, or none."""
    return next((form for form, needed in FORMS.items() if set(needed) <= set(names)), "")


def _foreign(path: Path, form: str) -> dict[str, str]:
    return {"file": path.name, "form": form, "sha256": files.sha256_of(path)}


def _about(path: Path, stored: np.ndarray) -> dict[str, Any]:
    try:
        about = json.loads(str(stored))
    except ValueError as error:
        raise UserError(f"{path}, about is not JSON: {error}") from None
    if not isinstance(about, dict):
        raise UserError(f"{path}, about must be an object of JSON, not {type(about).__name__}")
    return about


def _check_numbers(array: np.ndarray, where: str) -> None:
    if array.dtype.kind != "f":
        raise UserError(f"{where} must be floating-point numbers, not {array.dtype}")
    if not np.isfinite(array).all():
        raise UserError(f"{where}: {np.count_nonzero(~np.isfinite(array))} of {array.size} numbers are not finite")


def _moments(path: Path, arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance, as they are or from what is there instead."""
    if "feats" in arrays:
        return _computed(path, arrays["feats"])
    if "covariance_triangle" in arrays:
        return arrays["mean"], _unfolded(path, arrays["covariance_triangle"], arrays["mean"].size)
    mean, covariance = ("mean", "covariance") if "mean" in arrays else ("mu", "sigma")
    return arrays[mean], arrays[covariance]


def _computed(path: Path, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if features.ndim != 2 or len(features) < 2:
        raise UserError(f"{path}, feats must be [N, D] with N of at least 2, not {list(features.shape)}")
    running = Moments()
    running.add(features)
    return running.result()


def _unfolded(path: Path, triangle: np.ndarray, width: int) -> np.ndarray:
    """The covariance [D, D], float64, of its upper triangle."""
    if triangle.shape != (width * (width + 1) // 2,):
        raise UserError(f"{path}: {list(triangle.shape)} numbers are no triangle of a covariance of {width} features")
    covariance = np.zeros((width, width))
    covariance[_upper(width)] = triangle
    return covariance + np.triu(covariance, 1).T


def _upper(width: int) -> np.ndarray:
    """Where a matrix has its upper triangle, with the diagonal."""
    return np.triu(np.ones((width, width), bool))


def _units(path: Path, arrays: Mapping[str, np.ndarray], width: int) -> np.ndarray | None:
    """The features of single images, if they are there."""
    name = next((name for name in ("units", "feats") if name in arrays), None)
    if name is None:
        return None
    if arrays[name].shape[1:] != (width,):
        raise UserError(f"{path}, {name} must be [n, {width}] as the mean is [{width}], not {list(arrays[name].shape)}")
    return arrays[name].astype(np.float32, copy=False)


def _checked(mean: np.ndarray, covariance: np.ndarray, path: Path | str) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64; UserError if they are no mean [D] and covariance [D, D]."""
    if mean.ndim != 1 or not mean.size or covariance.shape != 2 * mean.shape:
        shapes = f"not {list(mean.shape)} and {list(covariance.shape)}"
        raise UserError(f"{path}: mean and covariance must be [D] and [D, D], {shapes}")
    covariance = covariance.astype(np.float64)
    slack = TOLERANCE * np.abs(covariance).max()
    if (apart := np.abs(covariance - covariance.T).max()) > slack:
        raise UserError(f"{path}: the covariance is not symmetric: two entries differ by {apart:.3g}")
    if (lowest := covariance.diagonal().min()) < -slack:
        raise UserError(f"{path}: the covariance has a negative variance, {lowest:.3g}")
    return mean.astype(np.float64), covariance
