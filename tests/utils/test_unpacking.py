"""Archives and arrays that lie about their sizes, and pickles that reach for other memory: refused at once."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pickle
import struct
import zipfile
from pathlib import Path

import fake_sources as fake
import numpy as np
import pytest

from cm import registry
from cm.errors import UserError
from cm.utils import files, npy, pickles, unpacking

MEGABYTE = 1 << 20


def refusal(read, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        read(*arguments)
    line = str(caught.value)
    assert "\n" not in line and str(arguments[0]) in line
    return line


def npy_file(descr: object, shape: tuple, data: bytes = b"", *, version: bytes = b"\1\0") -> bytes:
    """A .npy file with any header."""
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}".ljust(117) + "\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header.encode("latin-1") + data


def zip_file(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


ARRAYS = {
    "too short": npy_file("<f8", (4,), bytes(24)),
    "too long": npy_file("<f8", (4,), bytes(40)),
    "a terabyte": npy_file("<f8", (1 << 37,), bytes(40)),
    "overflow": npy_file("<f8", (1 << 61, 8), bytes(40)),
    "huge numbers": npy_file("<f8", (10**300,), bytes(40)),
    "negative": npy_file("<f8", (-4,), bytes(32)),
    "two negatives": npy_file("<f8", (-2, -2), bytes(32)),
    "a truth": npy_file("<f8", (True, 4), bytes(32)),
    "a float": npy_file("<f8", (4.0,), bytes(32)),
    "objects": npy_file("|O", (4,), bytes(32)),
    "records": npy_file([("a", "<f8"), ("b", "|O")], (2,), bytes(32)),
    "bytes without a type": npy_file("|V8", (4,), bytes(32)),
    "dates": npy_file("<M8[ns]", (4,), bytes(32)),
    "nothing": npy_file("<U0", (1 << 40,), b""),
    "no type": npy_file("<q99", (4,), bytes(32)),
    "version 3": npy_file("<f8", (4,), bytes(32), version=b"\3\0"),
    "version 9": npy_file("<f8", (4,), bytes(32), version=b"\x09\0"),
    "code": npy_file("<f8", (4,), bytes(32)).replace(b"(4,)", b"f()#"),
    "deep": b"\x93NUMPY\1\0" + struct.pack("<H", 9000) + b"(" * 9000,
    "long header": b"\x93NUMPY\2\0" + struct.pack("<I", 1 << 31) + b" " * 90,
    "no header": b"\x93NUMPY\1\0",
    "nothing at all": b"",
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_are_checked_before_memory_is_allocated(name, tmp_path):
    (tmp_path / "a.npy").write_bytes(ARRAYS[name])
    assert "is not a whole .npy file" in refusal(npy.read_array, tmp_path / "a.npy")
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        zip_file(tmp_path / "a.npz", {"a.npy": ARRAYS[name]}, compression)
        assert "is not a whole .npz file" in refusal(npy.read_arrays, tmp_path / "a.npz")


@pytest.mark.parametrize("value", [np.arange(6).reshape(2, 3), np.array("text"), np.float16([1, 2]), np.zeros((3, 0))])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_plain_arrays_are_read(value, save, tmp_path):
    save(tmp_path / "a.npz", a=value, f=np.array(value, order="F"))
    for found in npy.read_arrays(tmp_path / "a.npz").values():
        assert found.dtype == value.dtype and np.array_equal(found, value)


def test_an_array_that_is_missing_is_named(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.arange(3), b=np.arange(3))
    assert "has no array c; it has a, b" in refusal(lambda path: npy.read_arrays(path, ["c"]), tmp_path / "a.npz")


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    zeros = bytes(unpacking.UNSUSPICIOUS // 4 + 1)
    path = zip_file(tmp_path / "a.zip", {f"{index}.png": zeros for index in range(4)})
    assert "would expand to" in refusal(unpacking.open_zip, path)
    path = zip_file(tmp_path / "b.zip", {"a.png": zeros})
    with pytest.raises(ValueError, match="more than the 1048576 that are read"):
        unpacking.read_member(unpacking.open_zip(path), "a.png", MEGABYTE)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_with_two_members_of_one_name_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for data in (b"one", b"two"):
            archive.writestr("0.png", data)
    assert "has 2 members of the name '0.png'" in refusal(unpacking.open_zip, tmp_path / "a.zip")


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress, bytes])
def test_a_stream_that_expands_too_much_is_refused(compress):
    whole = unpacking.open_compressed(io.BytesIO(compress(b"x" * MEGABYTE)), MEGABYTE)
    assert whole.read_all() == b"x" * MEGABYTE
    bomb = unpacking.open_compressed(io.BytesIO(compress(b"x" * (MEGABYTE + 1))), MEGABYTE)
    with pytest.raises(ValueError, match="expands to more than the 1048576 bytes"):
        while bomb.read(10_000):
            pass


@pytest.mark.parametrize("kind", ["gzip", "tar.gz", "zip", "folder"])
def test_bombs_in_place_of_a_data_set(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(unpacking, "LARGEST", MEGABYTE)
    monkeypatch.setattr(unpacking.open_compressed, "__defaults__", (MEGABYTE,))
    monkeypatch.setattr("cm.data.mnist.MOST_BYTES", MEGABYTE)
    members = fake.mnist(packed=kind == "gzip")
    name = next(name for name in members if "t10k-images" in name)
    members[name] = gzip.compress(bytes(2 * MEGABYTE)) if kind == "gzip" else bytes(2 * MEGABYTE)
    pack = {"tar.gz": fake.tar_gz, "zip": fake.write_zip}.get(kind, fake.write_folder)
    path = pack(tmp_path / f"a.{kind}", members)
    assert "that are read" in refusal(lambda path: registry.get("dataset", "mnist")().open(path, tmp_path), path)


class Reduced:
    """Pickles as a call of a function, followed by a state."""

    def __init__(self, *call: object) -> None:
        self.call = call

    def __reduce__(self):
        return self.call


RECONSTRUCT = np.empty(0).__reduce__()[0]
START = (np.ndarray, (0,), b"b")
RECORDS = Reduced(np.dtype, ("V16", False, True), (3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 16, 1, 63))
STATES = {
    "objects": (1, (2,), np.dtype("O"), False, [None, None]),
    "objects of bytes": (1, (2,), np.dtype("O"), False, b"\x41" * 16),
    "records with flags": (1, (2,), RECORDS, False, b"\x41" * 32),
    "void": (1, (2,), np.dtype("V8"), False, bytes(16)),
    "text": (1, (2,), np.dtype("U2"), False, bytes(16)),
    "too few bytes": (1, (1 << 40,), np.dtype("u1"), False, bytes(16)),
    "too many bytes": (1, (2,), np.dtype("u1"), False, bytes(16)),
    "negative": (1, (-2, -8), np.dtype("u1"), False, bytes(16)),
    "no shape": (1, "ab", np.dtype("u1"), False, bytes(2)),
    "a float": (1, (16.0,), np.dtype("u1"), False, bytes(16)),
    "a type of numbers and no bytes": (1, (2,), np.dtype("f8"), False, [1.0, 2.0]),
    "no type": (1, (2,), "u1", False, bytes(2)),
    "short state": (1, (2,)),
    "no state": 7,
}
CALLS = {
    "ndarray": Reduced(np.ndarray, ((2,), "O", b"\x41" * 16)),
    "ndarray of memory": Reduced(np.ndarray, ((1 << 40,), "u1")),
    "dtype of records": Reduced(np.dtype, ([("a", "O")],)),
    "dtype of a name": Reduced(np.dtype, ("object",)),
    "reconstruct": Reduced(RECONSTRUCT, (np.ndarray, (1 << 40,), b"b")),
    "from buffer": Reduced(np.zeros(2).__reduce_ex__(5)[0], (b"\x41" * 16, np.dtype("O"), (2,), "C")),
    "short buffer": Reduced(np.zeros(2).__reduce_ex__(5)[0], (b"\x41" * 16, np.dtype("u1"), (1 << 40,), "C")),
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", STATES)
def test_a_pickled_array_is_of_numbers_with_all_their_bytes(name, protocol):
    data = pickle.dumps({"w": Reduced(RECONSTRUCT, START, STATES[name])}, protocol)
    with pytest.raises((pickle.UnpicklingError, ValueError, TypeError)):
        pickles.loads(data)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", CALLS)
def test_functions_of_numpy_are_not_called(name, protocol):
    try:
        found = pickles.loads(pickle.dumps(CALLS[name], protocol))
    except (pickle.UnpicklingError, ValueError, TypeError):
        return
    assert name == "reconstruct" and found.size == 0


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("value", [np.arange(6, dtype=">i4").reshape(2, 3), np.asfortranarray(np.eye(3)), np.zeros(0)])
def test_arrays_of_numbers_are_read_from_pickles(value, protocol):
    found = pickles.loads(pickle.dumps({"w": value}, protocol))
    (array,) = found.values()
    assert array.dtype.newbyteorder("=") == value.dtype.newbyteorder("=") and np.array_equal(array, value)


@pytest.mark.parametrize("command", [b"r\xff\xff\xff\x7f", b"p99999999999\n"])
def test_a_pickle_cannot_ask_for_a_huge_memo(command):
    with pytest.raises(pickle.UnpicklingError, match="objects: refused"):
        pickles.loads(b"\x80\x02]" + command + b".")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": ' * 50_000, "1" * 5000, "\x00", "{", '{"a"}', b"\xff\xfe"])
def test_text_that_is_not_json(text, tmp_path):
    (tmp_path / "a.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert "is not JSON" in refusal(files.read_json, tmp_path / "a.json")


def test_a_json_file_that_is_too_large_is_not_read(tmp_path):
    with open(tmp_path / "a.json", "wb") as file:
        os.truncate(file.fileno(), files.LARGEST_JSON + 1)
    assert "more than the" in refusal(files.read_json, tmp_path / "a.json")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
@pytest.mark.parametrize(
    "read", [files.read_json, npy.read_array, npy.read_arrays, unpacking.open_zip, files.sha256_of]
)
def test_what_is_not_a_file_does_not_block(read, make, tmp_path):
    make(tmp_path / "a")
    assert "not a file" in refusal(read, tmp_path / "a")
