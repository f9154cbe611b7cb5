"""Pickles of NumPy arrays and plain containers, read without executing anything that they contain.

A pickle can name any function and have it called. `loads` knows only the names that arrays consist of, and refuses
every other. NumPy's own functions of these names trust a pickle: with a type of objects, or with fewer bytes than the
shape takes, they make the interpreter read other memory. So each name stands for a function of this module, which
admits plain numbers and exactly as many bytes as they take.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
from collections.abc import Callable
from typing import Any

import numpy as np

PLAIN_TYPE = re.compile(r"[<>|=]?[biuf][1248]")
ORDERS = ("<", ">", "|", "=")
MEMO_COMMANDS = ("PUT", "BINPUT", "LONG_BINPUT")


def loads(data: bytes) -> Any:
    """Return the object in a pickle; strings that Python 2 wrote become bytes.

    Raises pickle.UnpicklingError for a pickle that names anything but the parts of arrays of numbers; a damaged pickle
    can raise almost any exception.
    """
    check_commands(data)
    return _ArrayUnpickler(io.BytesIO(data), encoding="bytes").load()


def check_commands(data: bytes) -> None:
    """Raise UnpicklingError or ValueError for a pickle with damaged commands, or that takes memory for nothing.

    The memo of an unpickler grows to the largest number in a command: ten bytes can ask for 64 GB.
    """
    for command, argument, _ in pickletools.genops(data):
        if command.name in MEMO_COMMANDS and (argument or 0) > len(data):
            raise pickle.UnpicklingError(f"it has {len(data)} bytes and {argument} objects: refused")


class _ArrayUnpickler(pickle.Unpickler):
    """An unpickler that knows the names in `ALLOWED` and no other."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for `module.name` in a pickle."""
        full_name = f"{module.replace('numpy.core', 'numpy._core')}.{name}"
        if full_name not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {full_name!r}, which no array needs: refused")
        return ALLOWED[full_name]()


class _Array(np.ndarray):
    """An array that sets its content only if it is one of plain numbers, with exactly the bytes that they take."""

    def __setstate__(self, state: Any) -> None:
        version, shape, plain_type, fortran, data = state
        dtype = _check_array(shape, plain_type, data)
        super().__setstate__((version, shape, dtype, bool(fortran), bytes(data)))  # type: ignore[arg-type]


class _PlainType:
    """Represents a type of numbers while a pickle is read; the state of the type may set its order of bytes only."""

    def __init__(self, code: Any) -> None:
        text = code.decode("latin-1") if isinstance(code, bytes) else code
        if not isinstance(text, str) or not PLAIN_TYPE.fullmatch(text):
            raise pickle.UnpicklingError(f"its arrays are of type {text!r:.40}, not of plain numbers: refused")
        self.dtype = np.dtype(text)

    def __setstate__(self, state: Any) -> None:
        order = state[1].decode("latin-1") if isinstance(state[1], bytes) else state[1]
        if order not in ORDERS:
            raise pickle.UnpicklingError(f"{order!r:.40} is no order of bytes")
        self.dtype = self.dtype.newbyteorder(order)  # type: ignore[arg-type]


def _check_array(shape: Any, plain_type: Any, data: Any) -> np.dtype:
    """The type of an array; UnpicklingError unless it has a shape, a type of numbers, and the bytes of both."""
    if not isinstance(plain_type, _PlainType) or not isinstance(data, bytes | bytearray):
        raise pickle.UnpicklingError("it has an array of other things than numbers: refused")
    if not isinstance(shape, tuple) or any(type(length) is not int or length < 0 for length in shape):
        raise pickle.UnpicklingError(f"{shape!r:.40} is no shape")
    expected = math.prod(shape) * plain_type.dtype.itemsize
    if len(data) != expected:
        raise pickle.UnpicklingError(f"an array of it has {len(data)} bytes of {expected}")
    return plain_type.dtype


def _make_reconstruct() -> Callable[..., np.ndarray]:
    """Replaces `numpy._core.multiarray._reconstruct`: an empty array, whose content follows as its state."""
    return lambda *_: np.empty(0, np.uint8).view(_Array)


def _make_from_buffer() -> Callable[..., np.ndarray]:
    """Replaces `numpy._core.numeric._frombuffer` of pickle protocol 5."""

    def from_buffer(buffer: Any, plain_type: Any, shape: Any, order: Any) -> np.ndarray:
        dtype = _check_array(shape, plain_type, buffer)
        return np.frombuffer(bytes(buffer), dtype).reshape(shape, order="F" if order == "F" else "C")

    return from_buffer


def _make_dtype() -> Callable[..., _PlainType]:
    """Replaces `numpy.dtype`."""
    return lambda code, *_: _PlainType(code)


def _make_encode() -> Callable[..., bytes]:
    """Replaces `_codecs.encode`, with which Python 3 writes bytes in the protocols of Python 2."""
    return lambda text, encoding: text.encode("latin-1")


# Each value makes the object anew, so that attributes which a pickle sets on it do not outlive the pickle.
ALLOWED: dict[str, Callable[[], Any]] = {
    "numpy.ndarray": lambda: "numpy.ndarray",
    "numpy.dtype": _make_dtype,
    "numpy._core.multiarray._reconstruct": _make_reconstruct,
    "numpy._core.numeric._frombuffer": _make_from_buffer,
    "_codecs.encode": _make_encode,
    "__builtin__.bytes": lambda: lambda: b"",  # how Python 3 writes no bytes in the protocols of Python 2
}
