"""Weights in the file formats of their publishers, read without running anything that is in the files."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from cm.checkpoints import torch_file, torchscript
from cm.errors import UserError
from cm.utils import pickles, unpacking

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

SUFFIXES = {".pt", ".pth", ".ckpt"}


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
    except Exception as error:  # a damaged pickle can raise almost anything
        reason = unpacking.describe(error) if str(error) else "it ends early"
        raise UserError(f"{name} is not a file of weights: {reason}") from None


def _read_torch(data: bytes) -> dict[str, Tensor]:
    import torch

    if torchscript.is_torchscript(data):
        return torchscript.read(data)
    try:
        state = torch_file.load_restricted(io.BytesIO(data))
    except pickle.UnpicklingError as error:  # torch's own message recommends to load the file unsafely
        raise ValueError(f"it holds more than tensors, or something else: {torch_file.describe_error(error)}") from None
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError("it is not a state dict, of names and tensors")
    return dict(state)


def _read_pickled_arrays(data: bytes) -> dict[str, Tensor]:
    import numpy as np
    import torch

    return {name: torch.from_numpy(np.array(array)) for name, array in _flatten(pickles.loads(data), set())}


def _flatten(nested: Any, seen: set[int], prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of nested dicts, by dotted name. Raises ValueError for a dict that stands in several places."""
    import numpy as np

    where = prefix.rstrip(".")
    if isinstance(nested, np.ndarray):
        yield where, nested
    elif not isinstance(nested, Mapping):
        raise ValueError(f"{where or 'it'} is a {type(nested).__name__}, not an array")
    elif id(nested) in seen:
        raise ValueError(f"{where} stands in it more than once")
    else:
        seen.add(id(nested))
        for key, value in nested.items():
            yield from _flatten(value, seen, f"{prefix}{key}.")
