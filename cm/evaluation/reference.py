"""Files of reference statistics: the mean and covariance of the features of real images, which are all that FID needs.

Other projects publish such files, as .npz, and these forms are read:

    clean-fid or EDM   mu [D], sigma [D, D]
    clean-fid KID      feats [N, D], from which both are computed
    ADM                mu, sigma, arr_0 (some of the images), and mu_s, sigma_s of spatial features

This suite writes two forms. The *summary* (`features.write`) has mean [D], covariance [D, D], features [n, D] and
about, a description in JSON; places [n], those of the features in the set of images; and, if the extractor has spatial
features, spatial_mean [S] and spatial_covariance [S, S]. The *packed* form, small enough to be committed, has mean [D],
covariance_triangle [D (D + 1) / 2], the upper triangle row by row from the diagonal on, both float32, and about. With
2048 features it takes 8 MB instead of 34. Rounding to float32 changes FID by less than 1e-8 if there are more images
than features. With fewer images there are directions without variance, where the square roots of the rounding errors
add up, and FID changes by up to 1e-3.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cm.errors import UserError
from cm.evaluation.moments import Features
from cm.utils import files, npy

FORMS = {
    "summary": ("mean", "covariance", "features", "about"),
    "packed": ("mean", "covariance_triangle", "about"),
    "ADM": ("mu", "sigma", "arr_0"),
    "clean-fid or EDM": ("mu", "sigma"),
    "clean-fid KID": ("feats",),
}
SPATIAL = {"summary": ("spatial_mean", "spatial_covariance"), "ADM": ("mu_s", "sigma_s")}  # where a form may have them
PLACES = "places"  # of the single images of a summary; those of earlier versions have none
UNREAD = "arr_0"  # the images of ADM's files, which the mean and the covariance do not need
PICKLE = ".pkl"
TOLERANCE = 1e-6  # relative to the largest entry: for asymmetry of a covariance, and for variances below zero
LARGEST = 1e30  # of a number; features are far smaller, and squares of larger numbers overflow


@dataclass(frozen=True, eq=False)
class Statistics:
    """The content of a file: `mean` [D] and `covariance` [D, D], float64, and what else it has.

    `features` [n, D], float32: the features of single images, None if the file has none. `about`: the description of
    what the statistics are of; for files of other projects the file name, form and digest. `spatial`: the mean [S] and
    the covariance [S, S] of the spatial features, None if the file has none. `places` [n]: the places of the single
    images in the set, None if the file does not say.
    """

    mean: np.ndarray
    covariance: np.ndarray
    features: np.ndarray | None
    about: dict[str, Any]
    spatial: tuple[np.ndarray, np.ndarray] | None = None
    places: np.ndarray | None = None


def is_statistics(path: Path | str) -> bool:
    """Whether `read` reads this file: a .npz file of a known form, or a pickle of EDM2, for which `read` has advice.

    ADM's files are sets of images as well. Raises UserError for a .npz file that is missing or damaged.
    """
    suffix = Path(path).suffix.lower()
    if suffix == PICKLE:
        return True
    return suffix == ".npz" and not Path(path).is_dir() and _recognize(npy.array_names(path)) is not None


def read(path: Path | str) -> Statistics:
    """The statistics in a file of any of the forms.

    Raises UserError for a file of another form, and for arrays that are not the mean and covariance of anything.
    """
    path = Path(path)
    if path.suffix.lower() == PICKLE:
        raise UserError(f"{path} is a pickle, which is not read: save its 'fid' with np.savez(file, mu=..., sigma=...)")
    names = npy.array_names(path)
    form = _recognize(names)
    if form is None:
        known = "; ".join(f"{', '.join(needed)} ({of})" for of, needed in FORMS.items())
        raise UserError(f"{path} has no statistics but {', '.join(names) or 'nothing'}; known: {known}")
    arrays = npy.read_arrays(path, _select_arrays(form, names))
    places = arrays.pop(PLACES, None)
    about = _parse_about(path, arrays.pop("about")) if "about" in arrays else _describe_file(path, form)
    for name, array in arrays.items():
        _check_numbers(array, f"{path}, {name}")
    mean, covariance = _check_moments(*_find_moments(path, arrays), path)
    pair = [arrays[name] for name in SPATIAL.get(form, ()) if name in arrays]
    spatial = _check_moments(pair[0], pair[1], path) if pair else None
    features = _find_features(path, arrays, len(mean))
    return Statistics(mean, covariance, features, about, spatial, _check_places(path, places, features))


def pack(path: Path | str, mean: np.ndarray, covariance: np.ndarray, about: Mapping[str, Any]) -> None:
    """Write the packed form of a mean [D] and a covariance [D, D]; the same statistics always become the same bytes.

    Raises UserError for what `read` would refuse.
    """
    for name, array in (("mean", mean), ("covariance", covariance)):
        _check_numbers(array, f"{path}, {name}")
    mean, covariance = _check_moments(mean, covariance, path)
    triangle = covariance[_upper_triangle(len(mean))].astype(np.float32)
    description = np.array(json.dumps(about))
    with files.replace_file(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, mean=mean.astype(np.float32), covariance_triangle=triangle, about=description)


def _recognize(names: Sequence[str]) -> str | None:
    """The first form whose arrays are all among these, None without one."""
    return next((form for form, needed in FORMS.items() if set(needed) <= set(names)), None)


def _select_arrays(form: str, names: Sequence[str]) -> list[str]:
    """The arrays of a file of some form that are read."""
    pair, places = SPATIAL.get(form, ()), (PLACES,) if form == "summary" and PLACES in names else ()
    wanted = FORMS[form] + (pair if set(pair) <= set(names) else ()) + places
    return [name for name in wanted if name != UNREAD]


def _check_places(path: Path, places: np.ndarray | None, features: np.ndarray | None) -> np.ndarray | None:
    """The places as they are; UserError unless they are a whole number, 0 or more, for each single image."""
    if places is None:
        return None
    count = 0 if features is None else len(features)
    if places.shape != (count,) or places.dtype.kind != "i" or (places < 0).any():
        raise UserError(f"{path}, {PLACES} must be {count} whole numbers, 0 or more")
    return places


def _describe_file(path: Path, form: str) -> dict[str, str]:
    return {"file": path.name, "form": form, "sha256": files.sha256_of(path)}


def _parse_about(path: Path, stored: np.ndarray) -> dict[str, Any]:
    about = files.parse_json(str(stored), f"{path}, about")
    if not isinstance(about, dict):
        raise UserError(f"{path}, about must be an object of JSON, not {type(about).__name__}")
    if not isinstance(about.get("reference", {}), dict):
        raise UserError(
            f"{path}, about: its reference must be an object of JSON, not {type(about['reference']).__name__}"
        )
    return _rename_halves(about)


def _rename_halves(about: dict[str, Any]) -> dict[str, Any]:
    """The description with the key `split_halves`, which packed files of earlier versions call `halves`."""
    of = about.get("reference")
    if not isinstance(of, dict) or "halves" not in of:
        return about
    return {**about, "reference": {"split_halves" if key == "halves" else key: of[key] for key in of}}


def _check_numbers(array: np.ndarray, where: str) -> None:
    if array.dtype.kind != "f":
        raise UserError(f"{where} must be floating-point numbers, not {array.dtype}")
    if not np.isfinite(array).all():
        raise UserError(f"{where}: {np.count_nonzero(~np.isfinite(array))} of {array.size} numbers are not finite")
    if array.size and np.abs(array).max() > LARGEST:
        raise UserError(f"{where} has the number {np.abs(array).max():.3g}, which is too large for features")


def _find_moments(path: Path, arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The mean and the covariance, computed from what the file has instead if necessary."""
    if "feats" in arrays:
        return _compute_moments(path, arrays["feats"])
    if "covariance_triangle" in arrays:
        return arrays["mean"], _unfold(path, arrays["covariance_triangle"], arrays["mean"].size)
    if "mean" in arrays:
        return arrays["mean"], arrays["covariance"]
    return arrays["mu"], arrays["sigma"]


def _compute_moments(path: Path, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if features.ndim != 2 or len(features) < 2:
        raise UserError(f"{path}, feats must be [N, D] with N of at least 2, not {list(features.shape)}")
    return Features(features).moments()


def _unfold(path: Path, triangle: np.ndarray, width: int) -> np.ndarray:
    """The covariance [D, D], float64, from its upper triangle."""
    if triangle.shape != (width * (width + 1) // 2,):
        raise UserError(
            f"{path}: {list(triangle.shape)} numbers are not the triangle of a covariance of {width} features"
        )
    covariance = np.zeros((width, width))
    covariance[_upper_triangle(width)] = triangle
    return covariance + np.triu(covariance, 1).T


def _upper_triangle(width: int) -> np.ndarray:
    """The mask of the upper triangle of a matrix, with its diagonal."""
    return np.triu(np.ones((width, width), bool))


def _find_features(path: Path, arrays: Mapping[str, np.ndarray], width: int) -> np.ndarray | None:
    """The features of single images, None if the file has none."""
    name = next((name for name in ("features", "feats") if name in arrays), None)
    if name is None:
        return None
    if arrays[name].shape[1:] != (width,):
        raise UserError(f"{path}, {name} must be [n, {width}] as the mean is [{width}], not {list(arrays[name].shape)}")
    return arrays[name].astype(np.float32, copy=False)


def _check_moments(mean: np.ndarray, covariance: np.ndarray, path: Path | str) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64; UserError unless they are a mean [D] and a covariance [D, D]."""
    if mean.ndim != 1 or not mean.size or covariance.shape != 2 * mean.shape:
        shapes = f"not {list(mean.shape)} and {list(covariance.shape)}"
        raise UserError(f"{path}: mean and covariance must be [D] and [D, D], {shapes}")
    covariance = covariance.astype(np.float64)
    tolerance = TOLERANCE * np.abs(covariance).max()
    asymmetry = np.abs(covariance - covariance.T).max()
    if asymmetry > tolerance:
        raise UserError(f"{path}: the covariance is not symmetric: two entries differ by {asymmetry:.3g}")
    lowest = covariance.diagonal().min()
    if lowest < -tolerance:
        raise UserError(f"{path}: the covariance has a negative variance, {lowest:.3g}")
    _check_definite(covariance, path)
    return mean.astype(np.float64), covariance


def _check_definite(covariance: np.ndarray, path: Path | str) -> None:
    """UserError for a covariance C with a negative eigenvalue: C + e I has a Cholesky factor only without one.

    e is the tolerance for rounding, relative to the Frobenius norm of C, which is at least its largest eigenvalue.
    """
    norm = np.linalg.norm(covariance)
    shift = TOLERANCE * norm if norm else 1.0
    try:
        np.linalg.cholesky(covariance + shift * np.eye(len(covariance)))
    except np.linalg.LinAlgError:
        raise UserError(f"{path}: the covariance is not one: in some direction the variance is negative") from None
