"""Pickles of NumPy arrays and plain containers, read without executing anything that they contain.

A pickle can name any function and have it called. `loads` knows only the names that arrays consist of, and refuses
every other.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np


def loads(data: bytes) -> Any:
    """Return the object in a pickle; strings that Python 2 wrote become bytes.

    Raises pickle.UnpicklingError for a pickle that names anything but the parts of arrays; a damaged pickle can raise
    almost any exception.
    """
    return _ArrayUnpickler(io.BytesIO(data), encoding="bytes").load()


class _ArrayUnpickler(pickle.Unpickler):
    """An unpickler that knows the names in `ALLOWED` and no other."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for `module.name` in a pickle."""
        full_name = f"{module.replace('numpy.core', 'numpy._core')}.{name}"
        if full_name not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {full_name!r}, which no array needs: refused")
        return ALLOWED[full_name]()


def _make_encode() -> Callable[..., bytes]:
    """Replaces `_codecs.encode`, with which Python 3 writes bytes in the protocols of Python 2."""
    return lambda text, encoding: text.encode("latin-1")


def _make_from_buffer() -> Callable[..., np.ndarray]:
    """Replaces `numpy._core.numeric._frombuffer` of pickle protocol 5."""
    return lambda buffer, dtype, shape, order: np.frombuffer(buffer, dtype).reshape(shape, order=order)


# Each value makes the object anew, so that attributes which a pickle sets on it do not outlive the pickle.
ALLOWED: dict[str, Callable[[], Any]] = {
    "numpy.ndarray": lambda: np.ndarray,
    "numpy.dtype": lambda: np.dtype,
    "numpy._core.multiarray._reconstruct": lambda: np.empty(0).__reduce__()[0],
    "numpy._core.numeric._frombuffer": _make_from_buffer,
    "_codecs.encode": _make_encode,
}
