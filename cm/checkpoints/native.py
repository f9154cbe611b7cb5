"""Our own format: weights and training states as safetensors files, with a description in their metadata.

The metadata `description` has two lines: the description as JSON, and the checksums `sha256 TENSORS DESCRIPTION`. The
first is that of all tensors, with their names, types and shapes; the second is that of the line of JSON and the first
checksum, so that a description alone can be verified too. Both are in one entry because safetensors writes the entries
in a random order, and equal models are to be equal files. A file whose description is JSON alone is one of an earlier
version: it is read without verification, so that models, weights and states that exist stay usable. No change of one
bit makes a file with checksums look like one without.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cm.errors import UserError
from cm.utils import files

if TYPE_CHECKING:
    from torch import Tensor, nn


class DamagedFile(UserError):
    """A file that is not whole: it is truncated, its contents do not have their checksums, or it is of another kind."""


def save(
    path: Path | str, tensors: Mapping[str, Tensor], description: Mapping[str, Any], previous: Path | None = None
) -> None:
    """Write tensors and a description in JSON types, with their checksums, whole or not at all.

    `previous`: the name that a file that is already at `path` gets; without it, that file is lost.
    """
    on_cpu = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    with files.replace_file(path, previous) as temporary:
        write_tensors(temporary, on_cpu, {"description": _add_checksums(json.dumps(description), on_cpu)})


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file with the permissions that the umask gives new files; raises OSError if that fails.

    safetensors itself writes files that only their owner may read, and reports a full disk by an exception of its own.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(dict(tensors), path, metadata=dict(metadata))
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None
    path.chmod(mode)


def load(path: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors, by name, and the description.

    Raises UserError for a file that is missing or cannot be read, and DamagedFile for one that is truncated or changed,
    or was not written by `save`.
    """
    with _open(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        text, expected = _read_description(file, path)
    if expected is not None and expected != checksum(tensors):
        raise DamagedFile(f"{path} is damaged: its tensors do not have their checksum")
    return tensors, _parse(text, path)


def description(path: Path | str) -> dict[str, Any]:
    """The description alone, verified, without reading the tensors. Raises UserError as `load` does."""
    with _open(path, "numpy") as file:  # without importing torch
        return _parse(_read_description(file, path)[0], path)


@contextlib.contextmanager
def _open(path: Path | str, framework: str = "pt") -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise UserError(f"no file {path}")
    try:
        with safe_open(path, framework=framework) as file:
            yield file
    except (OSError, MemoryError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    except (SafetensorError, ValueError, TypeError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DamagedFile(f"{path} is not a whole safetensors file: {reason}") from None


def _read_description(file: Any, path: Path | str) -> tuple[str, str | None]:
    """The description, as text that has its checksum, and the checksum of the tensors, None in a file without them."""
    metadata = file.metadata() or {}
    if "description" not in metadata:
        raise DamagedFile(f"{path} has no description: it was not written by this suite")
    text, newline, checksums = metadata["description"].partition("\n")
    if not newline:
        return text, None
    of_tensors = checksums[len("sha256 ") :][:64]
    if checksums != _checksum_line(text, of_tensors):
        raise DamagedFile(f"{path} is damaged: its description does not have its checksum")
    return text, of_tensors


def _parse(text: str, path: Path | str) -> dict[str, Any]:
    """The description of a text in JSON; DamagedFile for anything else."""
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        raise DamagedFile(f"{path} is damaged: its description is not JSON")
    return parsed


def _add_checksums(text: str, tensors: Mapping[str, Tensor]) -> str:
    return f"{text}\n{_checksum_line(text, checksum(tensors))}"


def _checksum_line(text: str, of_tensors: str) -> str:
    """The line with the checksum of the tensors, and with that of the description and the first."""
    return f"sha256 {of_tensors} {files.sha256(f'{text} {of_tensors}'.encode())}"


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """The sha256 of tensors with their names, types and shapes, in the order of the names, hexadecimal."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def restore(module: nn.Module, tensors: Mapping[str, Tensor], path: Path | str) -> None:
    """Load the tensors of the file `path` into a module.

    Raises UserError as `compare` does, and for a number that is not finite.
    """
    compare(module.state_dict(), tensors, path)
    check_finite(tensors, path)
    module.load_state_dict(dict(tensors))


def compare(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: object) -> None:
    """Compare the names, shapes and types of the tensors of the file `path` with those of the state dict of a network.

    Weights may be of any floating-point type of at least 16 bits. Raises UserError that names the file and the first
    tensor that is missing, of another shape or type, or superfluous.
    """
    for name, tensor in expected.items():
        if name not in tensors:
            raise UserError(f"{path} holds another network: it has no {name} {list(tensor.shape)}")
        if tensors[name].shape != tensor.shape:
            shapes = f"{list(tensors[name].shape)}, not {list(tensor.shape)}"
            raise UserError(f"{path} holds another network: its {name} is {shapes}")
        if not _types_agree(tensor, tensors[name]):
            raise UserError(f"{path}: {name} is {tensors[name].dtype}, which is no type of weights")
    superfluous = sorted(set(tensors) - set(expected))
    if superfluous:
        raise UserError(f"{path} holds another network: its {superfluous[0]!r} has no place in this one")


def _types_agree(expected: Tensor, found: Tensor) -> bool:
    """Whether a tensor can take the place of another one: both are weights, or they are of the same type."""
    if not expected.is_floating_point():
        return found.dtype == expected.dtype
    return found.is_floating_point() and found.element_size() >= 2


def check_finite(tensors: Mapping[str, Tensor], path: object) -> None:
    """Raise UserError that names the file `path` and the first tensor with a number that is not finite."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.numel() and not all(end.isfinite() for end in tensor.aminmax()):
            raise UserError(f"{path} is damaged: {name} has numbers that are not finite")
