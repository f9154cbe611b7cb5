"""Files of every format that the suite reads, cut, with changed bits and overwritten: each works or is refused.

A refusal is a UserError of one line. Every other exception, a crash of the interpreter and a hang are faults. The files
are written in the test, and a fixed seed draws the damages. What is hostile in a certain format stands in the tests of
its reader.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path

import fake_sources as fake
import numpy as np
import pytest
import torch
from PIL import Image

from cm import registry
from cm.checkpoints import native, recognition
from cm.data import prepared
from cm.data.cropping import adm
from cm.data.encoded import EncodedImages, is_image_file
from cm.data.sources.folders import list_files
from cm.data.sources.stores import FolderFiles
from cm.errors import UserError
from cm.evaluation import imagesets, reference, sample_file
from cm.evaluation.pretrained import sources
from cm.utils import files, npy

DAMAGES = 10  # of each kind, for each file
PIXELS = fake.pixels(6, 12, 10)


class Adder(torch.nn.Module):
    """A network that TorchScript can save."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
        self.inner = torch.nn.BatchNorm1d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) @ self.weight.T


def statistics(path: Path, save: Callable[..., None]) -> Path:
    root = np.random.default_rng(0).normal(size=(3, 4))
    save(path, mu=np.arange(4.0), sigma=root.T @ root)
    return path


def script(path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates TorchScript
        torch.jit.script(Adder()).save(path)
    return path


def saved(path: Path, write: Callable[[Path], object]) -> Path:
    write(path)
    return path


def picture(kind: str, mode: str = "RGB") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        buffer = io.BytesIO()
        Image.fromarray(PIXELS[0]).convert(mode).save(buffer, format=kind)
        fake.write_folder(folder / "pictures", {f"0.{kind.lower()}": buffer.getvalue()})
        return folder / "pictures" / f"0.{kind.lower()}"

    return write


def data_folder(folder: Path, name: str) -> Path:
    """A prepared data set; returns one of its files."""
    (folder / "train").mkdir()
    labels = np.arange(len(PIXELS))
    np.save(folder / "train" / "images.npy", PIXELS)
    np.save(folder / "train" / "labels.npy", labels)
    digests = {"sha256": files.sha256(PIXELS.tobytes()), "labels_sha256": files.sha256(labels.tobytes())}
    entry = {"images": len(PIXELS), "shape": list(PIXELS.shape[1:]), "classes": 6, **digests}
    (folder / "manifest.json").write_text(json.dumps({"dataset": "x", "splits": {"train": entry}}))
    return folder / name


def open_images(path: Path) -> None:
    list(imagesets.open_images(path).batches(4, 1))


def open_folder_of(path: Path) -> None:
    open_images(path.parent)


def prepare_folder_of(path: Path) -> None:
    """Decode the images as `cm prepare` does, where a damaged one is a problem, which the preparation reports."""
    names, _ = list_files(path.parent, is_image_file)
    images = EncodedImages(FolderFiles(path.parent, names), np.zeros(len(names), np.int64), adm, 8)
    problems = [image.problem for image in images.read() if image.pixels is None]
    if problems:
        raise UserError(problems[0])


def open_data(name: str, **settings: int) -> Callable[[Path], None]:
    def read(path: Path) -> None:
        for images in registry.get("dataset", name)(**settings).open(path, path.parent).splits.values():
            list(images.read())

    return read


def open_data_of_folder(name: str, **settings: int) -> Callable[[Path], None]:
    return lambda path: open_data(name, **settings)(path.parent)


def read_prepared(path: Path) -> None:
    folder = path.parent if path.name == "manifest.json" else path.parent.parent
    prepared.read_images(folder)
    prepared.read_labels(folder, 6)


# For each kind of file: a function that writes it to a folder and returns its path, and one that reads it.
CASES: dict[str, tuple[Callable[[Path], Path], Callable[[Path], object]]] = {
    "statistics": (lambda folder: statistics(folder / "a.npz", np.savez), reference.read),
    "packed statistics": (lambda folder: statistics(folder / "a.npz", np.savez_compressed), reference.read),
    "all arrays": (lambda folder: statistics(folder / "a.npz", np.savez), npy.read_arrays),
    "array": (lambda folder: saved(folder / "a.npy", lambda path: np.save(path, np.arange(9))), npy.read_array),
    "images.npy": (lambda folder: saved(folder / "a.npy", lambda path: np.save(path, PIXELS)), open_images),
    "images.npz": (lambda folder: saved(folder / "a.npz", lambda path: np.savez(path, PIXELS)), open_images),
    "packed.npz": (lambda folder: saved(folder / "a.npz", lambda path: np.savez_compressed(path, PIXELS)), open_images),
    "images.zip": (
        lambda folder: fake.write_zip(folder / "a.zip", {f"{i}.png": fake.encode(PIXELS[i], "PNG") for i in range(3)}),
        open_images,
    ),
    **{f"scored {kind}": (picture(kind), open_folder_of) for kind in ("PNG", "JPEG", "WEBP", "BMP")},
    **{
        f"prepared {kind}": (picture(kind), prepare_folder_of)
        for kind in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
    },
    "cifar pickles": (lambda folder: fake.tar_gz(folder / "a.tar.gz", fake.cifar_python()), open_data("cifar10")),
    "cifar tar": (lambda folder: fake._tar(folder / "a.tar", fake.cifar_python()), open_data("cifar10")),
    "cifar binary": (lambda folder: fake.write_zip(folder / "a.zip", fake.cifar_binary()), open_data("cifar10")),
    "cifar batch": (
        lambda folder: fake.write_folder(folder, fake.cifar_python()) / "cifar-10-batches-py" / "data_batch_1",
        open_data_of_folder("cifar10"),
    ),
    "cifar sheet": (
        lambda folder: fake.write_folder(folder, fake.cifar_sheets()) / "package" / "data_batch_2.png",
        open_data_of_folder("cifar10"),
    ),
    "cifar labels": (
        lambda folder: fake.write_folder(folder, fake.cifar_sheets()) / "package" / "test_lables.json",
        open_data_of_folder("cifar10"),
    ),
    "idx": (
        lambda folder: fake.write_folder(folder, fake.mnist()) / "t10k-images-idx3-ubyte",
        open_data_of_folder("mnist"),
    ),
    "idx.gz": (
        lambda folder: fake.write_folder(folder, fake.mnist(packed=True)) / "t10k-labels-idx1-ubyte.gz",
        open_data_of_folder("mnist"),
    ),
    "debian package": (lambda folder: fake.deb(folder / "a.deb", fake.mnist(packed=True)), open_data("fashion_mnist")),
    "tar of tars": (
        lambda folder: fake.imagenet_tar(folder / "a.tar", fake.imagenet(1)),
        open_data("imagenet64", images=3),
    ),
    "lmdb": (
        lambda folder: fake.lmdb_folder(folder / "lmdb", fake.lsun(2)) / "data.mdb",
        lambda path: registry.get("dataset", "lsun_cat")(images=2).open(path.parent, path.parent),
    ),
    "torchscript": (lambda folder: script(folder / "a.pt"), sources.read_file),
    "state dict": (
        lambda folder: saved(folder / "a.pth", lambda path: torch.save(Adder().state_dict(), path)),
        sources.read_file,
    ),
    "pickled arrays": (
        lambda folder: saved(
            folder / "a.ckpt", lambda path: path.write_bytes(pickle.dumps({"a": {"b": np.arange(6.0)}}, 2))
        ),
        sources.read_file,
    ),
    "pickled arrays 5": (
        lambda folder: saved(
            folder / "a.ckpt", lambda path: path.write_bytes(pickle.dumps({"a": {"b": np.arange(6.0)}}, 5))
        ),
        sources.read_file,
    ),
    "safetensors": (
        lambda folder: saved(
            folder / "a.safetensors", lambda path: native.save(path, {"a": torch.arange(6.0)}, {"run": "x"})
        ),
        native.load,
    ),
    "recognized": (
        lambda folder: saved(
            folder / "a.safetensors", lambda path: native.save(path, {"a": torch.arange(6.0)}, {"run": "x"})
        ),
        recognition.recognize_format,
    ),
    **{
        name: (lambda folder, name=name: data_folder(folder, name), read_prepared)
        for name in ("manifest.json", "train/images.npy", "train/labels.npy")
    },
    "sample description": (
        lambda folder: saved(
            folder / "a.json",
            lambda path: path.write_text('{"run": "a/b/default/seed0", "seed": 1, "seconds": {"sampling": 1.5}}'),
        ),
        lambda path: sample_file.read(path.with_suffix(".npy")),
    ),
}
SLOW = {"lmdb": 3, "debian package": 6}  # fewer damages of what is read in another process, or is large


def outcome(read: Callable[[Path], object], path: Path) -> str:
    """Read a file; the line of its refusal, or an empty text."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of damaged files
            read(path)
    except UserError as error:
        line = str(error)
        assert line and "\n" not in line and len(line) < 600
        return line
    return ""


def flip(content: bytes, random: np.random.Generator) -> bytes:
    """The content with one to three changed bits, half of them in the first bytes, where headers are."""
    damaged = bytearray(content)
    for _ in range(random.integers(1, 4)):
        damaged[random.integers(len(content) if random.random() < 0.5 else min(len(content), 256))] ^= 1 << (
            random.integers(8)
        )
    return bytes(damaged)


def overwrite(content: bytes, random: np.random.Generator) -> bytes:
    """The content with up to 16 other bytes at a random place: noise, zeros or ones."""
    place, count = random.integers(len(content)), random.integers(1, 17)
    other = [random.bytes(count), bytes(count), b"\xff" * count][random.integers(3)]
    return (content[:place] + other + content[place + count :])[: len(content)]


def cut(content: bytes, random: np.random.Generator) -> bytes:
    return content[: random.integers(len(content))]


def extend(content: bytes, random: np.random.Generator) -> bytes:
    return content + random.bytes(random.integers(1, 600))


@pytest.mark.parametrize("name", CASES)
def test_a_whole_file_works(name, tmp_path):
    write, read = CASES[name]
    problem = outcome(read, write(tmp_path))
    assert not problem or (name == "recognized" and "is a model file of this suite already" in problem)


@pytest.mark.parametrize("damage", [flip, overwrite, cut, extend])
@pytest.mark.parametrize("name", CASES)
def test_a_damaged_file_works_or_is_refused_in_one_line(name, damage, tmp_path):
    write, read = CASES[name]
    path, random = write(tmp_path), np.random.default_rng(sum(map(ord, f"{name} {damage.__name__}")))
    content = path.read_bytes()
    for _ in range(SLOW.get(name, DAMAGES)):
        path.write_bytes(damage(content, random))
        outcome(read, path)


@pytest.mark.parametrize("content", [b"", b"\0" * 4096, b"\xff" * 4096, b"[" * 100_000, b"hello\n", b"PK\x05\x06"])
@pytest.mark.parametrize("name", CASES)
def test_a_file_of_something_else_is_refused(name, content, tmp_path):
    write, read = CASES[name]
    path = write(tmp_path)
    path.write_bytes(content)
    assert outcome(read, path) or (name == "sample description" and not content.startswith(b"["))


@pytest.mark.parametrize("name", sorted(set(CASES) - {"sample description"}))
def test_a_pipe_in_place_of_a_file_does_not_block(name, tmp_path):
    write, read = CASES[name]
    path = write(tmp_path)
    path.unlink()
    os.mkfifo(path)
    assert outcome(read, path)
