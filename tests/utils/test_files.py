"""Files are written whole or not at all, and read with one line about what is wrong with them."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from cm.checkpoints import native
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
    assert done == ["a", "replace", tmp_path.name]


def test_leftovers_of_killed_writers_are_removed(tmp_path):
    class Killed(BaseException):
        pass

    def leave(name: str) -> None:
        with (
            pytest.MonkeyPatch.context() as patch,
            pytest.raises(Killed),
            files.replace_file(tmp_path / name) as temporary,
        ):
            temporary.write_text("half")
            patch.setattr(shutil, "rmtree", lambda *_, **__: None)
            raise Killed

    for name in ("a", "a", "a-b", "b"):
        leave(name)
    (tmp_path / "a").touch()
    files.remove_leftovers(tmp_path, ["a"])
    left = sorted(path.name[: -len("-xxxxxxxx")] for path in tmp_path.iterdir() if path.is_dir())
    assert left == [".writing-a-b", ".writing-b"] and (tmp_path / "a").exists()


def test_a_planted_link_is_not_followed_and_nobody_else_can_plant_one(tmp_path):
    (tmp_path / "target").write_text("kept")
    for guess in (f".{os.getpid()}.a", ".writing-a", "a"):
        (tmp_path / guess).symlink_to(tmp_path / "target")
    with files.replace_file(tmp_path / "a") as temporary:
        assert temporary.parent.stat().st_mode & 0o777 == 0o700
        temporary.write_text("new")
    assert (tmp_path / "target").read_text() == "kept"
    assert (tmp_path / "a").read_text() == "new" and not (tmp_path / "a").is_symlink()


@pytest.mark.parametrize("name", ["n" * 255, "\u00f6" * 127, "-", "a*[b]?"])
def test_a_file_can_have_any_name_that_the_file_system_admits(name, tmp_path):
    files.write_json(tmp_path / name, {})
    assert [path.name for path in tmp_path.iterdir()] == [name]


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


def test_new_files_have_the_permissions_of_the_umask_which_nothing_changes(tmp_path, monkeypatch):
    before = os.umask(0o027)
    try:
        monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the umask is one of the whole process"))
        files.write_json(tmp_path / "a", {})
        native.save(tmp_path / "b", {"x": torch.zeros(1)}, {})
        with files.create_folder(tmp_path / "c") as folder:
            (folder / "d").touch()
    finally:
        monkeypatch.undo()
        os.umask(before)
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("a", "b", "c", "c/d")]
    assert modes == [0o640, 0o640, 0o750, 0o640]


def test_the_space_of_an_array_is_reserved_before_it_is_mapped(tmp_path):
    with files.create_array(tmp_path / "a.npy", (1000, 1000)) as array:
        (path,) = tmp_path.glob(".writing-*/a.npy")
        assert path.stat().st_blocks * 512 >= array.nbytes


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


WRITE = """
import pathlib, sys, time
from cm.utils import files
with files.replace_file(pathlib.Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize(("state", "age", "stays"), [("alive", 99, True), ("killed", 99, False), ("killed", 0, True)])
def test_what_a_killed_writer_left_is_removed_by_the_next_one(tmp_path, state, age, stays):
    path, other = tmp_path / "a[1].json", tmp_path / f"{files.LEFTOVER}b.json-abcdefgh"
    other.mkdir()
    process = subprocess.Popen([sys.executable, "-c", WRITE, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "writing\n"
    if state == "killed":
        process.kill()
        process.wait()
    (left,) = set(tmp_path.iterdir()) - {other}
    for folder in (left, other):
        os.utime(folder, (time.time() - age, time.time() - age))
    files.write_json(path, 1)
    process.kill()
    process.communicate()
    assert left.exists() is stays and other.exists() and files.read_json(path) == 1


def test_a_link_in_place_of_what_is_left_is_not_followed(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").write_text("kept")
    os.utime(tmp_path / "kept", (0, 0))
    (tmp_path / f"{files.LEFTOVER}a.json-abcdefgh").symlink_to("kept")
    files.write_json(tmp_path / "a.json", 1)
    assert (tmp_path / "kept/file").read_text() == "kept"
