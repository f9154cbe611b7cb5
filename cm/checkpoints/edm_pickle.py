"""Network snapshots of NVIDIA's EDM: pickles that carry the source code of their classes, read without running it.

A pickle can name any function and have it called. `Reader` knows a fixed list of names and gives each an inert
stand-in: a module becomes a `Held`, which only keeps its state, and the source code in it stays text. Any other name is
refused.
"""

from __future__ import annotations

import collections
import io
import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cm.checkpoints.torch_file import reason, restricted
from cm.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

PRECONDITIONING = "EDMPrecond"
PREFIX = "model."


def read(path: Path) -> dict[str, Tensor]:
    """Parameters and buffers of the averaged network by EDM's names, which are ours.

    UserError for a damaged file, another preconditioning than EDM's, or a pickle that asks for anything else to be run.
    """
    try:
        with open(path, "rb") as file:
            snapshot = Reader(file).load()
        network: Held = snapshot["ema"]
        tensors = dict(_tensors(network))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except Exception as error:  # a damaged pickle can raise almost anything
        raise UserError(f"{path} is not a whole network snapshot of EDM: {_problem(error)}") from None
    if network.name != PRECONDITIONING:
        raise UserError(f"{path} holds a network in {network.name!r:.60}, not in '{PRECONDITIONING}'")
    return {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}


class Held:
    """What a pickle said about an object of any class: the name of the class, where it is told, and the state."""

    name = ""
    state: Any = None

    def __init__(self, *arguments: object) -> None:
        """Arguments of the constructor are of no use here."""

    def __setstate__(self, state: Any) -> None:
        self.state = state


class Reader(pickle.Unpickler):
    """An unpickler for which nothing exists but the names below."""

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name; functions are wrapped anew, so that attributes a pickle sets on one end with it."""
        full = f"{module}.{name}"
        if full in CONTAINERS:
            return CONTAINERS[full]
        if full in FUNCTIONS:
            function = FUNCTIONS[full]
            return lambda *arguments: function(*arguments)
        if full in INERT or module.startswith("torch.nn.modules."):
            return Held
        raise UserError(f"it asks for {full!r}, which is neither a tensor nor a plain container: refused")


def _persistent(meta: dict) -> Held:
    """Stands in for `torch_utils.persistence._reconstruct_persistent_obj`, which would execute `meta['module_src']`."""
    held = Held()
    held.name, held.state = meta["class_name"], meta["state"]
    return held


def _storage(data: bytes) -> Tensor:
    """Stands in for `torch.storage._load_from_bytes`: bytes to a flat tensor, by torch's restricted unpickler."""
    import torch

    try:
        storage = restricted(io.BytesIO(data))
    except Exception as error:  # a damaged pickle can raise almost anything
        raise UserError(f"a tensor in it cannot be read: {reason(error)}") from None
    return torch.empty(0, dtype=storage.dtype).set_(storage._untyped_storage)


def _tensor(flat: Tensor, offset: int, shape: Sequence[int], stride: Sequence[int], *_: object) -> Tensor:
    """Stands in for `torch._utils._rebuild_tensor_v2`; refuses shapes that reach beyond the storage."""
    return flat.as_strided(tuple(shape), tuple(stride), offset)


def _parameter(data: Tensor, *_: object) -> Tensor:
    """Stands in for `torch._utils._rebuild_parameter`."""
    return data


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "torch_utils.persistence._reconstruct_persistent_obj": _persistent,
    "torch.storage._load_from_bytes": _storage,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
}
CONTAINERS = {"collections.OrderedDict": collections.OrderedDict, "builtins.set": set, "__builtin__.set": set}
CONTAINERS |= {"dnnlib.util.EasyDict": collections.OrderedDict}
INERT = {f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")} | {"numpy.dtype"}


def _tensors(module: Held, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    import torch

    for kind in ("_parameters", "_buffers"):
        for name, tensor in module.state[kind].items():
            if isinstance(tensor, torch.Tensor):
                yield prefix + name, tensor
    for name, child in module.state["_modules"].items():
        if child is not None:
            yield from _tensors(child, f"{prefix}{name}.")


def _problem(error: Exception) -> str:
    return f"it has no {error}" if isinstance(error, KeyError) else reason(error)
