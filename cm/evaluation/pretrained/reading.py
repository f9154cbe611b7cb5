"""Weights in the file formats of their publishers, read without running anything that is in the files."""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from cm.errors import UserError
from cm.utils import pickles

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

SUFFIXES = {".pt", ".pth", ".ckpt"}
UNREADABLE = (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError)


def state_dict(data: bytes, name: str) -> dict[str, Tensor]:
    """The tensors, by dotted name, in the content `data` of a file called `name`.

    `.pt` and `.pth`: a state dict that torch saved, or a TorchScript archive. `.ckpt`: a pickle of nested dicts of
    NumPy arrays. Raises UserError for anything else, and for a file that holds more than tensors.
    """
    suffix = PurePath(name).suffix
    if suffix not in SUFFIXES:
        raise UserError(f"{name}: weights are read from {', '.join(sorted(SUFFIXES))} files, not '{suffix}'")
    try:
        return _read_pickled_arrays(data) if suffix == ".ckpt" else _read_torch(data)
    except UNREADABLE as error:
        reason = (str(error) or "it ends early").splitlines()[0]
        raise UserError(f"{name} is not a file of weights: {reason}") from None


def _read_torch(data: bytes) -> dict[str, Tensor]:
    import torch

    if _is_torchscript(data):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch deprecates TorchScript
            return dict(torch.jit.load(io.BytesIO(data), map_location="cpu").state_dict())
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # torch's own message recommends to load the file unsafely
        raise ValueError("it holds more than tensors, or something else") from None
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError("it is not a state dict, of names and tensors")
    return dict(state)


def _is_torchscript(data: bytes) -> bool:
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return False
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return any(PurePath(name).name == "constants.pkl" for name in archive.namelist())


def _read_pickled_arrays(data: bytes) -> dict[str, Tensor]:
    import torch

    return {name: torch.from_numpy(array.copy()) for name, array in _flatten(pickles.loads(data))}


def _flatten(nested: Any, prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of nested dicts, by dotted name."""
    import numpy as np

    if isinstance(nested, np.ndarray):
        yield prefix.rstrip("."), nested
    elif isinstance(nested, Mapping):
        for key, value in nested.items():
            yield from _flatten(value, f"{prefix}{key}.")
    else:
        raise ValueError(f"{prefix.rstrip('.') or 'it'} is a {type(nested).__name__}, not an array")
