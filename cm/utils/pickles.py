"""Pickles of NumPy arrays and plain containers, read without running anything that is in them."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np


def loads(data: bytes) -> Any:
    """The object in a pickle, with Python 2's strings as bytes.

    pickle.UnpicklingError if it names anything but what arrays are made of; a damaged one can raise almost anything.
    """
    return _Reader(io.BytesIO(data), encoding="bytes").load()


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        full = f"{module.replace('numpy.core', 'numpy._core')}.{name}"
        if full not in ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {full!r}, which no array needs: refused")
        return ADMITTED[full]()


def _encode() -> Callable[..., bytes]:
    """Stands in for `_codecs.encode`, with which Python 3 writes bytes in the protocols of Python 2."""
    return lambda text, encoding: text.encode("latin-1")


def _from_buffer() -> Callable[..., np.ndarray]:
    """Stands in for `numpy._core.numeric._frombuffer`, of the newest protocol."""
    return lambda buffer, dtype, shape, order: np.frombuffer(buffer, dtype).reshape(shape, order=order)


ADMITTED: dict[str, Callable[[], Any]] = {
    "numpy.ndarray": lambda: np.ndarray,
    "numpy.dtype": lambda: np.dtype,
    "numpy._core.multiarray._reconstruct": lambda: np.empty(0).__reduce__()[0],
    "numpy._core.numeric._frombuffer": _from_buffer,
    "_codecs.encode": _encode,
}
