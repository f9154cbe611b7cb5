"""Sources of data sets that are hostile: one line, and neither a hang nor a crash."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import tarfile
import zlib
from pathlib import Path

import fake_sources as fake
import numpy as np
import pytest
from PIL import Image

from cm import data, registry
from cm.data import cropping, decoding, prepared
from cm.data.encoded import is_image_file
from cm.data.sources.folders import list_files
from cm.data.sources.stores import list_lmdb
from cm.errors import UserError
from cm.evaluation import imagesets
from cm.utils import files

PNG = fake.encode(fake.pixels(1, 8, 8)[0], "PNG")


def refusal(read, *arguments, **options) -> str:
    with pytest.raises(UserError) as caught:
        read(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- images ---------------------------------------------------------------------------------------------------------


def raw_png(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG file with any header, and lines of zeros."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    line = 1 + width * {0: 1, 2: 3, 4: 2, 6: 4}[colour] * depth // 8
    lines = zlib.compress(bytes(min(line * height, 10_000)))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")


def written(mode: str, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (8, 8)).save(buffer, format=kind)
    return buffer.getvalue()


MORE_BITS = {
    "16-bit grey": raw_png(8, 8, 16, 0),
    "16-bit colour": raw_png(8, 8, 16, 2),
    "16-bit colour with transparency": raw_png(8, 8, 16, 6),
    "16-bit ppm": b"P6 8 8 65535\n" + bytes(8 * 8 * 6),
    "16-bit pgm": b"P5 8 8 65535\n" + bytes(8 * 8 * 2),
    "16-bit tiff": written("I;16", "TIFF"),
    "float tiff": written("F", "TIFF"),
    "32-bit tiff": written("I", "TIFF"),
    "lab tiff": written("LAB", "TIFF"),
}
EIGHT_BITS = {
    "CMYK": written("CMYK", "JPEG"),
    "grey": written("L", "PNG"),
    "black and white": written("1", "PNG"),
    "palette": written("P", "PNG"),
    "colour": written("RGB", "BMP"),
}


def score(data: bytes, folder: Path) -> None:
    list(imagesets.open_images(fake.write_folder(folder / "scored", {"0.png": data})).batches(1, 1))


def prepare(data_of_image: bytes, folder: Path) -> None:
    source = fake.write_folder(folder / "source", {"0.png": data_of_image})
    data.prepare("folder", folder / "out", source=source, workers=1, settings={"resolution": 8})


@pytest.mark.parametrize("use", [score, prepare])
@pytest.mark.parametrize("name", MORE_BITS)
def test_images_with_more_than_8_bits_are_refused_by_scoring_and_by_preparing(name, use, tmp_path):
    line = refusal(use, MORE_BITS[name], tmp_path)
    assert "expected 8 bits per channel" in line or (use is score and "it is not a PNG" in line)


@pytest.mark.parametrize("name", EIGHT_BITS)
def test_images_with_8_bits_are_scored_and_prepared_alike(name, tmp_path):
    score(EIGHT_BITS[name], tmp_path)
    prepare(EIGHT_BITS[name], tmp_path)
    (scored,) = imagesets.open_images(tmp_path / "scored").batches(1, 1)
    prepared_image = np.load(tmp_path / "out" / "train" / "images.npy")[0]
    assert np.array_equal(np.broadcast_to(scored[0], (8, 8, 3)), prepared_image)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("use", [score, prepare])
@pytest.mark.parametrize(("width", "height"), [(12_000, 12_000), (1 << 31, 1), (1, 1 << 30), (65_535, 65_535)])
def test_images_with_too_many_pixels_are_refused(width, height, use, tmp_path):
    assert "cannot be used" in (line := refusal(use, raw_png(width, height), tmp_path)) or "cannot be decoded" in line


def test_an_image_that_scaling_would_make_huge_is_refused():
    with pytest.raises(ValueError, match="pixels has more than the"):
        cropping.adm(fake.encode(np.zeros((1, 60_000, 3), np.uint8), "PNG"), 64)


FOREIGN = {
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n",
    "PCX": written("RGB", "PCX"),
    "SGI": written("RGB", "SGI"),
    "TGA": written("RGB", "TGA"),
    "ICO": written("RGB", "ICO"),
    "PDF": b"%PDF-1.4\n",
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
}


@pytest.mark.parametrize("use", [score, prepare])
@pytest.mark.parametrize("name", FOREIGN)
def test_only_formats_of_a_list_are_decoded(name, use, tmp_path, monkeypatch):
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("another program was started"))
    line = refusal(use, FOREIGN[name], tmp_path)
    assert "it is not a PNG, JPEG, WEBP, BMP" in line


@pytest.mark.parametrize("kind", decoding.FORMATS)
def test_every_format_of_the_list_is_decoded(kind):
    with decoding.open_image(written("RGB", kind)) as image:
        assert image.size == (8, 8)


# ---- folders --------------------------------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path):
    return fake.write_folder(tmp_path / "pictures", {f"{part}/{i}.png": PNG for part in "ab" for i in range(3)})


LINKS = {
    "to itself": ("loop", ".", "loop and the folder itself are the same folder"),
    "to its parent": ("a/loop", "..", "a/loop and the folder itself are the same folder"),
    "to a class": ("c", "a", "are the same folder"),
    "to an image": ("a/9.png", "../b/1.png", "a/9.png and b/1.png are the same file"),
    "to a missing file": ("a/9.png", "nothing", "a/9.png is a pipe, a device or a broken link"),
    "to itself as a file": ("a/9.png", "9.png", "a/9.png is a pipe, a device or a broken link"),
    "to a device": ("a/9.png", "/dev/zero", "a/9.png is a pipe, a device or a broken link"),
}


@pytest.mark.parametrize("name", LINKS)
def test_links_by_which_images_would_count_twice_or_without_end(name, pictures):
    link, target, message = LINKS[name]
    (pictures / link).symlink_to(target)
    for read in (imagesets.open_images, lambda path: registry.get("dataset", "folder")(8).open(path, path)):
        assert message in refusal(read, pictures)


def test_two_links_to_one_file_outside(pictures, tmp_path):
    (tmp_path / "x.png").write_bytes(PNG)
    (pictures / "a/8.png").symlink_to("../../x.png")
    assert len(list_files(pictures, is_image_file)[0]) == 7
    (pictures / "a/9.png").symlink_to("../../x.png")
    assert "a/9.png and a/8.png are the same file" in refusal(list_files, pictures, is_image_file)


def test_links_to_other_places_are_followed(pictures, tmp_path):
    fake.write_folder(tmp_path / "more", {"0.png": PNG, "deep/1.png": PNG})
    (pictures / "c").symlink_to(tmp_path / "more")
    (pictures / "notes.txt").symlink_to("nothing")
    assert list_files(pictures, is_image_file)[0][-2:] == ["c/0.png", "c/deep/1.png"]
    assert len(imagesets.open_images(pictures)) == 8


def test_two_links_in_twenty_folders_do_not_hang(tmp_path):
    folder = tmp_path
    for depth in range(20):
        folder = folder / "d"
        folder.mkdir()
        for name in ("l", "m"):
            (folder / name).symlink_to(".." if depth else ".")
    assert "are the same folder" in refusal(list_files, tmp_path, is_image_file)


def test_a_thousand_folders_in_each_other(tmp_path):
    deep = tmp_path.joinpath(*["d"] * 1050)
    subprocess.run(["mkdir", "-p", deep], check=True)
    try:
        assert list_files(tmp_path, is_image_file) == ([], [])
    finally:
        subprocess.run(["rm", "-r", tmp_path / "d"], check=True)  # Python's own function would be too deep in itself


@pytest.mark.parametrize("name", ["a/9.png", "9.jpeg"])
def test_a_named_pipe_does_not_block(name, pictures):
    os.mkfifo(pictures / name)
    os.mkfifo(pictures / "no_image")
    for read in (imagesets.open_images, lambda path: registry.get("dataset", "folder")(8).open(path, path)):
        assert f"{name} is a pipe" in refusal(read, pictures)


# ---- tar and LMDB ---------------------------------------------------------------------------------------------------


def set_size(path: Path, size: int) -> None:
    """Change the size in the header of the last member, and its checksum."""
    content = bytearray(path.read_bytes())
    with tarfile.open(path, "r:") as archive:
        start = archive.getmembers()[-1].offset
    content[start + 124 : start + 136] = size.to_bytes(12, "big", signed=True)
    content[start + 124] |= 0x80
    content[start + 148 : start + 156] = b" " * 8
    content[start + 148 : start + 156] = b"%06o\0 " % sum(content[start : start + 512])
    path.write_bytes(content)


@pytest.mark.parametrize("size", [-512, -1024, -10_240, -(1 << 62), 1 << 40, 1 << 62])
@pytest.mark.parametrize("dataset", ["imagenet64", "cifar10"])
def test_sizes_that_no_member_of_a_tar_has(dataset, size, tmp_path):
    path = tmp_path / "a.tar"
    if dataset == "cifar10":
        fake._tar(path, fake.cifar_python())
        set_size(path, size)
    else:
        fake.imagenet_tar(path, fake.imagenet(1))
        set_size(path, size)
    settings = {"images": 3} if dataset == "imagenet64" else {}
    refusal(registry.get("dataset", dataset)(**settings).open, path, tmp_path)


def records(folder: Path, count: int = 300) -> Path:
    return fake.lmdb_folder(folder / "lmdb", {f"{index:040d}".encode(): bytes(600) for index in range(count)})


def test_an_lmdb_that_kills_its_reader_is_one_line(tmp_path, capfd):
    """The library ends the process when a page of records says that it is neither a page of records nor of branches."""
    path = records(tmp_path)
    assert len(list_lmdb(path).names) == 300
    content = bytearray((path / "data.mdb").read_bytes())
    leaves = [page for page in range(2, len(content) // 4096) if content[page * 4096 + 10] == 2]
    for page in leaves[20:]:
        content[page * 4096 + 10] = 0
    (path / "data.mdb").write_bytes(content)
    assert "is not a whole LMDB: it killed the process that read it" in refusal(list_lmdb, path)


def test_a_value_beyond_the_end_of_an_lmdb_kills_a_worker_only(tmp_path):
    path, key = fake.lmdb_folder(tmp_path / "lmdb", dict.fromkeys([b"key-0", b"key-1"], PNG + bytes(3000))), b"key-1"
    content = bytearray((path / "data.mdb").read_bytes())
    place = -1
    while (place := content.find(key, place + 1)) >= 0:
        content[place - 8 : place - 4] = struct.pack("<HH", 0xFFFF, 0x0FFF)
    (path / "data.mdb").write_bytes(content)
    options = {"source": path, "workers": 1, "settings": {"images": 2}}
    assert "a worker was killed" in refusal(data.prepare, "lsun_cat", tmp_path / "out", **options)


@pytest.mark.parametrize("count", [0, 299, 301, 1 << 60])
def test_an_lmdb_with_another_number_of_records_than_it_says(count, tmp_path):
    path = records(tmp_path)
    content = (path / "data.mdb").read_bytes()
    changed = content[:8192].replace(struct.pack("<Q", 300), struct.pack("<Q", count)) + content[8192:]
    assert changed != content
    (path / "data.mdb").write_bytes(changed)
    assert f"has 300 records, its header says {count}" in refusal(list_lmdb, path)


# ---- labels and manifests -------------------------------------------------------------------------------------------

LABELS = {
    "floats": [0.5] * 20,
    "truths": [True] * 20,
    "text": ["1"] * 20,
    "nested": [[1]] * 20,
    "negative": [-1] * 20,
    "too large": [10] * 20,
    "huge": [10**30] * 20,
    "too few": [1] * 19,
    "none": [],
    "an object": {"0": 1},
    "a number": 7,
    "null": None,
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_of_a_json_file(name, tmp_path):
    members = fake.cifar_sheets() | {"package/train_lables.json": json.dumps(LABELS[name]).encode()}
    path = fake.tar_gz(tmp_path / "a.tgz", members)
    assert "a.tgz" in refusal(registry.get("dataset", "cifar10")().open, path, tmp_path)


@pytest.fixture
def digits(tmp_path):
    """Prepared digits, whose files a test may damage."""
    data.prepare("digits", tmp_path / "data")
    return tmp_path / "data"


ENTRIES = {
    "images": [0, -1, 1.5, "899", True, None, [899], 898],
    "shape": [[8, 8], [8, 8, 0], [8, 8, 1.0], "8x8", None, [8, 8, True], [8, 8, 3]],
    "classes": [0, "10", None],
    "sha256": ["", "x" * 64, 5, None, "0" * 64, "../../x"],
    "labels_sha256": ["", 5, None, "0" * 64],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in ENTRIES.items() for value in values])
def test_a_manifest_that_is_not_of_its_data(name, value, digits):
    manifest = files.read_json(digits / "manifest.json")
    manifest["splits"]["train"][name] = value
    (digits / "manifest.json").write_text(json.dumps(manifest))
    refusal(lambda: (prepared.read_images(digits), prepared.read_labels(digits, 10)))


@pytest.mark.parametrize(
    "document", [[], {}, "x", None, {"splits": []}, {"splits": {"test": {}}}, {"splits": {"train": 1}}]
)
def test_a_document_that_is_no_manifest(document, digits):
    (digits / "manifest.json").write_text(json.dumps(document))
    assert "is no manifest of prepared data" in refusal(prepared.read_record, digits)


def test_images_that_were_truncated_changed_or_replaced(digits):
    path = digits / "train" / "images.npy"
    content = path.read_bytes()
    assert len(prepared.read_images(digits)) == 899
    for damaged in (content[:-1], content + b"x", content[:5000] + bytes([content[5000] ^ 1]) + content[5001:]):
        path.write_bytes(damaged)
        assert "images.npy is" in refusal(prepared.read_images, digits)
    np.save(path, np.load(digits / "test" / "images.npy"))
    assert "the manifest says [899, 8, 8, 1]" in refusal(prepared.read_images, digits)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda labels: labels.astype(float), "must be whole numbers"),
        (lambda labels: labels[:-1], "898 labels of 899 images"),
        (lambda labels: labels[:, None], "must be whole numbers [N]"),
        (lambda labels: labels + 1, "must be in 0..9, not in 1..10"),
        (lambda labels: labels - 1, "must be in 0..9, not in -1..8"),
        (lambda labels: labels[::-1], "do not have the digest"),
        (lambda labels: labels.astype(object), "not a whole .npy file"),
    ],
)
def test_labels_that_are_not_those_of_the_images(change, message, digits):
    path = digits / "train" / "labels.npy"
    assert prepared.read_labels(digits, 10).dtype == np.int64
    np.save(path, change(np.load(path)))
    assert message in refusal(prepared.read_labels, digits, 10)


def test_fewer_classes_than_the_labels_have(digits):
    assert "must be in 0..4, not in 0..9" in refusal(prepared.read_labels, digits, 5)


def test_the_digest_of_large_images_is_remembered_until_they_change(digits, monkeypatch, tmp_path):
    monkeypatch.setenv("CM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(prepared, "LARGE", 1)
    computed, compute = [], prepared.sha256_of_pixels
    monkeypatch.setattr(prepared, "sha256_of_pixels", lambda *given: computed.append(given) or compute(*given))
    for _ in range(2):
        prepared.read_images(digits)
    assert len(computed) == 1
    path = digits / "train" / "images.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert "do not have the digest" in refusal(prepared.read_images, digits)
