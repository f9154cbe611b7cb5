"""Which form a checkpoint has, from its first bytes."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path

from cm.errors import UserError

KNOWN = {
    "openai": "a state dict of torch.save",
    "jcm": "a flax msgpack of jcm",
    "edm": "a pickle of NVIDIA's EDM",
    "diffusers": "a diffusers folder",
}
TORCH_MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)


def form_of(path: Path) -> str:
    """`openai`, `jcm`, `edm` or `diffusers`; UserError for anything else, a model file of this suite among it."""
    if path.is_dir():
        return "diffusers"
    head = _head(path)
    if head.startswith(b"PK"):
        return _archive(path)
    if head.startswith(TORCH_MAGIC):
        return "openai"
    if head[8:9] == b"{":
        _refuse_safetensors(path)
    if head[0] == pickle.PROTO[0] and head[1:2] <= b"\x05":
        return "edm"
    if 0x81 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF):
        return "jcm"
    raise UserError(f"{path} is no checkpoint of a known form; known: {', '.join(KNOWN.values())}")


def _head(path: Path) -> bytes:
    if not path.is_file():
        raise UserError(f"no file {path}")
    with open(path, "rb") as file:
        head = file.read(32)
    if not head:
        raise UserError(f"{path} is empty")
    return head


def _archive(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise UserError(f"{path} is not a whole zip archive: {error}") from None
    if not any(name.endswith("/data.pkl") for name in names):
        raise UserError(f"{path} is a zip archive, but not one of torch.save: it has no data.pkl")
    return "openai"


def _refuse_safetensors(path: Path) -> None:
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if length < path.stat().st_size else b""
    try:
        metadata = json.loads(header).get("__metadata__", {})
    except (ValueError, AttributeError):
        return
    if "description" in metadata:
        raise UserError(f"{path} is a model file of this suite already: there is nothing to convert")
    raise UserError(f"{path} is a bare safetensors file: give the diffusers folder that it is in")
