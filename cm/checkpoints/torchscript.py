"""The tensors in a TorchScript archive. Nothing of the code in it is compiled or run, which `torch.jit.load` would do.

The archive is a zip: `<name>/data.pkl` pickles the module, `<name>/data/<key>` has the bytes of each
storage, and `<name>/code/` the code. The pickle is read by an unpickler that knows tensors and plain containers only; a
class of the code becomes a `Scripted`, which just keeps its attributes.
"""

from __future__ import annotations

import collections
import io
import pickle
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from cm.checkpoints.torch_file import check_expansion
from cm.utils import pickles, unpacking

if TYPE_CHECKING:
    import torch
    from torch import Tensor

STORAGES = {
    "torch.FloatStorage": "float32",
    "torch.DoubleStorage": "float64",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
}


def is_torchscript(data: bytes) -> bool:
    """Whether these are the bytes of a TorchScript archive."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except unpacking.ARCHIVE_ERRORS:
        return False


def read(data: bytes) -> dict[str, Tensor]:
    """The tensors of a TorchScript archive by dotted name: its parameters, its buffers, and attributes of that type.

    Raises UnpicklingError for an archive that asks for anything but tensors; a damaged one can raise almost any
    exception.
    """
    check_expansion(io.BytesIO(data))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        pickled = archive.read(name)
        pickles.check_commands(pickled)
        module = _ScriptUnpickler(pickled, archive, name.removesuffix("data.pkl")).load()
    if not isinstance(module, Scripted):
        raise pickle.UnpicklingError("it holds no module")
    return dict(_tensors(module, set()))


class Scripted:
    """Represents a module of the archive: keeps its attributes."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _ScriptUnpickler(pickle.Unpickler):
    """An unpickler that knows tensors and plain containers. `prefix`: of the names of the members of the archive."""

    def __init__(self, pickled: bytes, archive: zipfile.ZipFile, prefix: str) -> None:
        super().__init__(io.BytesIO(pickled))
        self._archive, self._prefix = archive, prefix
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for `module.name` in the pickle."""
        full_name = f"{module}.{name}"
        if full_name.startswith("__torch__."):
            return type("Scripted", (Scripted,), {})  # a class of its own, so that a pickle can change no other
        if full_name in FUNCTIONS:
            return FUNCTIONS[full_name]()
        if full_name in STORAGES:
            return full_name
        raise pickle.UnpicklingError(f"it asks for {full_name!r}, which is neither a tensor nor a container: refused")

    def persistent_load(self, pid: Any) -> Tensor:
        """The storage that a persistent id names, as a flat tensor."""
        kind, storage, key, _, count = pid
        if kind != "storage" or not isinstance(key, str):
            raise pickle.UnpicklingError("it has a reference to something else than a storage")
        if key not in self._storages:
            self._storages[key] = self._read_storage(storage, key, count)
        return self._storages[key]

    def _read_storage(self, storage: str, key: str, count: int) -> Tensor:
        import torch

        dtype: torch.dtype = getattr(torch, STORAGES[storage])
        content = bytearray(self._archive.read(f"{self._prefix}data/{key}"))
        if len(content) != count * dtype.itemsize:
            raise pickle.UnpicklingError(f"storage {key} has {len(content)} bytes of {count * dtype.itemsize}")
        return torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)


def rebuild_tensor(flat: Tensor, offset: int, shape: Sequence[int], stride: Sequence[int], *_: object) -> Tensor:
    """Replaces `torch._utils._rebuild_tensor_v2`; refuses shapes that reach beyond the storage."""
    return flat.as_strided(tuple(shape), tuple(stride), offset)


# Each value makes the object anew, so that attributes which a pickle sets on it do not outlive the pickle.
FUNCTIONS: dict[str, Callable[[], Any]] = {
    "torch._utils._rebuild_tensor_v2": lambda: lambda *arguments: rebuild_tensor(*arguments),
    "torch._utils._rebuild_parameter": lambda: lambda data, *_: data,
    "collections.OrderedDict": lambda: collections.OrderedDict,
    **{
        f"torch.jit._pickle.{name}": lambda: lambda values, *_: values
        for name in ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist", "restore_type_tag")
    },
}


def _tensors(module: Scripted, seen: set[int], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield name and tensor of every attribute of a module and of the modules in it."""
    import torch

    if id(module) in seen or not isinstance(module.state, dict):
        raise pickle.UnpicklingError(f"its module {prefix.rstrip('.') or 'itself'!r} has no attributes of its own")
    seen.add(id(module))
    for name, value in module.state.items():
        if isinstance(value, torch.Tensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, Scripted):
            yield from _tensors(value, seen, f"{prefix}{name}.")
