"""Our own format: weights and training states as safetensors files, with a description in their metadata."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cm.errors import UserError
from cm.utils import files

if TYPE_CHECKING:
    from torch import Tensor, nn


def save(path: Path | str, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write tensors and a description in JSON types, whole or not at all."""
    from safetensors.torch import save_file

    with files.replace_file(path) as temporary:
        on_cpu = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
        save_file(on_cpu, temporary, metadata={"description": json.dumps(description)})
        temporary.chmod(files.default_mode())


def load(path: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors, by name, and the description.

    Raises UserError for a file that is missing, truncated, or not written by `save`.
    """
    with _open(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, _read_description(file, path)  # noqa: SIM118


def description(path: Path | str) -> dict[str, Any]:
    """The description alone, without reading the tensors. Raises UserError as `load` does."""
    with _open(path) as file:
        return _read_description(file, path)


@contextlib.contextmanager
def _open(path: Path | str) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise UserError(f"no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a whole safetensors file: {error}") from None


def _read_description(file: Any, path: Path | str) -> dict[str, Any]:
    metadata = file.metadata() or {}
    if "description" not in metadata:
        raise UserError(f"{path} has no description: it was not written by this suite")
    return json.loads(metadata["description"])


def restore(module: nn.Module, tensors: Mapping[str, Tensor], path: Path | str) -> None:
    """Load the tensors of the file `path` into a module. Raises UserError as `compare` does."""
    compare(module.state_dict(), tensors, path)
    module.load_state_dict(dict(tensors))


def compare(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: object) -> None:
    """Compare the names and shapes of the tensors of the file `path` with those of the state dict of a network.

    Raises UserError that names the file and the first tensor that is missing, of another shape, or superfluous.
    """
    for name, tensor in expected.items():
        if name not in tensors:
            raise UserError(f"{path} holds another network: it has no {name} {list(tensor.shape)}")
        if tensors[name].shape != tensor.shape:
            shapes = f"{list(tensors[name].shape)}, not {list(tensor.shape)}"
            raise UserError(f"{path} holds another network: its {name} is {shapes}")
    superfluous = sorted(set(tensors) - set(expected))
    if superfluous:
        raise UserError(f"{path} holds another network: its {superfluous[0]!r} has no place in this one")
