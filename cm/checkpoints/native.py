"""Weights and training states as safetensors, with a description in the metadata. Nothing is pickled."""

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
    """Write tensors and a JSON-able description, whole or not at all."""
    from safetensors.torch import save_file

    with files.replace_file(path) as temporary:
        whole = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
        save_file(whole, temporary, metadata={"description": json.dumps(description)})
        temporary.chmod(files.default_mode())


def load(path: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and description; UserError if the file is missing, truncated, or not one that `save` wrote."""
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, _description(file, path)  # noqa: SIM118


def description(path: Path | str) -> dict[str, Any]:
    """The description alone, without reading the tensors; UserError as `load`."""
    with _opened(path) as file:
        return _description(file, path)


@contextlib.contextmanager
def _opened(path: Path | str) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise UserError(f"no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a whole safetensors file: {error}") from None


def _description(file: Any, path: Path | str) -> dict[str, Any]:
    metadata = file.metadata() or {}
    if "description" not in metadata:
        raise UserError(f"{path} has no description: it was not written by this suite")
    return json.loads(metadata["description"])


def restore(module: nn.Module, tensors: Mapping[str, Tensor], path: Path | str) -> None:
    """Load weights into a module; UserError that names the first tensor that does not fit."""
    compare(module.state_dict(), tensors, path)
    module.load_state_dict(dict(tensors))


def compare(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: object) -> None:
    """UserError that names `path` and the first of its `tensors` that is not as in `own`, the state of a network."""
    for name, tensor in own.items():
        if name not in tensors:
            raise UserError(f"{path} holds another network: it has no {name} {list(tensor.shape)}")
        if tensors[name].shape != tensor.shape:
            shapes = f"{list(tensors[name].shape)}, not {list(tensor.shape)}"
            raise UserError(f"{path} holds another network: its {name} is {shapes}")
    extra = sorted(set(tensors) - set(own))
    if extra:
        raise UserError(f"{path} holds another network: its {extra[0]!r} has no place in this one")
