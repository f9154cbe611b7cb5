"""Training states of jcm: a msgpack map whose arrays are flax's extension type 1, read without JAX or flax."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from cm.errors import UserError

FIELDS = {"ema": "params_ema", "online": "params", "target": "target_params"}
ARRAY = 1
CHUNKED = "__msgpack_chunked_array__"
DAMAGE = (msgpack.UnpackException, ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError)


def read(path: Path, weights: str = "ema") -> dict[str, np.ndarray]:
    """Arrays by '/'-joined path below the field of `weights`; UserError for a damaged file or one without the field."""
    try:
        fields, tree = _field(path, FIELDS[weights])
        arrays = {} if tree is None else dict(_arrays(tree))
    except DAMAGE as error:
        problem = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is not a whole flax msgpack: {problem}") from None
    if not arrays:
        known = ", ".join(map(repr, fields[:12])) or "nothing"
        raise UserError(f"{path} has no {FIELDS[weights]}, where jcm keeps '{weights}' weights; it has {known}")
    return arrays


def _field(path: Path, wanted: str) -> tuple[list[object], Any]:
    """Names of the fields of a state, and the wanted one; the others, three quarters of the file, are skipped."""
    with open(path, "rb") as file:
        unpacker = msgpack.Unpacker(file, max_buffer_size=0)
        names, found = [], None
        for _ in range(unpacker.read_map_header()):
            names.append(unpacker.unpack())
            if names[-1] == wanted:
                found = unpacker.unpack()
            else:
                unpacker.skip()
        if unpacker.tell() != path.stat().st_size:
            raise ValueError("there are bytes left over")
    return names, found


def _arrays(tree: Any, path: str = "") -> Iterator[tuple[str, np.ndarray]]:
    if isinstance(tree, dict) and CHUNKED not in tree:
        for name, branch in tree.items():
            yield from _arrays(branch, f"{path}/{name}" if path else name)
    else:
        yield path, _joined(tree) if isinstance(tree, dict) else _array(tree)


def _joined(tree: dict) -> np.ndarray:
    """An array that flax cut into pieces because it was larger than 1 GiB."""
    chunks, shape = ([tree[key][str(i)] for i in range(len(tree[key]))] for key in ("chunks", "shape"))
    return np.concatenate([_array(chunk) for chunk in chunks]).reshape(shape)


def _array(leaf: Any) -> np.ndarray:
    if not isinstance(leaf, msgpack.ExtType) or leaf.code != ARRAY:
        raise TypeError(f"a {type(leaf).__name__} stands in place of an array")
    shape, name, data = msgpack.unpackb(leaf.data, raw=True)
    dtype = np.dtype(name.decode())
    if dtype.kind != "f":
        raise TypeError(f"weights are {dtype}")
    return np.frombuffer(data, dtype).reshape(shape)
