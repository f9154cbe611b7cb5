"""The state of a training survives kills at every file operation, damaged files, signals and a second start."""

from __future__ import annotations

import concurrent.futures
import contextlib
import copy
import dataclasses
import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml
from conftest import FILES, TRAINING, plan_of

from cm.checkpoints import native
from cm.errors import Interrupted, UserError
from cm.training import trainer as trainer_module
from cm.training.saved import SavedFiles
from cm.training.signals import handle_signals
from cm.training.state import TrainingState
from cm.training.trainer import Trainer, train
from cm.utils import files

RUN = "digits/classifier/default/seed0"
STEPS = 4


class Killed(BaseException):
    """What stands for SIGKILL: no handler of the code catches it."""


class Disk:
    """Counts file operations and stops before the n-th; from then on nothing changes a file, as after SIGKILL.

    A file that is being written is left half written.
    """

    OPERATIONS = ("replace", "rename", "unlink", "rmdir", "mkdir", "link", "fsync", "ftruncate", "pwrite")

    def __init__(self, monkeypatch, last: int) -> None:
        self.count, self.last = 0, last
        for name in self.OPERATIONS:
            monkeypatch.setattr(os, name, self._counted(getattr(os, name)))
        monkeypatch.setattr(safetensors.torch, "save_file", self._write(safetensors.torch.save_file))

    def _counted(self, function):
        def operation(*arguments, **keywords):
            self.count += 1
            if self.count >= self.last:
                raise Killed
            return function(*arguments, **keywords)

        return operation

    def _write(self, function):
        def save_file(tensors, path, metadata):
            self.count += 1
            if self.count > self.last:
                raise Killed
            function(tensors, path, metadata=metadata)
            if self.count == self.last:
                os.truncate(path, os.path.getsize(path) // 2)
                raise Killed

        return save_file


@pytest.fixture(scope="module")
def plan(place):
    """A plan of four steps, of which the caller takes copies."""
    plan = plan_of(place, RUN)
    training = dataclasses.replace(plan.training, total_steps=STEPS)
    description = json.loads(json.dumps(plan.description))
    return dataclasses.replace(plan, training=training, description=description, save_seconds=0.0)


def run(plan, out: Path, **changes) -> None:
    train(dataclasses.replace(plan, student=copy.deepcopy(plan.student), out=out, **changes))


def count_steps(monkeypatch) -> list[int]:
    """A list that gets the number of every step that a training does from now on."""
    steps, step = [], Trainer.step

    def do_step(trainer, wishes=None):
        steps.append(trainer.state.step)
        return step(trainer, wishes)

    monkeypatch.setattr(Trainer, "step", do_step)
    return steps


@pytest.fixture(scope="module")
def models(plan, tmp_path_factory):
    """The sha256 of the models of a training that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    run(plan, folder)
    return digests(folder)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: files.sha256(path.read_bytes()) for path in sorted(folder.glob("*.safetensors"))}


def check_complete(folder: Path, models: dict[str, str]) -> None:
    """The folder has the same models, byte for byte, and nothing that is left from a kill."""
    assert digests(folder) == models
    kept = {"seconds.json", "metrics.jsonl", "superseded", "damaged", *models}
    assert {path.name for path in folder.iterdir()} <= kept


def test_a_kill_before_any_file_operation_changes_no_bit_of_the_models(plan, models, tmp_path, monkeypatch, capsys):
    for last in range(1, 1000):
        out, steps = tmp_path / str(last), []
        with monkeypatch.context() as patch:
            disk, steps = Disk(patch, last), count_steps(patch)
            with contextlib.suppress(Killed):
                run(plan, out)
        finishing = (out / "seconds.json").exists()
        with monkeypatch.context() as patch:
            again = count_steps(patch)
            if disk.count >= last:
                run(plan, out)
        check_complete(out, models)
        assert not {"superseded", "damaged"} & {path.name for path in out.iterdir()}
        assert not (finishing and again)
        assert len(steps) + len(again) <= STEPS + 1, f"kill {last}: {steps}, then {again}"
        if disk.count < last:
            break
    assert 60 < last < 200


def paused(plan, out: Path, stop: int) -> Path:
    """The folder of the saved files of a training that paused after `stop` steps, with a state after each."""
    run(plan, out, stop_at=stop)
    return out / "partial"


def test_any_flipped_bit_or_missing_piece_of_a_file_is_found(tmp_path):
    tensors = {"a": torch.arange(40.0), "b": torch.ones(3, 2, dtype=torch.bfloat16), "c": torch.tensor(7)}
    described = {"run": "digits/ct/default/seed0", "step": 12, "of": {"x": [1.5, None, "word"]}}
    path, bad = tmp_path / "whole", tmp_path / "bad"
    native.save(path, tensors, described)
    data = path.read_bytes()
    damaged = [flip(data, bit) for bit in range(0, 8 * len(data), 5)]
    damaged += [data[:length] for length in range(0, len(data), 7)] + [data + b"\0"]
    damaged += [data[:start] + bytes(64) + data[start + 64 :] for start in range(0, len(data), 64)]
    for contents in damaged:
        bad.write_bytes(contents)
        try:
            found, about = native.load(bad)
        except native.DamagedFile as error:
            assert "\n" not in str(error) and str(bad) in str(error)
        else:  # white space of the header, or a page of zeros over zeros
            assert about == described == native.description(bad)
            assert {name: (value.dtype, value.tolist()) for name, value in found.items()} == {
                name: (value.dtype, value.tolist()) for name, value in tensors.items()
            }


@pytest.mark.parametrize(("old", "new"), [(b"[3,2]", b"[2,3]"), (b'"BF16"', b'"F16" '), (b'"b"', b'"c"')])
def test_names_types_and_shapes_belong_to_the_checksum(tmp_path, old, new):
    native.save(tmp_path / "a", {"b": torch.ones(3, 2, dtype=torch.bfloat16)}, {"run": "x"})
    data = (tmp_path / "a").read_bytes()
    assert data.count(old) == 1
    (tmp_path / "a").write_bytes(data.replace(old, new))
    with pytest.raises(native.DamagedFile, match="its tensors do not have their checksum"):
        native.load(tmp_path / "a")


def flip(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_equal_contents_are_equal_files(tmp_path):
    for name in ("a", "b"):
        native.save(tmp_path / name, {"w": torch.ones(2)}, {"run": "x"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_file_of_an_earlier_version_is_read(tmp_path):
    safetensors.torch.save_file({"w": torch.ones(2)}, tmp_path / "a", metadata={"description": '{"run": "x"}'})
    assert native.load(tmp_path / "a")[1] == native.description(tmp_path / "a") == {"run": "x"}
    safetensors.torch.save_file({"w": torch.ones(2)}, tmp_path / "a", metadata={"description": '{"run"'})
    with pytest.raises(native.DamagedFile, match="is not JSON"):
        native.load(tmp_path / "a")


def damages(data: bytes) -> list[bytes]:
    """The file with bits flipped at many places, a page of zeros, and truncated."""
    bits = [*random.Random(0).sample(range(8 * len(data)), 6), 3, 8 * 100, 8 * 400]
    page = data[:4096] + bytes(4096) + data[8192:]
    return [flip(data, bit) for bit in bits] + [page, data[:-1], data[: len(data) // 2], b""]


def test_a_damaged_state_is_set_aside_and_the_previous_one_used(plan, models, tmp_path, monkeypatch, capsys):
    partial = paused(plan, tmp_path, 3)
    whole = {path.name: path.read_bytes() for path in partial.iterdir()}
    assert sorted(whole) == ["50.safetensors", "state.previous.safetensors", "state.safetensors"]
    for number, data in enumerate(damages(whole["state.safetensors"])):
        out = tmp_path / str(number)
        steps = continue_from(whole | {"state.safetensors": data}, plan, out, monkeypatch)
        assert steps == [2, 3]
        line = capsys.readouterr().out
        assert line.count("\n") == 1 and "continues from step 2" in line and str(out / "partial/state.saf") in line
        assert (out / "damaged/state.safetensors").read_bytes() == data
        check_complete(out, models)


def continue_from(contents: dict[str, bytes], plan, out: Path, monkeypatch) -> list[int]:
    """The steps that a training does that finds these files."""
    write_folder(out / "partial", contents)
    with monkeypatch.context() as patch:
        steps = count_steps(patch)
        run(plan, out)
    return steps


def write_folder(folder: Path, contents: dict[str, bytes]) -> None:
    folder.mkdir(parents=True)
    for name, data in contents.items():
        (folder / name).write_bytes(data)


def test_two_damaged_states_start_the_training_anew(plan, models, tmp_path, capsys):
    partial = paused(plan, tmp_path, 3)
    for name in ("state.safetensors", "state.previous.safetensors"):
        (partial / name).write_bytes((partial / name).read_bytes()[:-5])
    run(plan, tmp_path)
    line = capsys.readouterr().out
    assert line.count("\n") == 1 and line.count("is not a whole") == 2 and "training starts anew" in line
    names = {"50.safetensors", "metrics.jsonl", "state.safetensors", "state.previous.safetensors"}
    assert {path.name for path in (tmp_path / "damaged").iterdir()} == names
    check_complete(tmp_path, models)


def test_a_training_with_a_damaged_model_goes_back_to_a_state_before_it(plan, models, tmp_path, monkeypatch, capsys):
    partial = paused(plan, tmp_path, 2)  # the states after steps 1 and 2; the model of 50 % is that after step 2
    whole = {path.name: path.read_bytes() for path in partial.iterdir()}
    for number, data in enumerate(damages(whole["50.safetensors"])):
        out = tmp_path / str(number)
        steps = continue_from(whole | {"50.safetensors": data}, plan, out, monkeypatch)
        assert steps == [1, 2, 3]
        line = capsys.readouterr().out
        assert line.count("\n") == 1 and "continues from step 1" in line and "50.safetensors" in line
        assert (out / "damaged/50.safetensors").read_bytes() == data
        assert (out / "damaged/state.safetensors").read_bytes() == whole["state.safetensors"]
        check_complete(out, models)


@pytest.mark.parametrize("change", ["damaged", "missing", "of another training"])
def test_a_training_without_a_state_before_its_damaged_model_starts_anew(plan, models, tmp_path, capsys, change):
    model = paused(plan, tmp_path, 3) / "50.safetensors"
    if change == "damaged":
        model.write_bytes(b"")
    elif change == "missing":
        model.unlink()
    else:
        tensors, description = native.load(model)
        native.save(model, tensors, description | {"run": "another"})
    run(plan, tmp_path)
    line = capsys.readouterr().out
    assert line.count("\n") == 1 and "training starts anew" in line and line.count("50.safetensors") == 1
    assert (tmp_path / "damaged/state.safetensors").exists()
    check_complete(tmp_path, models)


def test_a_complete_training_is_not_repeated(plan, models, tmp_path, monkeypatch, capsys):
    run(plan, tmp_path)
    steps = count_steps(monkeypatch)
    run(plan, tmp_path)
    assert not steps and "is trained already" in capsys.readouterr().out
    (tmp_path / "50.safetensors").write_bytes((tmp_path / "50.safetensors").read_bytes()[:-1])
    run(plan, tmp_path)
    assert len(steps) == STEPS
    check_complete(tmp_path, models)


def test_the_state_is_saved_after_some_steps_or_some_time(plan, tmp_path, monkeypatch):
    saved, write = [], SavedFiles.write_state

    def write_state(self, tensors, description):
        saved.append(description["step"])
        write(self, tensors, description)

    monkeypatch.setattr(SavedFiles, "write_state", write_state)
    run(plan, tmp_path / "a", keep=[100], save_seconds=1e9, save_steps=3)
    run(plan, tmp_path / "b", keep=[100], save_seconds=1e9)
    run(plan, tmp_path / "c", keep=[50], save_seconds=1e9, stop_at=3)
    assert saved == [3, 4, 4, 2, 3]
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def send(monkeypatch, number: int, step: int) -> None:
    """Send this process a signal within a step."""
    do_step = trainer_module._do_step

    def do_step_with_signal(trainer, *more):
        if trainer.state.step == step:
            os.kill(os.getpid(), number)
        return do_step(trainer, *more)

    monkeypatch.setattr(trainer_module, "_do_step", do_step_with_signal)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_the_state_and_ends_the_training(plan, models, tmp_path, monkeypatch, number):
    # `nohup` makes the tests ignore SIGHUP, which a training would then ignore too.
    with monkeypatch.context() as patch, handle_signals([number], signal.SIG_DFL):
        send(patch, number, 2)
        with pytest.raises(Interrupted, match=f"{number.name} after step 3: the state is saved") as caught:
            run(plan, tmp_path, save_seconds=1e9)
        assert caught.value.status == 128 + number and signal.getsignal(number) == signal.SIG_DFL
    assert native.description(tmp_path / "partial/state.safetensors")["step"] == 3
    assert not (tmp_path / "partial/lock").exists()
    run(plan, tmp_path)
    check_complete(tmp_path, models)


@pytest.mark.parametrize(("number", "slurm"), [(signal.SIGUSR1, False), (signal.SIGUSR1, True), (signal.SIGTERM, True)])
def test_a_signal_saves_the_state_and_the_training_goes_on(plan, models, tmp_path, monkeypatch, number, slurm):
    saved, write = [], SavedFiles.write_state
    monkeypatch.setattr(
        SavedFiles,
        "write_state",
        lambda self, tensors, about: (saved.append(about["step"]), write(self, tensors, about)),
    )
    send(monkeypatch, number, 0)
    run(plan, tmp_path, save_seconds=1e9, continue_on_sigterm=slurm)
    assert saved == [1, 2, 4]
    check_complete(tmp_path, models)


def test_an_ignored_signal_stays_ignored(plan, models, tmp_path, monkeypatch):
    """As `nohup` makes a process ignore SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        send(monkeypatch, signal.SIGHUP, 1)
        run(plan, tmp_path)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    check_complete(tmp_path, models)


def test_a_signal_that_comes_too_late_has_its_usual_effect(plan, models, tmp_path, monkeypatch):
    received, complete = [], SavedFiles.complete

    def complete_with_signal(self, seconds):
        os.kill(os.getpid(), signal.SIGTERM)
        complete(self, seconds)

    monkeypatch.setattr(SavedFiles, "complete", complete_with_signal)
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        run(plan, tmp_path)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == [signal.SIGTERM]
    check_complete(tmp_path, models)


def test_a_second_interrupt_does_not_wait_for_the_step(plan, tmp_path, monkeypatch):
    def step(trainer, wishes=None):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Trainer, "step", step)
    with pytest.raises(KeyboardInterrupt):
        run(plan, tmp_path)


def test_a_training_in_another_thread_leaves_the_signals_alone(plan, models, tmp_path):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(run, plan, tmp_path).result()
    check_complete(tmp_path, models)


@pytest.mark.parametrize("name", ["state.safetensors", "50.safetensors"])
def test_a_file_that_cannot_be_read_now_is_not_set_aside(plan, tmp_path, monkeypatch, name):
    """As after an error of a network file system: the file is whole, and a later start can read it."""
    partial, original = paused(plan, tmp_path, 2), safetensors.safe_open

    def safe_open(path, framework):
        if Path(path).name == name:
            raise OSError(errno.EIO, "Input/output error")
        return original(path, framework=framework)

    with monkeypatch.context() as patch:
        patch.setattr(safetensors, "safe_open", safe_open)
        with pytest.raises(UserError, match="Input/output error"):
            run(plan, tmp_path)
    assert (partial / name).exists() and not (tmp_path / "damaged").exists()


def command(place: Path, folder: Path) -> list[str]:
    """The command of a training that takes minutes."""
    experiments = folder / "experiments/digits"
    experiments.mkdir(parents=True)
    document = FILES["classifier"] | {"training": TRAINING | {"total_steps": 10**6}}
    (experiments / "classifier.yaml").write_text(yaml.safe_dump(document))
    (experiments / "base.yaml").write_text(yaml.safe_dump(FILES["base"]))
    train_it = [sys.executable, "-m", "cm", "train", "--run", RUN, "--experiments", str(experiments.parent)]
    return [*train_it, "--data", str(place / "data"), "--out", str(folder / "100.safetensors"), "--save-steps", "50"]


def test_two_processes_and_sigterm_by_the_command_line(place, tmp_path):
    arguments, state = command(place, tmp_path), tmp_path / "partial/state.safetensors"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    first = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=environment)
    deadline = time.monotonic() + 60
    while not state.exists() and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    second = subprocess.run(arguments, capture_output=True, text=True, env=environment)
    assert second.returncode == 2 and second.stderr.count("\n") == 1
    assert f"is in use by process {first.pid} on " in second.stderr
    first.send_signal(signal.SIGTERM)
    _, errors = first.communicate(timeout=30)
    assert first.returncode == 143
    assert "Traceback" not in errors and errors.splitlines()[-1].startswith("cm train: SIGTERM after step ")
    assert not (tmp_path / "partial/lock").exists()
    native.load(state)


def test_a_run_that_another_process_trains_is_refused_before_any_work(plan, tmp_path, monkeypatch):
    (tmp_path / "partial").mkdir()
    (tmp_path / "partial/lock").write_text('{"host": "elsewhere", "pid": 7, "slurm_job": "12", "restarts": 0}')
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(UserError, match=r"process 7 on elsewhere, Slurm job 12.*remove .*lock") as caught:
        run(plan, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_while_the_state_is_saved_is_not_forgotten(plan, tmp_path, monkeypatch, number):
    """The training has asked for signals before it saves, as it does at every interval."""
    save, saved = TrainingState.save, []

    def interrupted(self):
        if not saved:
            signal.raise_signal(number)
        saved.append(self.step)
        save(self)

    monkeypatch.setattr(TrainingState, "save", interrupted)
    with pytest.raises(Interrupted, match=rf"{number.name} after step 2: the state is saved"):
        run(plan, tmp_path)
    assert saved == [1, 2]
