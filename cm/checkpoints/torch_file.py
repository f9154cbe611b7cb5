"""State dicts of `torch.save`, zipped or of the time before torch 1.6, read by torch's restricted unpickler."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cm.errors import UserError
from cm.utils import files

if TYPE_CHECKING:
    from torch import Tensor


def read(path: Path) -> dict[str, Tensor]:
    """Tensors by name, memory-mapped where the file allows it; UserError for anything but a whole state dict."""
    import torch

    try:
        found = restricted(path, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a damaged pickle can raise almost anything
        raise UserError(f"{path} is not a whole state dict of torch.save: {reason(error)}") from None
    if not isinstance(found, Mapping) or not found:
        raise UserError(f"{path} holds a {type(found).__name__} in place of a state dict")
    for name, value in found.items():
        if not isinstance(value, torch.Tensor):
            raise UserError(f"{path} is no state dict: its {name!r} is a {type(value).__name__}, not a tensor")
    return dict(found)


def write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """A state dict, whole or not at all."""
    import torch

    with files.replace_file(path) as temporary:
        torch.save({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)


def restricted(file: Path | BytesIO, *, mmap: bool = False) -> Any:
    """What torch's restricted unpickler makes of a file; it knows tensors and plain containers, and nothing else."""
    import torch

    with warnings.catch_warnings(action="ignore"):
        return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)


def reason(error: Exception) -> str:
    """One line of an unpickler's error: the global that it refused, if it did, and none of torch's advice."""
    refused = re.search(r"GLOBAL (\S+)", str(error))
    if refused:
        return f"it asks for {refused[1]!r}, which is refused"
    lines = [line for line in str(error).splitlines() if line and "weights_only" not in line]
    return lines[0][:200] if lines else type(error).__name__
