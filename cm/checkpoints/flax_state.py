"""Training states of jcm: a msgpack map whose arrays are flax's extension type 1, read without JAX or flax."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from cm.errors import UserError

FIELDS = {"ema": "params_ema", "online": "params", "target": "target_params"}
ARRAY = 1
MOST_ENTRIES = 1 << 16  # of a map or a list; memory for them is allocated when their number is read
CHUNKED = "__msgpack_chunked_array__"
READ_ERRORS = (
    msgpack.UnpackException,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    OverflowError,
    RecursionError,
)


def read(path: Path, weights: str = "ema") -> dict[str, np.ndarray]:
    """Read the arrays of one set of weights by their paths, joined with '/'.

    `weights`: `ema`, `online` or `target`. Raises UserError for a damaged file, or one without these weights.
    """
    try:
        names, tree = _read_field(path, FIELDS[weights])
        arrays = {} if tree is None else dict(_flatten(tree))
    except READ_ERRORS as error:
        problem = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is not a whole flax msgpack: {problem}") from None
    if not arrays:
        known = ", ".join(map(repr, names[:12])) or "nothing"
        raise UserError(f"{path} has no {FIELDS[weights]}, where jcm keeps '{weights}' weights; it has {known}")
    return arrays


def _read_field(path: Path, field: str) -> tuple[list[object], Any]:
    """The names of all fields, and the value of one; the others, three quarters of the file, are skipped."""
    with open(path, "rb") as file:
        size = path.stat().st_size
        limits = {"max_array_len": MOST_ENTRIES, "max_map_len": MOST_ENTRIES, "max_str_len": size}
        unpacker = msgpack.Unpacker(file, max_buffer_size=0, max_bin_len=size, max_ext_len=size, **limits)
        names, value = [], None
        for _ in range(min(unpacker.read_map_header(), MOST_ENTRIES)):
            names.append(unpacker.unpack())
            if names[-1] == field:
                value = unpacker.unpack()
            else:
                unpacker.skip()
        if unpacker.tell() != size:
            raise ValueError("there are bytes left over")
    return names, value


def _flatten(tree: Any, path: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Yield path and array of every leaf of nested maps."""
    if not isinstance(tree, dict):
        yield path, _parse_array(tree)
    elif CHUNKED in tree:
        yield path, _join_chunks(tree)
    else:
        for name, branch in tree.items():
            yield from _flatten(branch, f"{path}/{name}" if path else name)


def _join_chunks(tree: Mapping[str, Any]) -> np.ndarray:
    """An array that flax has split because it is larger than 1 GiB."""
    chunks = [_parse_array(chunk) for chunk in _list_values(tree["chunks"])]
    return np.concatenate(chunks).reshape(_list_values(tree["shape"]))


def _list_values(numbered: Mapping[str, Any]) -> list[Any]:
    """The values of a map with the keys "0", "1", ..., as flax stores lists."""
    return [numbered[str(index)] for index in range(len(numbered))]


def _parse_array(leaf: Any) -> np.ndarray:
    if not isinstance(leaf, msgpack.ExtType) or leaf.code != ARRAY:
        raise TypeError(f"a {type(leaf).__name__} stands in place of an array")
    shape, name, data = msgpack.unpackb(leaf.data, raw=True)
    dtype = np.dtype(name.decode())
    if dtype.kind != "f":
        raise TypeError(f"weights are {dtype}")
    if any(type(length) is not int or length < 0 for length in shape) or len(data) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"an array has {len(data)} bytes for the shape {list(shape)!r:.60}")
    return np.frombuffer(data, dtype).reshape(shape)
