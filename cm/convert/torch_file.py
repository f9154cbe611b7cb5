"""State dicts of `torch.save`, zipped or of the time before torch 1.6, read by torch's restricted unpickler."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cm import files
from cm.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


def read(path: Path) -> dict[str, Tensor]:
    """Tensors by name, memory-mapped where the file allows it; UserError for anything but a whole state dict."""
    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
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

    with files.replacing(path) as temporary:
        torch.save({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)


def reason(error: Exception) -> str:
    """One line of an unpickler's error: the global that it refused, if it did."""
    text = str(error)
    refused = re.search(r"GLOBAL (\S+)", text)
    if refused:
        return f"it asks for {refused[1]}, which is refused"
    return text.splitlines()[0][:200] if text else type(error).__name__
