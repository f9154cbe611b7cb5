"""MNIST and Fashion-MNIST: where their files come from, and what their padding does."""

from __future__ import annotations

from pathlib import Path

import fake_sources as fake
import numpy as np
import pytest
import served

from cm import data, registry
from cm.data import mnist
from cm.errors import UserError
from cm.utils import files

IMAGES = "train-images-idx3-ubyte"


def pixels(split: str, padding: int) -> np.ndarray:
    """The images of a split of the small source, uint8 [N, H, W, 1]."""
    count = {"train": 20, "t10k": 10}[split]
    raw = np.frombuffer(fake.mnist()[f"{split}-images-idx3-ubyte"][16:], np.uint8).reshape(count, 28, 28, 1)
    return np.pad(raw, ((0, 0), (padding, padding), (padding, padding), (0, 0)))


def labels(count: int) -> np.ndarray:
    return np.arange(count) % 10


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The digests of both data sets are those of the small source."""
    splits = {"train": ("train", 20), "test": ("t10k", 10)}
    for name in ("mnist", "fashion_mnist"):
        data_set = registry.get("dataset", name)
        of_images = {
            padding: {split: files.sha256(pixels(file, padding).tobytes()) for split, (file, _) in splits.items()}
            for padding in (0, 2)
        }
        of_labels = {split: files.sha256(labels(count).tobytes()) for split, (_, count) in splits.items()}
        monkeypatch.setattr(data_set, "images_sha256", of_images)
        monkeypatch.setattr(data_set, "labels_sha256", of_labels)


class Places:
    """The places that Fashion-MNIST can come from; at first, none of them has it."""

    def __init__(self, folder: Path, server: served.Server) -> None:
        self.cache, self.server, self.debian = folder / "cache", server, folder / "debian"
        self.program, self.mirror = folder / "bin" / "apt-get", folder / "mirror"
        self.packed = fake.mnist(packed=True)
        self.archive = self.cache / "downloads" / "packages" / mnist.DEBIAN_ARCHIVE

    def publish(self) -> None:
        """Put the files at their home."""
        self.server.files = {f"/{name}": data for name, data in self.packed.items()}

    def package(self) -> None:
        """Make an `apt-get` that downloads the package."""
        self.program.parent.mkdir()
        self.program.write_text(
            f'#!/bin/sh\necho "$@" >> "{self.mirror}.log"\n/bin/cp "{self.mirror}" {mnist.DEBIAN_ARCHIVE}\n'
        )
        self.program.chmod(0o755)

    def calls(self) -> list[str]:
        """The arguments of the calls of `apt-get`."""
        log = self.mirror.with_name("mirror.log")
        return log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def places(tmp_path, monkeypatch):
    with served.serve() as server:
        yield _make_places(tmp_path, monkeypatch, server)


def _make_places(tmp_path, monkeypatch, server) -> Places:
    places = Places(tmp_path, server)
    fake.deb(
        places.mirror, {f"./usr/share/datasets/fashion-mnist/{name}": file for name, file in places.packed.items()}
    )
    monkeypatch.setenv("CM_CACHE", str(places.cache))
    monkeypatch.setenv("PATH", str(places.program.parent))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(mnist, "FASHION_HOME", server.home)
    monkeypatch.setattr(mnist, "FASHION_SHA256", {name: files.sha256(file) for name, file in places.packed.items()})
    monkeypatch.setattr(mnist, "DEBIAN", places.debian)
    monkeypatch.setattr(mnist, "DEBIAN_SHA256", files.sha256_of(places.mirror))
    return places


def prepare(out: Path, source: Path | None = None, name: str = "fashion_mnist", **settings) -> dict:
    """Prepare the data set; returns its manifest."""
    data.prepare(name, out, source=source, settings=settings, workers=1)
    return files.read_json(out / "manifest.json")


def refusal(out: Path, match: str) -> str:
    with pytest.raises(UserError, match=match) as caught:
        prepare(out)
    assert "\n" not in str(caught.value) and not out.exists()
    return str(caught.value)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
@pytest.mark.parametrize("padding", [0, 2])
def test_the_padding_is_a_setting_and_each_has_its_digests(name, padding, tmp_path, monkeypatch):
    source = fake.write_folder(tmp_path / "x", fake.mnist())
    manifest = prepare(tmp_path / "out", source, name, padding=padding)
    assert manifest["resolution"] == 28 + 2 * padding and manifest["settings"] == {"padding": padding}
    assert np.array_equal(np.load(tmp_path / "out" / "test" / "images.npy"), pixels("t10k", padding))
    sha256 = registry.get("dataset", name).images_sha256
    monkeypatch.setitem(sha256, padding, sha256[2 - padding])
    with pytest.raises(UserError, match="train images of x have sha256"):
        prepare(tmp_path / "other", source, name, padding=padding)


def test_another_padding_is_refused(tmp_path):
    with pytest.raises(UserError, match="padding"):
        prepare(tmp_path / "out", fake.write_folder(tmp_path / "x", fake.mnist()), padding=1)


def test_fashion_mnist_is_fetched_from_its_home_once(places, tmp_path):
    places.publish()
    places.package()
    assert prepare(tmp_path / "a")["source"]["name"].startswith("127.0.0.1-")
    places.server.files = {}
    prepare(tmp_path / "b")
    assert not places.calls() and {path.name for path in places.cache.rglob("*.gz")} == set(places.packed)


def test_without_its_home_fashion_mnist_is_debians_package_downloaded_once(places, tmp_path):
    places.package()
    assert prepare(tmp_path / "a")["source"]["name"] == mnist.DEBIAN_ARCHIVE
    places.publish()
    prepare(tmp_path / "b")
    assert places.calls() == [f"download --quiet {mnist.DEBIAN_PACKAGE}"]
    assert [path.name for path in places.cache.rglob("*") if path.is_file()] == [mnist.DEBIAN_ARCHIVE]


def test_the_cache_comes_before_the_installed_package_and_that_before_a_download(places, tmp_path):
    places.publish()
    fake.write_folder(places.debian, places.packed)
    assert prepare(tmp_path / "a")["source"]["name"] == "debian" and not places.cache.exists()
    fake.write_folder(places.cache / "fashion-mnist" / "data" / "fashion", fake.mnist())
    assert prepare(tmp_path / "b")["source"]["name"] == "fashion-mnist"
    next(places.cache.rglob(IMAGES)).unlink()
    assert prepare(tmp_path / "c")["source"]["name"] == "debian"


def test_a_damaged_download_is_reported_and_not_used_later(places, tmp_path):
    places.publish()
    whole = places.packed[f"{IMAGES}.gz"]
    places.server.files[f"/{IMAGES}.gz"] = whole[:-9] + b"x" * 9
    line = refusal(tmp_path / "out", "Fashion-MNIST is unavailable")
    assert "removed, try again" in line and "no 'apt-get' here" in line
    assert not [path for path in places.cache.rglob("*") if path.is_file()]
    places.server.files[f"/{IMAGES}.gz"] = whole
    prepare(tmp_path / "out")


def test_a_damaged_package_is_reported_and_not_used_later(places, tmp_path):
    places.package()
    whole = places.mirror.read_bytes()
    places.mirror.write_bytes(whole[:-9])
    refusal(tmp_path / "out", "unavailable.*sha256")
    assert not [path for path in places.cache.rglob("*") if path.is_file()]
    places.mirror.write_bytes(whole)
    prepare(tmp_path / "out")
    places.archive.write_bytes(whole[:-9])
    assert str(places.archive) in refusal(tmp_path / "other", "damaged or another file")


def test_the_error_says_what_to_fetch_from_where_and_where_to_put_it(places, tmp_path):
    line = refusal(tmp_path / "out", "unavailable")
    assert all(f"{name}" in line for name in places.packed) and places.server.home in line
    assert str(places.cache / "fashion-mnist") in line
    assert mnist.DEBIAN_PACKAGE in line and str(places.cache / mnist.DEBIAN_ARCHIVE) in line


@pytest.mark.parametrize("damage", [lambda data: data[:-90], lambda data: data[:100], lambda data: data[:8],
                                    lambda data: data.replace(b"data.tar", b"note.tar")])  # fmt: skip
def test_a_damaged_debian_package_of_the_user_is_refused(damage, places, tmp_path):
    source = tmp_path / "x.deb"
    source.write_bytes(damage(places.mirror.read_bytes()))
    with pytest.raises(UserError, match=r"x.deb is (truncated|incomplete)") as caught:
        prepare(tmp_path / "out", source)
    assert "\n" not in str(caught.value)
