"""Weights in the formats that others publish them in, read without running anything that is in the files."""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from cm.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

SUFFIXES = {".pt", ".pth", ".ckpt"}
ARRAYS = {("_reconstruct", "multiarray"), ("ndarray", "numpy"), ("dtype", "numpy")}


def state_dict(data: bytes, name: str) -> dict[str, Tensor]:
    """Tensors by dotted name, of a file that is called `name`.

    `.pt` and `.pth`: a state dict that torch saved, or a TorchScript archive; `.ckpt`: a pickle of nested dicts of
    NumPy arrays. UserError for anything else, and for a file that holds more than tensors.
    """
    suffix = PurePath(name).suffix
    if suffix not in SUFFIXES:
        raise UserError(f"{name}: weights are read from {', '.join(sorted(SUFFIXES))} files, not '{suffix}'")
    try:
        return _arrays(data) if suffix == ".ckpt" else _torch(data)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise UserError(f"{name} is not a file of weights: {str(error).splitlines()[0]}") from None


def _torch(data: bytes) -> dict[str, Tensor]:
    import torch

    if _is_torchscript(data):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch would rather that nobody wrote TorchScript any more
            return dict(torch.jit.load(io.BytesIO(data), map_location="cpu").state_dict())
    state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError("it is not a state dict, of names and tensors")
    return dict(state)


def _is_torchscript(data: bytes) -> bool:
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return False
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return any(PurePath(name).name == "constants.pkl" for name in archive.namelist())


def _arrays(data: bytes) -> dict[str, Tensor]:
    import torch

    nested = _ArrayUnpickler(io.BytesIO(data)).load()
    return {name: torch.from_numpy(array.copy()) for name, array in _flat(nested)}


class _ArrayUnpickler(pickle.Unpickler):
    """Admits NumPy arrays, and the containers and numbers that need no name."""

    def find_class(self, module: str, name: str) -> Any:
        if (name, module.rpartition(".")[2]) not in ARRAYS or module.partition(".")[0] != "numpy":
            raise pickle.UnpicklingError(f"it holds a {module}.{name}, not only arrays")
        import numpy as np

        reconstruct = np.empty(0).__reduce__()[0]
        return reconstruct if name == "_reconstruct" else getattr(np, name)


def _flat(nested: Any, prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    import numpy as np

    if isinstance(nested, np.ndarray):
        yield prefix.rstrip("."), nested
    elif isinstance(nested, Mapping):
        for key, value in nested.items():
            yield from _flat(value, f"{prefix}{key}.")
    else:
        raise ValueError(f"{prefix.rstrip('.') or 'it'} is a {type(nested).__name__}, not an array")
