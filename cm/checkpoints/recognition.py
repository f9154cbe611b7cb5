"""Recognition of the format of a checkpoint by its first bytes."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

from cm.errors import UserError
from cm.utils import files, unpacking

FORMATS = {
    "openai": "a state dict of torch.save",
    "jcm": "a flax msgpack of jcm",
    "edm": "a pickle of NVIDIA's EDM",
    "diffusers": "a diffusers folder",
}
TORCH_MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)


def recognize_format(path: Path) -> str:
    """Return the format of a checkpoint: `openai`, `jcm`, `edm` or `diffusers`.

    Raises UserError for anything else, including a model file of this suite.
    """
    if path.is_dir():
        return "diffusers"
    head = _read_head(path)
    if head.startswith(b"PK"):
        _check_torch_archive(path)
        return "openai"
    if head.startswith(TORCH_MAGIC):
        return "openai"
    if head[8:9] == b"{":
        _refuse_safetensors(path)
    if head[0] == pickle.PROTO[0] and head[1:2] <= b"\x05":
        return "edm"
    if _starts_msgpack_map(head[0]):
        return "jcm"
    raise UserError(f"{path} is no checkpoint of a known format; known: {', '.join(FORMATS.values())}")


def _starts_msgpack_map(byte: int) -> bool:
    """Whether a msgpack map of 1 to 15 entries, or one with a length of 16 or 32 bits, starts with this byte."""
    return 0x81 <= byte <= 0x8F or byte in (0xDE, 0xDF)


def _read_head(path: Path) -> bytes:
    files.check_regular(path)
    with open(path, "rb") as file:
        head = file.read(32)
    if not head:
        raise UserError(f"{path} is empty")
    return head


def _check_torch_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except unpacking.ARCHIVE_ERRORS as error:
        raise UserError(f"{path} is not a whole zip archive: {unpacking.describe(error)}") from None
    if not any(name.endswith("/data.pkl") for name in names):
        raise UserError(f"{path} is a zip archive, but not one of torch.save: it has no data.pkl")


def _refuse_safetensors(path: Path) -> None:
    """Raise UserError if the file is a safetensors file, which is either ours or only a part of a diffusers folder."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if length < min(path.stat().st_size, files.LARGEST_JSON) else b""
    try:
        parsed = files.parse_json(header, path)
    except UserError:
        return
    metadata = parsed.get("__metadata__") if isinstance(parsed, dict) else None
    if isinstance(metadata, dict) and "description" in metadata:
        raise UserError(f"{path} is a model file of this suite already: there is nothing to convert")
    raise UserError(f"{path} is a bare safetensors file: give the diffusers folder that it is in")
