"""State dicts of `torch.save`, of torch 1.6 (a zip archive) and before, read by torch's restricted unpickler."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cm.errors import UserError
from cm.utils import files, unpacking

if TYPE_CHECKING:
    from torch import Tensor


def read(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a state dict by name, memory-mapped if the file is a zip archive.

    Raises UserError for a file that is damaged, holds anything else, or asks for code to be executed.
    """
    import torch

    try:
        state = load_restricted(path, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a damaged pickle can raise almost anything
        raise UserError(f"{path} is not a whole state dict of torch.save: {describe_error(error)}") from None
    if not isinstance(state, Mapping) or not state:
        raise UserError(f"{path} holds a {type(state).__name__} in place of a state dict")
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise UserError(f"{path} is no state dict: its {name!r} is a {type(value).__name__}, not a tensor")
    return dict(state)


def write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a state dict, whole or not at all. Raises OSError if there is no room for it."""
    import torch

    with files.replace_file(path) as temporary:
        try:
            torch.save({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
        except RuntimeError as error:  # what torch makes of an error of the disk
            raise OSError(f"{path} cannot be written, perhaps for lack of room: {describe_error(error)}") from None


def load_restricted(file: Path | BytesIO, *, mmap: bool = False) -> Any:
    """Read a file with torch's restricted unpickler, which knows only tensors and plain containers.

    Raises UnpicklingError for anything else; a damaged file can raise almost any exception.
    """
    import torch

    if zipfile.is_zipfile(file):
        check_expansion(file)
    if isinstance(file, BytesIO):
        file.seek(0)
    with warnings.catch_warnings(action="ignore"):
        return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)


def check_expansion(file: Path | BytesIO) -> None:
    """Raise ValueError for a zip archive whose members have far more bytes than it has.

    torch does not compress tensors, only the code in a TorchScript archive.
    """
    with zipfile.ZipFile(file) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    size = file.stat().st_size if isinstance(file, Path) else file.getbuffer().nbytes
    if unpacked > size + unpacking.UNSUSPICIOUS:
        raise ValueError(f"its {size} bytes would expand to {unpacked}")


def describe_error(error: Exception) -> str:
    """One line about an error of an unpickler: the name that it refused, or the message without torch's advice."""
    refused = re.search(r"GLOBAL (\S+)", str(error))
    if refused:
        return f"it asks for {refused[1]!r}, which is refused"
    lines = [line for line in str(error).splitlines() if line and "weights_only" not in line]
    return lines[0][:200] if lines else type(error).__name__
