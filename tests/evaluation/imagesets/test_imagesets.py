"""Sets of images: the same images in every form, and one clear line for everything that is wrong with them."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import fake_sources as fake
import numpy as np
import pytest
from PIL import Image

from cm.errors import UserError
from cm.evaluation import imagesets
from cm.evaluation.imagesets import pictures
from cm.utils import files

NAMES = [f"{folder}/{number}.png" for folder in ("a", "a-b", "b") for number in range(15)]
PIXELS = fake.pixels(len(NAMES), 6, 8)
MEMBERS = {name: fake.encode(image, "PNG") for name, image in zip(sorted(NAMES), PIXELS, strict=True)}
ORDERS = {"C": np.ascontiguousarray, "F": np.asfortranarray}


def png(height: int = 6, width: int = 8, mode: str = "RGB", **options) -> bytes:
    """A uniform image."""
    buffer = io.BytesIO()
    Image.new(mode, (width, height), 7).save(buffer, format="PNG", **options)
    return buffer.getvalue()


def packed(kind: str, folder: Path) -> Path:
    """`PIXELS` in one of the forms, with files beside them that are not images."""
    path = folder / f"packed.{kind}"
    if kind == "npy":
        np.save(path, PIXELS)
    elif kind == "npz":
        np.savez(path, PIXELS, np.arange(len(PIXELS)))
    elif kind == "compressed.npz":
        np.savez_compressed(path, labels=np.arange(len(PIXELS)), pictures=PIXELS)
    else:
        members = {**dict(reversed(MEMBERS.items())), "notes.txt": b"-", ".hidden.png": b"-", "__MACOSX/0.png": b"-"}
        (fake.write_zip if kind == "zip" else fake.write_folder)(path, members)
    return path


def joined(opened: imagesets.Images, batch: int = 10, workers: int = 2) -> np.ndarray:
    return np.concatenate(list(opened.batches(batch, workers)))


def refusal(path: Path, **options) -> str:
    """The one line that opening ends with; it names the path."""
    with pytest.raises(UserError) as caught:
        imagesets.open_images(path, **options)
    line = str(caught.value)
    assert "\n" not in line and str(path) in line
    return line


def saved(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


@pytest.mark.parametrize("kind", ["folder", "zip", "npz", "compressed.npz", "npy"])
@pytest.mark.parametrize(("batch", "workers"), [(1, 1), (7, 2), (40, 2), (1000, 1)])
def test_the_same_images_however_they_are_packed(tmp_path, kind, batch, workers):
    opened = imagesets.open_images(packed(kind, tmp_path), size=None)
    assert (len(opened), opened.shape) == (len(PIXELS), (6, 8, 3))
    batches = list(opened.batches(batch, workers))
    assert [len(part) for part in batches] == [min(batch, len(PIXELS) - i) for i in range(0, len(PIXELS), batch)]
    assert all(part.dtype == np.uint8 and part.flags.c_contiguous for part in batches)
    assert np.array_equal(np.concatenate(batches), PIXELS)
    assert np.array_equal(joined(opened), PIXELS)


def test_digests_do_not_depend_on_the_packing(tmp_path):
    digest = {kind: imagesets.open_images(packed(kind, tmp_path)).sha256() for kind in ("folder", "zip", "npy", "npz")}
    digests = b"".join(bytes.fromhex(files.sha256(data)) for data in MEMBERS.values())
    assert digest["folder"] == digest["zip"] == files.sha256(digests)
    packed_array = imagesets.open_images(packed("compressed.npz", tmp_path)).sha256()
    assert digest["npy"] == digest["npz"] == packed_array == files.sha256_of(tmp_path / "packed.npy")


def test_the_digest_is_of_contents_in_their_order(tmp_path):
    swapped = dict(zip(MEMBERS, reversed(MEMBERS.values()), strict=True))
    assert imagesets.open_images(fake.write_zip(tmp_path / "other.zip", swapped)).sha256() != files.sha256(
        b"".join(bytes.fromhex(files.sha256(data)) for data in MEMBERS.values())
    )


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_mapped_and_not_loaded(tmp_path, order, save):
    save(tmp_path / "a.npz", ORDERS[order](PIXELS))
    np.save(tmp_path / "a.npy", ORDERS[order](PIXELS))
    for name in ("a.npz", "a.npy"):
        opened = imagesets.open_images(tmp_path / name)
        assert isinstance(opened.pixels, np.memmap)
        assert next(opened.batches(4, 1)).flags.c_contiguous
        assert np.array_equal(joined(opened), PIXELS)


def test_few_images_are_decoded_ahead(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "PART", 2)
    opened = imagesets.open_images(packed("zip", tmp_path))
    decoded, pixels = [], pictures.Pictures._pixels
    monkeypatch.setattr(pictures.Pictures, "_pixels", lambda *given: decoded.append(0) or pixels(*given))
    batches = opened.batches(4, 2)
    next(batches)
    batches.close()
    assert 4 <= len(decoded) <= 4 + 2 * 2 * 2


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
def test_formats(tmp_path, kind):
    data = fake.encode(PIXELS[0], kind)
    opened = imagesets.open_images(fake.write_folder(tmp_path / "f", {f"0.{kind.lower()}": data}))
    assert np.array_equal(joined(opened)[0], np.asarray(Image.open(io.BytesIO(data))))


def test_grey_only_if_all_are_grey(tmp_path):
    grey = {"0.png": png(mode="L"), "1.png": png(mode="1")}
    opened = imagesets.open_images(fake.write_folder(tmp_path / "f", grey))
    assert opened.shape == (6, 8, 1)
    assert (joined(opened)[0] == 7).all() and (joined(opened)[1] == 255).all()
    opened = imagesets.open_images(fake.write_folder(tmp_path / "f", {"2.png": fake.encode(PIXELS[0], "PNG")}))
    assert opened.shape == (6, 8, 3)
    (tmp_path / "f" / "3.png").write_bytes(png(mode="L"))
    opened = imagesets.open_images(tmp_path / "f")
    assert opened.shape == (6, 8, 3)
    assert (joined(opened)[0] == 7).all() and np.array_equal(joined(opened)[2], PIXELS[0])


def test_the_wanted_size(tmp_path):
    path = saved(tmp_path / "a.npy", np.zeros((2, 8, 8, 3), np.uint8))
    assert len(imagesets.open_images(path, size=8)) == 2
    assert "of 8x8 pixels, not 16x16; `cm prepare --dataset folder --resolution 16`" in refusal(path, size=16)
    assert "of 6x8 pixels, not 8x8" in refusal(packed("zip", tmp_path), size=8)


RANGES = {
    "unit": (np.linspace(0, 1, 384), ["in [0, 1]", "(x * 255).round()"]),
    "signed": (np.linspace(-1.02, 1, 384), ["in [-1.02, 1]", "((x + 1) * 127.5)"]),
    "bytes": (np.linspace(0, 255, 384), ["in [0, 255]", " x.round().clip(0, 255).astype('uint8')"]),
    "far": (np.linspace(-3, 1000, 384), ["in [-3, 1000]", "scale them to 0 ... 255"]),
    "nan": (np.array([0.5] * 382 + [np.nan, np.inf]), ["2 of its first 384 values are NaN or infinite"]),
}


@pytest.mark.parametrize("kind", ["npy", "npz", "compressed.npz"])
@pytest.mark.parametrize("name", RANGES)
def test_other_numbers_are_refused_with_their_range(tmp_path, name, kind):
    values, said = RANGES[name]
    array, path = values.reshape(2, 8, 8, 3).astype(np.float32), tmp_path / f"a.{kind}"
    {"npy": np.save, "npz": np.savez, "compressed.npz": np.savez_compressed}[kind](path, array)
    line = refusal(path)
    assert all(part in line for part in ["not float32 [2, 8, 8, 3]", *said]), line


@pytest.mark.parametrize("name", ["unit", "signed", "bytes"])
def test_the_advice_works(tmp_path, name):
    x = RANGES[name][0].reshape(2, 8, 8, 3)
    line = refusal(saved(tmp_path / "a.npy", x))
    converted = eval(line.rpartition("uint8: ")[2], {"x": x})
    assert (converted.min(), converted.max()) == (0, 255)
    assert np.array_equal(joined(imagesets.open_images(saved(tmp_path / "b.npy", converted))), converted)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((2, 3, 8, 8), np.uint8), ["[2, 3, 8, 8]", "put the channels last: x.transpose(0, 2, 3, 1)"]),
        (np.zeros((2, 1, 8, 8), np.float16), ["in [0, 0]", "(x * 255)", "; put the channels last"]),
        (np.zeros((2, 8, 8, 2), np.uint8), ["[2, 8, 8, 2]", "C must be 1 or 3"]),
        (np.zeros((2, 8, 8, 4), np.uint8), ["[2, 8, 8, 4]", "C must be 1 or 3"]),
        (np.zeros((2, 8, 8), np.uint8), ["[2, 8, 8]", "an axis is missing: x[..., None]"]),
        (np.zeros((2, 64), np.uint8), ["expected uint8 images [N, H, W, C], not uint8 [2, 64]"]),
        (np.zeros((0, 8, 8, 3), np.uint8), ["not uint8 [0, 8, 8, 3]"]),
        (np.zeros((0, 8, 8, 3)), ["not float64 [0, 8, 8, 3]"]),
        (np.zeros((2, 8, 8, 3), np.int64), ["int64", "in [0, 0]"]),
        (np.zeros((2, 8, 8, 3), bool), ["not bool", "convert it to uint8"]),
        (np.full((2, 8, 8, 3), None), ["not object", "pickled objects are not read"]),
    ],
)
def test_other_arrays_are_refused(tmp_path, array, said):
    line = refusal(saved(tmp_path / "a.npy", array))
    assert all(part in line for part in said), line
    np.savez(tmp_path / "a.npz", array, np.arange(3))
    line = refusal(tmp_path / "a.npz")
    assert all(part in line for part in said) and "a.npz, arr_0" in line, line


def test_which_array_of_several(tmp_path):
    first, other = PIXELS[:3], PIXELS[3:]
    np.savez(tmp_path / "a.npz", first, other=other)
    assert np.array_equal(joined(imagesets.open_images(tmp_path / "a.npz")), first)
    np.savez(tmp_path / "b.npz", one=first, two=other, mean=np.zeros(3))
    assert "it has one [3, 6, 8, 3], two [42, 6, 8, 3], mean [3]" in refusal(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", mean=np.zeros(3))
    assert "must have images in an array arr_0" in refusal(tmp_path / "c.npz")
    assert "it has none" in refusal(fake.write_zip(tmp_path / "d.npz", MEMBERS))


@pytest.mark.parametrize("kind", ["zip", "npz", "compressed.npz", "npy"])
@pytest.mark.parametrize("keep", [0, 5, 40, -1, -3000])
def test_truncated_files(tmp_path, kind, keep):
    path = packed(kind, tmp_path)
    path.write_bytes(path.read_bytes()[:keep])
    assert "truncated" in (line := refusal(path)) or "not a whole" in line


@pytest.mark.parametrize(("old", "new"), [(b"'|u1'", b"'|zz'"), (b"}", b"("), (b"'shape'", b"'shale'"), (b"Y", b"Z")])
def test_damaged_headers(tmp_path, old, new):
    content = packed("npy", tmp_path).read_bytes().replace(old, new, 1)
    (tmp_path / "a.npy").write_bytes(content)
    assert "is not a whole .npy file" in refusal(tmp_path / "a.npy")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("arr_0.npy", content)
    assert "is not a whole .npz file" in refusal(tmp_path / "a.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_short_array_in_a_whole_archive(tmp_path, save):
    path, buffer = tmp_path / "a.npz", io.BytesIO()
    np.save(buffer, PIXELS)
    kind = zipfile.ZIP_STORED if save is np.savez else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr("arr_0.npy", buffer.getvalue()[:-10])
    assert f"it has {len(buffer.getvalue()) - 10} bytes of {len(buffer.getvalue())}" in refusal(path)


def test_damaged_bytes_in_a_compressed_archive(tmp_path):
    path = packed("compressed.npz", tmp_path)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 8] = bytes(8)
    path.write_bytes(content)
    assert "is not a whole .npz file" in refusal(path)


def test_no_room_for_an_unpacked_array(tmp_path, monkeypatch):
    path = packed("compressed.npz", tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 5}))
    assert "set TMPDIR" in refusal(path)


@pytest.mark.parametrize("pack", [fake.write_folder, fake.write_zip])
@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "5.png cannot be used: it is not a PNG, JPEG, WEBP, BMP image"),
        (MEMBERS["a/0.png"][:20], "5.png cannot be used"),
        (fake.encode(PIXELS[0], "GIF"), "5.png cannot be used: it is not a PNG, JPEG, WEBP, BMP image"),
        (png(mode="RGBA"), "5.png cannot be used: it has transparency"),
        (png(mode="LA"), "5.png cannot be used: it has transparency"),
        (png(mode="P", transparency=0), "5.png cannot be used: it has transparency"),
        (png(mode="RGB", transparency=(0, 0, 0)), "5.png cannot be used: it has transparency"),
        (png(mode="I;16"), "5.png cannot be used: expected 8 bits per channel"),
        (png(8, 6), "several sizes: 0.png of 6x8 and 5.png of 8x6 pixels; `cm prepare"),
    ],
)
def test_one_bad_image(tmp_path, pack, data, said):
    members = {f"{number}.png": png() for number in range(8)} | {"5.png": data, "7.png": png(9, 9)}
    assert said in refusal(pack(tmp_path / "packed.zip", members))


@pytest.mark.parametrize("pack", [fake.write_folder, fake.write_zip])
@pytest.mark.parametrize("workers", [1, 2])
def test_the_first_damaged_image_is_named(tmp_path, monkeypatch, pack, workers):
    monkeypatch.setattr(pictures, "PART", 3)
    cut = {name: MEMBERS[name][:-60] for name in ("a/14.png", "b/7.png")}
    opened = imagesets.open_images(pack(tmp_path / "packed.zip", MEMBERS | cut))
    batches = opened.batches(4, workers)
    assert np.array_equal(next(batches), PIXELS[:4])
    with pytest.raises(UserError, match=r"packed.zip: a/14.png cannot be used"):
        list(batches)


def test_an_image_that_changes_after_opening(tmp_path):
    path = packed("folder", tmp_path)
    opened = imagesets.open_images(path)
    (path / "a/0.png").write_bytes(png(8, 6))
    with pytest.raises(UserError, match=r"a/0\.png cannot be used: it has changed"):
        joined(opened)


def test_a_damaged_member_of_a_zip(tmp_path):
    path = packed("zip", tmp_path)
    content = bytearray(path.read_bytes())
    place = content.index(MEMBERS["a/3.png"])
    content[place + 50] ^= 255
    path.write_bytes(content)
    assert "a/3.png cannot be used: Bad CRC-32" in refusal(path)


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_arrays_that_are_truncated_while_they_are_mapped_are_reported(tmp_path, kind):
    opened = imagesets.open_images(packed(kind, tmp_path))
    batches = opened.batches(4, 1)
    next(batches)
    os.truncate(opened.path, 500)
    with pytest.raises(UserError, match="was truncated while it was read"):
        next(batches)


def test_a_changed_bit_in_a_stored_array_of_an_archive(tmp_path):
    path = packed("npz", tmp_path)
    content = bytearray(path.read_bytes())
    content[2000] ^= 1
    path.write_bytes(content)
    assert "Bad CRC-32" in refusal(path)


def test_nothing_there(tmp_path):
    assert refusal(tmp_path / "none") == f"no file or folder {tmp_path / 'none'}"
    (tmp_path / "empty").mkdir()
    assert "has no images in it" in refusal(tmp_path / "empty")
    assert "has no images in it" in refusal(fake.write_zip(tmp_path / "empty.zip", {}))
    line = refusal(fake.write_zip(tmp_path / "other.zip", {"images.npy": b"-", "folder.png/": b""}))
    assert "has no images in it" in line and line.endswith("only files such as images.npy")


@pytest.mark.parametrize("suffix", [".tar", ".pt", "", ".zip", ".npz", ".npy"])
def test_files_of_something_else(tmp_path, suffix):
    path = tmp_path / f"other{suffix}"
    fake.tar_gz(path, MEMBERS)
    said = {".zip": "not a zip archive", ".npz": "not a zip archive", ".npy": "not a whole .npy file"}
    assert said.get(
        suffix, "not a set of images: expected a folder, or a file that ends in .zip, .npz, .npy"
    ) in refusal(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read(tmp_path):
    (packed("folder", tmp_path) / "a-b").chmod(0)
    try:
        assert "may not be read" in refusal(tmp_path / "packed.folder")
    finally:
        (tmp_path / "packed.folder" / "a-b").chmod(0o755)


def test_torch_is_not_imported():
    check = "import sys, cm.evaluation.imagesets; assert 'torch' not in sys.modules and 'PIL' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], cwd=Path(__file__).parents[3], check=True)
