"""What a command is to write is checked before it works, and a disk without room costs one line and nothing else."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import plan_of
from PIL import Image

from cm.checkpoints import native
from cm.cli import main
from cm.errors import UserError
from cm.training.trainer import train
from cm.utils import files, npy, outputs

RUN = "digits/classifier/default/seed0"
TEACHER = "digits/edm/default/seed0"
# A command that writes a file or a folder at {out}; nothing that it reads needs to exist.
FILE_COMMANDS = {
    "train": "train --run digits/edm/default/seed2 --data absent --out {out}/100.safetensors",
    "convert": "convert --run digits/ct/released~theirs/seed0 --out {out}",
    "export": "convert --model absent --to bfloat16 --out {out}",
    "weights": "weights --name inception --source absent --out {out}",
    "sample": "sample --model absent --sampler onestep --out {out}.npy",
    "preview": "sample --model absent --sampler onestep --out a.npy --preview {out}.npy",
    "featurize": "featurize absent --protocol offline --out {out}",
    "score": "score absent --protocol offline --reference absent --out {out}",
    "evaluate": "evaluate --model absent --sampler onestep --protocol offline --reference absent --score {out}",
    "results": "results absent --out {out}",
    "published": "published --out {out}",
    "card": "card absent --out {out}",
    "search": "search --model absent --sampler search,steps~2 --protocol offline --reference absent --out {out}",
}
FOLDER_COMMANDS = {
    "prepare": "prepare --dataset cifar10 --source absent --out {out}",
    "draw": "draw --suite absent.yaml --artefact a --out {out}",
    "schema": "schema --out {out}",
}
COMMANDS = FILE_COMMANDS | FOLDER_COMMANDS


def refusal(capsys, arguments: list[str], *, at_once: bool = True) -> str:
    """The one line by which a command fails; unless it does so at once, lines of its progress precede it."""
    capsys.readouterr()
    assert main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith(f"cm {arguments[0]}: error: ")
    assert all(line.endswith(" left") for line in lines[:-1]) and not (at_once and lines[:-1])
    return lines[-1]


def fill(command: str, out: Path) -> list[str]:
    return [part.format(out=out) for part in COMMANDS[command].split()]


@pytest.fixture
def work(tmp_path, monkeypatch):
    """An empty working folder; at its end nothing else may be in it than what the test put there."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def mount(folder: Path, options: str) -> None:
    """Mount a disk in memory, or skip the test."""
    command = ["mount", "-t", "tmpfs", "-o", options, "cm-test", str(folder)]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root can mount a disk, and not everywhere; other tests limit the size of files instead")


# ---- where nothing can be written ----


@pytest.mark.parametrize("command", COMMANDS)
def test_an_output_below_a_file_is_refused(command, work, capsys):
    (work / "file").touch()
    assert "file is not a folder" in refusal(capsys, fill(command, work / "file" / "a"))
    assert "file is not a folder" in refusal(capsys, fill(command, work / "file" / "a" / "b"))
    assert os.listdir(work) == ["file"]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", ["n" * 300, f"new/{'n' * 300}/a", "new/" + "n" * 290, "/".join(["n" * 200] * 25)])
def test_an_output_of_too_long_a_name_is_refused(command, name, work, capsys):
    assert "too long" in refusal(capsys, fill(command, work / name)).lower()
    assert not os.listdir(work)


@pytest.mark.parametrize("command", COMMANDS)
def test_an_output_that_is_something_else_is_refused(command, work, capsys):
    suffix = {"train": "/100.safetensors", "sample": ".npy", "preview": ".npy"}.get(command, "")
    place = work / f"out{suffix}"
    if command in FILE_COMMANDS:
        place.mkdir(parents=True)
        assert (
            "directory" in (error := refusal(capsys, fill(command, work / "out")))
            or "folder" in error
            or "exists" in error
        )
        place.rmdir()
        os.mkfifo(place)
        assert "regular file" in (error := refusal(capsys, fill(command, work / "out"))) or "exists" in error
    else:
        place.touch()
        assert "is a file" in refusal(capsys, fill(command, work / "out"))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_read_only_place_is_refused(command, work, capsys, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write where the permissions forbid it
    assert f"{work} is not writable" in refusal(capsys, fill(command, work / "out"))


@pytest.fixture(scope="module")
def read_only(tmp_path_factory):
    """A folder of a read-only file system, which only root can mount."""
    folder = tmp_path_factory.mktemp("read-only")
    mount(folder, "size=1m")
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_read_only_disk_is_refused(command, read_only, capsys):
    assert f"{read_only} is on a read-only file system" in refusal(capsys, fill(command, read_only / "new" / "out"))


def test_a_read_only_cache_is_one_line(read_only, place, judge, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CM_CACHE", str(read_only / "cache"))
    images = str(place / "data/train/images.npy")
    how = ["--protocol", "offline", "--extractor", str(judge), "--out", str(tmp_path / "s.npz")]
    error = refusal(capsys, ["featurize", images, *how], at_once=False)
    assert str(read_only / "cache") in error and "Read-only file system" in error
    error = refusal(capsys, ["weights", "--name", "dinov2", "--out", str(tmp_path / "w")], at_once=False)
    assert str(read_only / "cache") in error


def test_a_circle_of_links_and_a_dangling_link(work):
    (work / "circle").symlink_to("circle")
    (work / "dangling").symlink_to("nowhere")
    outputs.check_file(work / "dangling")  # the link itself is replaced
    outputs.check_file(work / "circle")
    for name in ("circle", "dangling"):
        with pytest.raises(UserError, match=f"{name} is not a folder"):
            outputs.check_file(work / name / "a")


@pytest.mark.parametrize("name", ["a", "new/a", "n" * 255, "new/deep/er/a"])
def test_a_good_place_is_admitted_and_nothing_is_written(name, work):
    outputs.check_file(work / name)
    outputs.check_folder(work / name)
    assert not os.listdir(work)
    (work / name).parent.mkdir(parents=True, exist_ok=True)
    (work / name).write_text("old")
    outputs.check_file(work / name)


def test_the_checks_import_no_torch(work):
    code = (
        "import sys; from cm.cli import main\n"
        "assert main(['sample', '--model', 'm', '--sampler', 'onestep', '--out', '/dev/null/a.npy']) == 2\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr.count("\n") == 1, done.stderr


# ---- outputs that are inputs ----


OVERWRITING = [
    "sample --model m.npy --sampler onestep --out m.npy",
    "sample --model m.json --sampler onestep --out m.npy",
    "sample --model m --sampler onestep --out a.npy --preview a.npy",
    "sample --model m --sampler onestep --out ./new/../a.npy --preview link/a.npy",
    "score s.npy --protocol offline --reference r.npy --out s.npy",
    "score s.npy --protocol offline --reference r.npy --out r.npy",
    "score s.npy --protocol offline --reference r.npy --out s.json",
    "score s.npy --protocol p.yaml --reference r.npy --out p.yaml",
    "score s.npy --protocol offline --reference r.npy --extractor e --out link/e",
    "score pictures --protocol offline --reference r.npy --out pictures/0.png",
    "score s.npy --protocol offline --reference pictures --out pictures/0.png",
    "evaluate --model m --sampler onestep --protocol offline --reference r.npy --score r.npy",
    "evaluate --model m --sampler onestep --protocol offline --reference r.npy --score s.json --preview r.npy",
    "evaluate --model m --sampler onestep --protocol offline --reference r.npy --score m",
    "search --model m --sampler search,steps~3 --protocol offline --reference r.npy --previous e --out e",
    "results s.json --out s.json",
    "results d s.json --out s.json",
    "card m --out m",
    "card m --scores s.json --out s.json",
    "featurize r.npy --protocol offline --out r.npy",
    "featurize r.npy --protocol offline --statistics e --out e",
    "featurize r.npy --protocol p.yaml --out p.yaml",
    "weights --name inception --source e --out e",
    "train --run digits/cd/default/seed0 --data d --teacher 100.safetensors --out 100.safetensors",
    "train --run digits/cd/default/seed0 --data d --perceptual 50.safetensors --out 100.safetensors 50.safetensors",
    "convert --run digits/ct/default/seed0 --checkpoint m --out m",
    "convert --run digits/ct/default/seed0 --checkpoint d --out d/inner.safetensors",
    "prepare --dataset folder --resolution 8 --source pictures --out pictures",
]


@pytest.mark.parametrize("arguments", OVERWRITING)
def test_an_output_that_is_an_input_is_refused(arguments, work, capsys):
    for name in (
        "m",
        "m.npy",
        "m.json",
        "s.npy",
        "s.json",
        "r.npy",
        "p.yaml",
        "e",
        "100.safetensors",
        "50.safetensors",
    ):
        (work / name).write_text("kept")
    for folder, name in (("pictures", "0.png"), ("d", "inner.safetensors")):
        (work / folder).mkdir()
        (work / folder / name).write_text("kept")
    (work / "link").symlink_to(".")
    before = {path: path.read_text() for path in work.rglob("*") if path.is_file()}
    error = refusal(capsys, arguments.split())
    assert "is an input of this command" in error or "written twice" in error
    assert {path: path.read_text() for path in work.rglob("*") if path.is_file()} == before


def test_a_score_may_lie_in_the_folder_of_the_images(work):
    (work / "pictures").mkdir()
    (work / "pictures" / "score.json").touch()
    read = [outputs.Input(work / "pictures", lambda path: path.suffix == ".png")]
    outputs.check_distinct([work / "pictures" / "score.json"], read)
    outputs.check_distinct([work / "pictures" / "new.png"], read)


# ---- a disk without room ----


@contextlib.contextmanager
def limited(size: int) -> Iterator[None]:
    """A context in which no file of this process can have more than `size` bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class Disk:
    """A small disk, which a test can fill and empty."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    @contextlib.contextmanager
    def full(self, free: int = 0) -> Iterator[None]:
        """A context in which `free` bytes are free."""
        status = os.statvfs(self.folder)
        self._ballast.write_bytes(bytes(max(0, status.f_bavail * status.f_frsize - free)))
        try:
            yield
        finally:
            self._ballast.unlink()


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """A disk of eight megabytes in memory, which only root can mount."""
    folder = tmp_path_factory.mktemp("disk")
    mount(folder, "size=8m")
    yield Disk(folder)
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(params=["disk", "limit"])
def lack_of_room(request, tmp_path):
    """A folder without room: `(folder, full)`, where `full()` is a context in which nothing can be written there."""
    if request.param == "limit":
        return tmp_path, lambda: limited(64)
    disk = request.getfixturevalue("disk")
    folder = disk.folder / tmp_path.name
    folder.mkdir()
    return folder, disk.full


def contents(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def check(capsys, lack_of_room, arguments: list[str], expected: set[str]) -> None:
    """The command fails in one line that leaves nothing, and works when there is room again."""
    folder, full = lack_of_room
    before = contents(folder)
    with full():
        error = refusal(capsys, arguments, at_once=False)
    assert "No space left" in error or "too large" in error or "written" in error or "room" in error
    assert ".writing-" not in error and contents(folder) == before
    assert main(arguments) == 0, capsys.readouterr().err
    assert expected <= contents(folder) - before
    assert not [name for name in contents(folder) if ".writing-" in name]


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CM_CACHE", str(tmp_path / "cache"))


def test_samples(lack_of_room, place, capsys):
    out = lack_of_room[0] / "samples" / "a.npy"
    model = place / f"models/{TEACHER}/100.safetensors"
    arguments = ["sample", "--model", str(model), "--sampler", "onestep", "--count", "20", "--out", str(out)]
    check(capsys, lack_of_room, arguments, {"samples/a.npy", "samples/a.json"})
    assert npy.read_images(out).shape == (20, 8, 8, 1)


def test_samples_appear_only_with_their_description(place, tmp_path, monkeypatch, capsys):
    def fail(path, value):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(files, "write_json", fail)
    model = place / f"models/{TEACHER}/100.safetensors"
    arguments = ["sample", "--model", str(model), "--sampler", "onestep", "--count", "2", "--out", f"{tmp_path}/a.npy"]
    assert f"{tmp_path}/a.json: No space left" in refusal(capsys, arguments, at_once=False)
    assert not contents(tmp_path)


def test_samples_that_do_not_fit_end_in_one_line_and_not_in_a_signal(disk, place):
    """A map into a file without space on the disk ends the process by SIGBUS, so this one is another process."""
    out = disk.folder / "map" / "a.npy"
    model = place / f"models/{TEACHER}/100.safetensors"
    command = [sys.executable, "-m", "cm", "sample", "--model", str(model), "--sampler", "onestep", "--count", "2000"]
    with disk.full(free=40_000):
        done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr == f"cm sample: error: {out}: No space left on device\n"
    assert not contents(out.parent)


def test_scores(lack_of_room, place, judge, own_cache, capsys):
    images, out = place / "data/test/images.npy", lack_of_room[0] / "new" / "score.json"
    how = ["--protocol", "offline", "--reference", str(place / "data/train/images.npy"), "--extractor", str(judge)]
    arguments = ["score", str(images), *how, "--out", str(out)]
    assert main([*arguments[:-1], str(place / "first.json")]) == 0  # the cache, elsewhere, has room
    check(capsys, lack_of_room, arguments, {"new/score.json"})


@pytest.mark.parametrize("more", [[], ["--compact"]])
def test_features(more, lack_of_room, place, judge, own_cache, capsys):
    images, out = place / "data/train/images.npy", lack_of_room[0] / "summary.npz"
    how = ["--protocol", "offline", "--extractor", str(judge), *more]
    assert main(["featurize", str(images), *how, "--out", str(place / "first.npz")]) == 0
    check(capsys, lack_of_room, ["featurize", str(images), *how, "--out", str(out)], {"summary.npz"})


def test_the_cache_of_features(lack_of_room, place, judge, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CM_CACHE", str(lack_of_room[0] / "cache"))
    images = str(place / "data/train/images.npy")
    how = ["--protocol", "offline", "--extractor", str(judge), "--out", str(tmp_path / "s.npz")]
    folder, full = lack_of_room
    with full():
        assert "cache" in refusal(capsys, ["featurize", images, *how], at_once=False)
    assert not contents(folder / "cache")
    assert main(["featurize", images, *how]) == 0


def test_models_in_other_forms(lack_of_room, place, capsys):
    model, out = place / f"models/{TEACHER}/100.safetensors", lack_of_room[0] / "half.safetensors"
    arguments = ["convert", "--model", str(model), "--to", "bfloat16", "--out", str(out)]
    check(capsys, lack_of_room, arguments, {"half.safetensors"})


@pytest.mark.parametrize("artefact", ["table", "figure"])
def test_tables_and_figures(artefact, lack_of_room, place, tmp_path, capsys):
    suite = _write_suite(place, tmp_path)
    out, form = lack_of_room[0] / "reports", "tables/table.csv" if artefact == "table" else "figures/figure.png"
    arguments = ["draw", "--suite", str(suite), "--artefact", artefact, "--results", str(place), "--out", str(out)]
    check(capsys, lack_of_room, arguments, {f"reports/{form}"})


def _write_suite(place: Path, folder: Path) -> Path:
    """A suite with a table of its runs and a figure of their samples, and the previews of these."""
    suite = {"dataset": "digits", "experiments": str(place / "experiments"), "seeds": [0], "progress": [100]}
    about = {"caption": "A test.", "entries": [{"method": "edm", "samplers": ["onestep"]}]}
    suite["artefacts"] = {"table": {"kind": "runs", **about}, "figure": {"kind": "samples", **about}}
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump(suite))
    preview = place / f"previews/{TEACHER}/100/onestep.npy"
    files.write_array(preview, np.zeros((4, 8, 8, 1), np.uint8))
    return path


def test_prepared_data(lack_of_room, tmp_path, capsys):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for index in range(4):
        Image.fromarray(np.full((16, 16, 3), index, np.uint8)).save(pictures / f"{index}.png")
    folder, full = lack_of_room
    out = folder / "data"
    arguments = ["prepare", "--dataset", "folder", "--source", str(pictures), "--resolution", "16", "--out", str(out)]
    with full():
        refusal(capsys, arguments)
    assert not (out / "manifest.json").exists()
    assert main(arguments) == 0
    assert npy.read_images(out / "train/images.npy")[:, 0, 0, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("steps", [1, 12])
def test_a_training_continues_from_its_last_state(steps, lack_of_room, place, tmp_path, capsys):
    """Whether the disk is full at the first state or at a later one, the weights in the end are the same."""
    folder, full = lack_of_room
    plan = plan_of(place, RUN, out=folder / "run", save_steps=3)
    if steps > 1:
        train(plan_of(place, RUN, out=folder / "run", stop_at=6))
    with full(), pytest.raises(OSError) as caught:
        train(plan)
    assert str(folder / "run") in f"{caught.value.filename} {caught.value}"
    assert (folder / "run/partial/state.safetensors").exists() is (steps > 1)
    train(plan_of(place, RUN, out=folder / "run"))
    ours, _ = native.load(folder / "run/100.safetensors")
    theirs, _ = native.load(place / f"models/{RUN}/100.safetensors")
    assert all((ours[name] == theirs[name]).all() for name in theirs)
    assert not [name for name in contents(folder) if ".writing-" in name or "partial" in name]


def test_train_on_a_full_disk_is_one_line(lack_of_room, place, capsys):
    out = lack_of_room[0] / "models/50.safetensors"
    how = ["--experiments", str(place / "experiments"), "--data", str(place / "data"), "--out", str(out)]
    with lack_of_room[1]():
        assert str(lack_of_room[0]) in refusal(
            capsys, ["train", "--run", RUN, *how, "--tracker", "none"], at_once=False
        )
    assert contents(lack_of_room[0]) <= {"models/metrics.jsonl"}  # what was measured until then
