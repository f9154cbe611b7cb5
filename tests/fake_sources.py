"""Small sources of all data sets in exactly their formats, filled with images of our own."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import pickle
import tarfile
import zipfile
from pathlib import Path

import lmdb
import numpy as np
from PIL import Image

BATCH = 4
SYNSETS = ("n01440764", "n01443537", "n02099601")


def pixels(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 [count, height, width, 3]: smooth in space, so that they stay distinct as JPEG."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 4, 5, 3), dtype=np.uint8)
    images = [Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR) for image in coarse]
    return np.stack([np.asarray(image) for image in images])


def encode(image: np.ndarray, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format=kind)
    return buffer.getvalue()


def jpegs(count: int, height: int = 150, width: int = 200, seed: int = 0) -> list[bytes]:
    return [encode(image) for image in pixels(count, height, width, seed)]


def _tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(data)
            archive.addfile(about, io.BytesIO(data))
    return path


def tar_gz(path: Path, members: dict[str, bytes]) -> Path:
    return _tar(path, members, "w:gz")


def deb(path: Path, members: dict[str, bytes]) -> Path:
    """A Debian package: an ar archive of its version, of a member with an odd length, and of two tars."""
    parts = {"debian-binary": b"2.0\n", "_odd": b"odd"}
    for name, contents in (("control.tar.xz", {"control": b""}), ("data.tar.xz", members)):
        parts[name] = _tar(path.with_suffix(".inner"), contents, "w:xz").read_bytes()
    path.with_suffix(".inner").unlink()
    headers = {name: f"{name:16}{0:<12}{0:<6}{0:<6}{'100644':8}{len(data):<10}`\n" for name, data in parts.items()}
    path.write_bytes(
        b"!<arch>\n" + b"".join(headers[name].encode() + data + b"\n" * (len(data) % 2) for name, data in parts.items())
    )
    return path


def write_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def write_folder(path: Path, members: dict[str, bytes]) -> Path:
    for name, data in members.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def cifar_arrays() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Batch name to uint8 [BATCH, 32, 32, 3] and labels."""
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    random = np.random.default_rng(1)
    return {name: (random.integers(0, 256, (BATCH, 32, 32, 3), dtype=np.uint8), np.arange(BATCH)) for name in names}


def _planes(images: np.ndarray) -> np.ndarray:
    return images.transpose(0, 3, 1, 2).reshape(len(images), 3072)


def cifar_python(protocol: int = 2) -> dict[str, bytes]:
    """The official archive: dicts with bytes as keys, pickled by Python 2."""
    members = {}
    for name, (images, labels) in cifar_arrays().items():
        batch = {
            b"batch_label": b"of 5",
            b"labels": labels.tolist(),
            b"data": _planes(images),
            b"filenames": [b"a.png"],
        }
        members[f"cifar-10-batches-py/{name}"] = pickle.dumps(batch, protocol)
    return {**members, "cifar-10-batches-py/readme.html": b"<html>"}


def cifar_binary() -> dict[str, bytes]:
    rows = {
        name: np.hstack([labels[:, None].astype(np.uint8), _planes(images)])
        for name, (images, labels) in cifar_arrays().items()
    }
    return {f"cifar-10-batches-bin/{name}.bin": data.tobytes() for name, data in rows.items()}


def cifar_sheets() -> dict[str, bytes]:
    arrays = cifar_arrays()
    members = {
        f"package/{name}.png": encode(images.reshape(BATCH, 1024, 3), "PNG") for name, (images, _) in arrays.items()
    }
    labels = {name: part.tolist() for name, (_, part) in arrays.items()}
    train = np.concatenate([part for name, part in labels.items() if name != "test_batch"]).tolist()
    members["package/train_lables.json"] = json.dumps(train).encode()
    members["package/test_lables.json"] = json.dumps(labels["test_batch"]).encode()
    return members


CIFAR = {"python": cifar_python, "binary": cifar_binary, "sheets": cifar_sheets}


def imagenet(count: int = 3) -> dict[str, bytes]:
    """Images by their names `<synset>/<synset>_<number>.JPEG`, in no particular order."""
    keys = itertools.product(range(count, 0, -1), SYNSETS[::-1])
    names = [f"{synset}/{synset}_{number}.JPEG" for number, synset in keys]
    return dict(zip(names, jpegs(len(names)), strict=True))


def imagenet_tar(path: Path, members: dict[str, bytes]) -> Path:
    inner = {}
    for synset in {name.split("/")[0] for name in members}:
        own = {name.split("/")[1]: data for name, data in members.items() if name.startswith(synset)}
        inner[f"{synset}.tar"] = _tar(path.with_suffix(".inner"), own).read_bytes()
    return _tar(path, inner)


def lsun(count: int = 4) -> dict[bytes, bytes]:
    """Images, as JPEG and WebP, by keys that are not sorted."""
    images = pixels(count, 260, 300)
    keys = [f"{(7 * number) % 16:x}{number:039x}".encode() for number in range(count)]
    return {key: encode(image, kind) for key, image, kind in zip(keys, images, ["JPEG", "WEBP"] * count, strict=False)}


def lmdb_folder(path: Path, values: dict[bytes, bytes]) -> Path:
    with lmdb.open(str(path), map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key, value)
    return path


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.astype(np.uint8).tobytes()


def mnist(packed: bool = False) -> dict[str, bytes]:
    random, members = np.random.default_rng(2), {}
    for split, count in (("train", 20), ("t10k", 10)):
        members[f"{split}-images-idx3-ubyte"] = idx(random.integers(0, 256, (count, 28, 28)))
        members[f"{split}-labels-idx1-ubyte"] = idx(np.arange(count) % 10)
    return {f"{name}.gz": gzip.compress(data) for name, data in members.items()} if packed else members


def source_of(dataset: str, folder: Path) -> tuple[Path | None, dict]:
    """A small source of a data set, and the settings that the data set needs for it."""
    if dataset == "digits":
        return None, {}
    if dataset == "cifar10":
        return tar_gz(folder / "cifar.tar.gz", cifar_python()), {}
    if dataset == "imagenet64":
        return imagenet_tar(folder / "train.tar", imagenet()), {"images": 9}
    if dataset.startswith("lsun"):
        return lmdb_folder(folder / "lmdb", lsun()), {"images": 4}
    if dataset == "folder":
        return write_folder(folder / "pictures", imagenet()), {"resolution": 16}
    return write_folder(folder / "idx", mnist(packed=True)), {}
