"""Preparation of a data set: on several cores, killed and resumed, with damaged images, on a full disk."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import fake_sources as fake
import numpy as np
import pytest

import cm.cli
from cm import data
from cm.data import writing
from cm.errors import UserError
from cm.utils import files

SIZE = 16
CHUNK = 2 * SIZE * SIZE * 3  # two images
COUNT = 9

SCRIPT = """
import os, signal, sys
from cm import data
from cm.data import journal, writing
writing.CHUNK, add, remaining = {chunk}, journal.Journal.add, [{chunks}]
def add_and_count(self, number):
    add(self, number)
    remaining[0] -= 1
    if not remaining[0]:
        os.kill(os.getpid(), signal.SIGKILL)
journal.Journal.add = add_and_count
if __name__ == "__main__":
    data.prepare("folder", __import__("pathlib").Path({out!r}), source={source!r}, workers={workers},
                 settings={{"resolution": {size}}})
"""


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(writing, "CHUNK", CHUNK)


@pytest.fixture
def pictures(tmp_path):
    """A folder of nine images in three classes."""
    return fake.write_folder(tmp_path / "pictures", fake.imagenet())


@pytest.fixture
def written(monkeypatch):
    """The starts of the chunks that were written, in this process."""
    starts, write_chunk = [], writing._write_chunk

    def write_and_record(images, file, start):
        starts.append(start)
        return write_chunk(images, file, start)

    monkeypatch.setattr(writing, "_write_chunk", write_and_record)
    return starts


def prepare(source: Path, out: Path, workers: int = 1, **options) -> dict[str, bytes]:
    """Prepare a folder and return the contents of every file that was written, by its name."""
    data.prepare("folder", out, source=source, workers=workers, settings={"resolution": SIZE}, **options)
    return contents(out)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run_and_kill(source: Path, out: Path, *, chunks: int, workers: int = 1) -> int:
    """Start a preparation in a session of its own, which is killed after some chunks; return the session's number."""
    script = SCRIPT.format(chunk=CHUNK, chunks=chunks, out=str(out), source=str(source), workers=workers, size=SIZE)
    path = out.with_suffix(".py")
    path.write_text(script)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with open(out.with_suffix(".log"), "w+") as log:
        process = subprocess.Popen([sys.executable, path], env=environment, stderr=log, start_new_session=True)
        assert process.wait() == -signal.SIGKILL, log.seek(0) or log.read()
    return process.pid


def failure(source: Path, out: Path, match: str, **options) -> str:
    """The one line of the error; no prepared data set is there afterwards."""
    with pytest.raises(UserError, match=match) as caught:
        prepare(source, out, **options)
    assert {path.name for path in out.rglob("*.npy")} <= {"train.npy"} and not (out / "manifest.json").exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def break_image(pictures: Path, number: int = 4) -> Path:
    path = sorted(pictures.rglob("*.JPEG"))[number]
    path.write_bytes(path.read_bytes()[:400])
    return path


def test_one_worker_and_two_write_the_same_bytes(pictures, tmp_path):
    one, two = prepare(pictures, tmp_path / "one"), prepare(pictures, tmp_path / "two", workers=2)
    assert one == two and set(one) == {"manifest.json", "train/images.npy", "train/labels.npy"}


@pytest.mark.parametrize("chunks", [1, 3, 5])
def test_a_killed_preparation_is_resumed_without_doing_anything_twice(chunks, pictures, tmp_path, written):
    run_and_kill(pictures, tmp_path / "out", chunks=chunks)
    assert set(contents(tmp_path / "out")) == {f".partial/train.{end}" for end in ("npy", "sha256", "journal")}
    resumed = prepare(pictures, tmp_path / "out")
    assert written == list(range(0, COUNT, 2))[chunks:]
    assert resumed == prepare(pictures, tmp_path / "whole")


def test_a_kill_leaves_no_workers_behind(pictures, tmp_path):
    session = run_and_kill(pictures, tmp_path / "out", chunks=2, workers=2)
    deadline = time.monotonic() + 10
    while left := processes_of(session):
        assert time.monotonic() < deadline, f"still running: {left}"
        time.sleep(0.05)
    assert prepare(pictures, tmp_path / "out") == prepare(pictures, tmp_path / "whole")


def processes_of(session: int) -> list[str]:
    """The numbers of the processes in a session that are still running."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, its_session = path.read_text().rpartition(")")[2].split()[:4]
            found += [path.parent.name] if int(its_session) == session and state != "Z" else []
    return found


def test_only_whole_lines_of_a_journal_count(pictures, tmp_path, written):
    run_and_kill(pictures, tmp_path / "out", chunks=3)
    journal = tmp_path / "out" / ".partial" / "train.journal"
    journal.write_text(journal.read_text() + "8")
    assert prepare(pictures, tmp_path / "out") == prepare(pictures, tmp_path / "whole")
    assert written[:2] == [6, 8]


@pytest.mark.parametrize("change", ["source", "preprocessing", "journal", "images"])
def test_after_any_change_the_preparation_starts_over(change, pictures, tmp_path, written, monkeypatch):
    run_and_kill(pictures, tmp_path / "out", chunks=3)
    if change == "source":
        path = next(pictures.rglob("*.JPEG"))
        path.rename(path.with_name("other.jpeg"))
    elif change == "preprocessing":
        monkeypatch.setattr("cm.data.folder.cropping.ADM", "another {size}")
    else:
        (tmp_path / "out" / ".partial" / {"journal": "train.journal", "images": "train.npy"}[change]).unlink()
    after = prepare(pictures, tmp_path / "out")
    assert written == list(range(0, COUNT, 2))
    assert after == prepare(pictures, tmp_path / "whole")


DAMAGES = {
    "images that end early": ("train.npy", lambda data: data[:-1]),
    "images without a header": ("train.npy", lambda data: bytes(len(data))),
    "empty images": ("train.npy", lambda data: b""),
    "other images": ("train.npy", lambda data: data.replace(b"(9, 16, 16, 3)", b"(9, 16, 48, 1)")),
    "digests that end early": ("train.sha256", lambda data: data[:-1]),
    "no digests": ("train.sha256", lambda data: b""),
    "a long number in the journal": ("train.journal", lambda data: data + b"9" * 5000 + b"\n"),
    "no number in the journal": ("train.journal", lambda data: data + b"x\n"),
    "bytes in the journal": ("train.journal", lambda data: data + b"\xff\n"),
    "an empty journal": ("train.journal", lambda data: b""),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_files_of_an_earlier_start_are_not_used(name, pictures, tmp_path, written):
    run_and_kill(pictures, tmp_path / "out", chunks=3)
    file, damage = DAMAGES[name]
    path = tmp_path / "out" / ".partial" / file
    before = path.read_bytes()
    path.write_bytes(damage(before))
    assert path.read_bytes() != before
    after = prepare(pictures, tmp_path / "out")
    assert written == list(range(0, COUNT, 2))
    assert after == prepare(pictures, tmp_path / "whole")


def test_preparing_again_replaces_what_is_there(pictures, tmp_path):
    before = prepare(pictures, tmp_path / "out")
    next(pictures.rglob("*.JPEG")).unlink()
    after = prepare(pictures, tmp_path / "out")
    assert set(after) == set(before) and files.read_json(tmp_path / "out" / "manifest.json")["images"] == COUNT - 1


@pytest.mark.parametrize("workers", [1, 2])
def test_an_undecodable_image_stops_the_preparation_and_is_named(workers, pictures, tmp_path):
    path = break_image(pictures)
    line = failure(pictures, tmp_path / "out", "cannot be decoded", workers=workers)
    assert f"{path.parent.name}/{path.name} (" in line and f"1 of {COUNT}" in line and "--allow-undecodable" in line


def test_a_repaired_image_is_read_again(pictures, tmp_path, written):
    whole = prepare(pictures, tmp_path / "whole")
    path = sorted(pictures.rglob("*.JPEG"))[4]
    good = path.read_bytes()
    break_image(pictures)
    failure(pictures, tmp_path / "out", "cannot be decoded")
    path.write_bytes(good)
    written.clear()
    assert prepare(pictures, tmp_path / "out") == whole
    assert written == [4, 6, 8]


@pytest.mark.parametrize("broken", [[0], [4], [8], [1, 2, 7]])
def test_allowed_undecodable_images_are_left_out_and_listed(broken, pictures, tmp_path):
    paths = [break_image(pictures, number) for number in broken]
    failure(pictures, tmp_path / "out", "cannot be decoded", allow_undecodable=(len(broken) - 0.5) / COUNT)
    partial = prepare(pictures, tmp_path / "out", allow_undecodable=len(broken) / COUNT)
    manifest = files.read_json(tmp_path / "out" / "manifest.json")
    assert [entry["name"] for entry in manifest["undecodable"]["train"]] == [
        f"{path.parent.name}/{path.name}" for path in paths
    ]
    assert all(entry["problem"] for entry in manifest["undecodable"]["train"])
    for path in paths:
        path.unlink()
    without = prepare(pictures, tmp_path / "without")
    assert {name: partial[name] for name in partial if name != "manifest.json"} == {
        name: without[name] for name in without if name != "manifest.json"
    }
    assert manifest["splits"] == files.read_json(tmp_path / "without" / "manifest.json")["splits"]


def test_a_damaged_member_of_a_zip_is_an_undecodable_image(tmp_path):
    images = fake.jpegs(4)
    source = fake.write_zip(tmp_path / "x.zip", {f"{number}.jpg": image for number, image in enumerate(images)})
    archive = bytearray(source.read_bytes())
    archive[archive.index(images[2]) + 300] ^= 1
    source.write_bytes(archive)
    assert "2.jpg (Bad CRC-32" in failure(source, tmp_path / "out", "cannot be decoded")
    source.write_bytes(archive[: len(archive) // 2])
    failure(source, tmp_path / "other", "truncated or not a zip")
    assert not (tmp_path / "other").exists()


def test_a_full_disk_is_reported_and_the_preparation_can_be_resumed(pictures, tmp_path, monkeypatch, written):
    pwrite, room = os.pwrite, [4 * CHUNK]

    def write_until_full(descriptor, block, offset):
        if not room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = pwrite(descriptor, block[: room[0]], offset)
        room[0] -= count
        return count

    monkeypatch.setattr(os, "pwrite", write_until_full)
    failure(pictures, tmp_path / "out", "No space left on device.*run the same command again to resume")
    assert written == [0, 2, 4, 6]
    room[0] = 1 << 20
    assert prepare(pictures, tmp_path / "out") == prepare(pictures, tmp_path / "whole")
    assert written[4:6] == [6, 8]


def test_a_lack_of_space_is_reported_before_anything_is_written(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: types.SimpleNamespace(free=10))
    line = failure(pictures, tmp_path / "out", "GB")
    assert "0.0 GB are free" in line and not (tmp_path / "out").exists()


def test_images_with_another_digest_leave_nothing(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("cm.data.folder.Folder.digests", {"train": ("0" * 64, "0" * 64)})
    failure(pictures, tmp_path / "out", "train images of pictures have sha256")
    assert not (tmp_path / "out").exists()


def test_a_mistyped_source_does_not_discard_earlier_work(pictures, tmp_path, written):
    run_and_kill(pictures, tmp_path / "out", chunks=3)
    failure(tmp_path / "nowhere", tmp_path / "out", "no file or folder")
    prepare(pictures, tmp_path / "out")
    assert written == [6, 8]


@pytest.mark.parametrize("options", [{"workers": 0}, {"allow_undecodable": 1.0}, {"allow_undecodable": -0.1}])
def test_numbers_out_of_range_are_refused(options, pictures, tmp_path):
    failure(pictures, tmp_path / "out", "must be at least", **options)


def test_the_command_prepares_and_reports_errors_in_one_line(pictures, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["prepare", "--dataset", "folder", "--source", str(pictures), "--out", str(out), "--workers", "1"]
    assert cm.cli.main(command) == 2
    assert capsys.readouterr().err == "cm prepare: error: data set 'folder': 'resolution' is missing\n"
    break_image(pictures)
    assert cm.cli.main([*command, "--resolution", "8", "--allow-undecodable", "0.2"]) == 0
    assert np.load(out / "train" / "images.npy", mmap_mode="r").shape == (COUNT - 1, 8, 8, 3)
    assert "train  8/9" in capsys.readouterr().err


@pytest.mark.parametrize("name", [".partial", ".partial/train.npy", ".partial/train.journal"])
def test_a_planted_link_is_not_followed(name, tmp_path):
    target, link = tmp_path / "target", tmp_path / "out" / name
    target.mkdir() if name == ".partial" else target.write_text("kept")
    link.parent.mkdir(parents=True)
    link.symlink_to(target)
    with pytest.raises(UserError, match=f"{link} is a link"):
        data.prepare("digits", tmp_path / "out")
    assert link.is_symlink() and (not list(target.iterdir()) if target.is_dir() else target.read_text() == "kept")
