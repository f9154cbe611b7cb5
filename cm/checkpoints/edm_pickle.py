"""Network snapshots of NVIDIA's EDM: pickles that contain the source code of their classes, read without executing it.

A pickle can name any function and have it called. `SnapshotUnpickler` knows a fixed list of names and replaces each by
something harmless: a module becomes a `Placeholder`, which only keeps its state, and the source code stays text. Every
other name is refused.
"""

from __future__ import annotations

import collections
import io
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cm.checkpoints.torch_file import describe_error, load_restricted
from cm.checkpoints.torchscript import rebuild_tensor
from cm.errors import UserError
from cm.utils import pickles

if TYPE_CHECKING:
    from torch import Tensor

PRECONDITIONING = "EDMPrecond"
PREFIX = "model."


def read(path: Path) -> dict[str, Tensor]:
    """Read the parameters and buffers of the EMA network by EDM's names, which are ours.

    Raises UserError for a damaged file, for another preconditioning than EDM's, and for a pickle that asks for
    anything to be executed.
    """
    try:
        data = path.read_bytes()
        pickles.check_commands(data)
        network: Placeholder = SnapshotUnpickler(io.BytesIO(data)).load()["ema"]
        tensors = dict(_module_tensors(network, set()))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except Exception as error:  # a damaged pickle can raise almost anything
        problem = f"it has no {error}" if isinstance(error, KeyError) else describe_error(error)
        raise UserError(f"{path} is not a whole network snapshot of EDM: {problem}") from None
    if network.name != PRECONDITIONING:
        raise UserError(f"{path} holds a network in {network.name!r:.60}, not in '{PRECONDITIONING}'")
    return {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}


class Placeholder:
    """Stands for an object of any class: keeps its state and, for modules of EDM, the name of the class."""

    name = ""
    state: Any = None

    def __init__(self, *arguments: object) -> None:
        """Ignore the arguments of the constructor."""

    def __setstate__(self, state: Any) -> None:
        self.state = state


class SnapshotUnpickler(pickle.Unpickler):
    """An unpickler that knows the names below and no other."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for `module.name`. Raises UserError for an unknown name.

        Functions are wrapped anew, so that attributes which a pickle sets on them do not outlive the pickle.
        """
        full_name = f"{module}.{name}"
        if full_name in CONTAINERS:
            return CONTAINERS[full_name]
        if full_name in FUNCTIONS:
            function = FUNCTIONS[full_name]
            return lambda *arguments: function(*arguments)
        if full_name in IGNORED or module.startswith("torch.nn.modules."):
            return Placeholder
        raise UserError(f"it asks for {full_name!r}, which is neither a tensor nor a plain container: refused")


def _rebuild_module(meta: dict[str, Any]) -> Placeholder:
    """Replaces `torch_utils.persistence._reconstruct_persistent_obj`, which would execute `meta['module_src']`."""
    placeholder = Placeholder()
    placeholder.name, placeholder.state = meta["class_name"], meta["state"]
    return placeholder


def _load_storage(data: bytes) -> Tensor:
    """Replaces `torch.storage._load_from_bytes`: reads a flat tensor with torch's restricted unpickler."""
    import torch

    try:
        storage = load_restricted(io.BytesIO(data))
    except Exception as error:  # a damaged pickle can raise almost anything
        raise UserError(f"a tensor in it cannot be read: {describe_error(error)}") from None
    return torch.empty(0, dtype=storage.dtype).set_(storage._untyped_storage)


def _rebuild_parameter(data: Tensor, *_: object) -> Tensor:
    """Replaces `torch._utils._rebuild_parameter`."""
    return data


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "torch_utils.persistence._reconstruct_persistent_obj": _rebuild_module,
    "torch.storage._load_from_bytes": _load_storage,
    "torch._utils._rebuild_tensor_v2": rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
}
CONTAINERS = {
    "collections.OrderedDict": collections.OrderedDict,
    "dnnlib.util.EasyDict": collections.OrderedDict,
    "builtins.set": set,
    "__builtin__.set": set,
}
IGNORED = {"numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype"}


def _module_tensors(module: Placeholder, seen: set[int], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield name and tensor of every parameter and buffer of a module and of the modules in it."""
    import torch

    if id(module) in seen:
        raise ValueError(f"its module {prefix.rstrip('.')!r} stands in it twice")
    seen.add(id(module))
    for kind in ("_parameters", "_buffers"):
        for name, tensor in module.state[kind].items():
            if isinstance(tensor, torch.Tensor):
                yield prefix + name, tensor
    for name, child in module.state["_modules"].items():
        if child is not None:
            yield from _module_tensors(child, seen, f"{prefix}{name}.")
