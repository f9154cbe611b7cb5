"""Files are written whole or not at all, and read with one line about what is wrong with them."""

from __future__ import annotations

import hashlib
import os

import numpy as np
import pytest
from PIL import Image

from cm.errors import UserError
from cm.utils import files, npy


def refusal(read, path) -> str:
    """The one line of the error; it names the file."""
    with pytest.raises(UserError) as caught:
        read(path)
    line = str(caught.value)
    assert "\n" not in line and str(path) in line
    return line


def test_a_file_is_replaced_only_when_the_block_succeeds(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with files.replace_file(path) as temporary:
        temporary.write_text("first")
        assert not path.exists()
    with pytest.raises(ZeroDivisionError), files.replace_file(path) as temporary:
        temporary.write_text("second")
        _ = 1 / 0
    assert path.read_text() == "first" and list(path.parent.iterdir()) == [path]


def test_the_replaced_file_can_get_another_name(tmp_path):
    path, previous = tmp_path / "a", tmp_path / "b"
    for text in ("1", "2", "3"):
        with files.replace_file(path, previous) as temporary:
            temporary.write_text(text)
    assert (path.read_text(), previous.read_text()) == ("3", "2")


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done, sync, replace = [], files.sync, os.replace
    monkeypatch.setattr(files, "sync", lambda path: (done.append(path.name), sync(path)))
    monkeypatch.setattr(os, "replace", lambda old, new: (done.append("replace"), replace(old, new)))
    files.write_json(tmp_path / "a", {})
    assert done == [f".{os.getpid()}.a", "replace", tmp_path.name]


def test_leftovers_of_killed_writers_are_removed(tmp_path):
    for name in (".12.a", ".3.a", ".12.b", ".x.a", ".a", "a", "12.a"):
        (tmp_path / name).touch()
    files.remove_leftovers(tmp_path, ["a"])
    assert sorted(path.name for path in tmp_path.iterdir()) == [".12.b", ".a", ".x.a", "12.a", "a"]


@pytest.mark.parametrize("links", [True, False])
def test_a_file_gets_a_second_name(tmp_path, monkeypatch, links):
    def link(source, path):
        raise OSError("no links here")

    if not links:
        monkeypatch.setattr(os, "link", link)
    (tmp_path / "a").write_text("new")
    (tmp_path / "b").write_text("old")
    for _ in range(2):
        files.link_file(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == (tmp_path / "a").read_text() == "new"
    assert os.path.samefile(tmp_path / "a", tmp_path / "b") is links
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_appears_only_when_the_block_succeeds(tmp_path):
    path = tmp_path / "folder"
    with pytest.raises(ZeroDivisionError), files.create_folder(path) as temporary:
        (temporary / "a").write_text("a")
        _ = 1 / 0
    assert not list(tmp_path.iterdir())
    with files.create_folder(path) as temporary:
        (temporary / "a").write_text("a")
    assert (path / "a").read_text() == "a" and list(tmp_path.iterdir()) == [path]


def test_the_default_mode_follows_the_umask():
    before = os.umask(0o027)
    try:
        assert files.default_mode() == 0o640 and os.umask(0o027) == 0o027
    finally:
        os.umask(before)


def test_arrays_are_read_as_they_were_written(tmp_path):
    a, b = np.arange(6).reshape(2, 3), np.array([1.5])
    files.write_arrays(tmp_path / "x.npz", a=a, b=b)
    assert npy.array_names(tmp_path / "x.npz") == ["a", "b"]
    assert list(npy.read_arrays(tmp_path / "x.npz", ["b"])) == ["b"]
    assert np.array_equal(npy.read_arrays(tmp_path / "x.npz")["a"], a)
    files.write_array(tmp_path / "x.npy", a)
    assert isinstance(npy.read_array(tmp_path / "x.npy"), np.memmap)
    assert np.array_equal(npy.read_array(tmp_path / "x.npy"), a)
    with files.create_array(tmp_path / "y.npy", (2, 3), np.int64) as array:
        array[:] = a
    assert np.array_equal(np.load(tmp_path / "y.npy"), a)


def test_json_keeps_the_order_of_its_keys(tmp_path):
    files.write_json(tmp_path / "x.json", {"b": [1, None], "a": {}})
    assert list(files.read_json(tmp_path / "x.json")) == ["b", "a"]
    (tmp_path / "x.json").write_text("{")
    assert "is not JSON" in refusal(files.read_json, tmp_path / "x.json")


@pytest.mark.parametrize("read", [files.read_json, npy.read_array, npy.read_arrays, files.sha256_of])
def test_a_missing_file_is_reported(read, tmp_path):
    assert refusal(read, tmp_path / "x") == f"no file {tmp_path / 'x'}"


def test_damaged_arrays_are_reported(tmp_path):
    for read, said in ((npy.read_array, "a whole .npy file"), (npy.read_arrays, "zip"), (npy.array_names, "zip")):
        (tmp_path / "x.npy").write_bytes(b"other")
        assert said in refusal(read, tmp_path / "x.npy")


@pytest.mark.parametrize(
    "array", [np.zeros((2, 4, 4), np.uint8), np.zeros((1, 4, 4, 3)), np.zeros((0, 4, 4, 3), np.uint8)]
)
def test_other_arrays_than_images_are_reported(array, tmp_path):
    files.write_array(tmp_path / "x.npy", array)
    assert f"not {array.dtype} {list(array.shape)}" in refusal(npy.read_images, tmp_path / "x.npy")


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_has_the_images_row_by_row(channels, tmp_path):
    images = np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1) * np.ones((1, 64, 64, channels), np.uint8)
    files.write_grid(tmp_path / "x.png", images, columns=2)
    grid = np.asarray(Image.open(tmp_path / "x.png")).reshape(136, 136, channels)
    assert (grid[:64, :64] == 0).all() and (grid[:64, 68:132] == 1).all() and (grid[68:132, :64] == 2).all()
    assert (grid[64:68] == 96).all() and (grid[:, 64:68] == 96).all() and (grid[68:, 68:] == 96).all()
    files.write_grid(tmp_path / "small.png", images[:, :8, :8], columns=2)
    assert Image.open(tmp_path / "small.png").size == (2 * 9 * 8, 2 * 9 * 8)


def test_digests_follow_the_contents_of_a_file(tmp_path):
    path = tmp_path / "x"
    for data in (b"one", b"three"):
        path.write_bytes(data)
        assert files.sha256_of(path) == files.sha256(data) == hashlib.sha256(data).hexdigest()
