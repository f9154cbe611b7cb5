"""What a command computes on, the bounds of its numbers, and what Ctrl-C does to it."""

from __future__ import annotations

import importlib.abc
import os
import signal
import sys
import time

import pytest

from cm import api, config
from cm.__main__ import run
from cm.cli import main
from cm.cli.options import ExtractionOptions, Hardware
from cm.training.signals import handle_signals
from cm.utils import files, gpus


@pytest.fixture
def taken(monkeypatch):
    """How many GPUs were taken, of a machine with four."""
    counts = []

    def take(count):
        counts.append(count)
        return [str(index) for index in range(count)]

    monkeypatch.setattr(gpus, "take_gpus", take)
    monkeypatch.setattr(api, "select_device", lambda name: name or "cuda")
    return counts


def test_by_default_one_gpu_is_taken(taken):
    assert Hardware(threads=None, device=None, gpus=1).select_devices() == ("cuda",)
    assert taken == [1]


def test_two_gpus_are_two_devices(taken):
    assert Hardware(threads=None, device=None, gpus=2).select_devices() == ("cuda:0", "cuda:1")
    extraction = ExtractionOptions(threads=None, device=None, gpus=2, batch=8, workers=1)
    assert extraction.select().devices == ("cuda:0", "cuda:1")
    assert taken == [2, 2]


def test_a_device_that_is_named_is_used_and_none_taken(taken):
    assert Hardware(threads=None, device="cuda:1", gpus=1).select_devices() == ("cuda:1",)
    assert Hardware(threads=None, device="cuda:1,cuda:3", gpus=1).select_devices() == ("cuda:1", "cuda:3")
    assert not taken


def test_no_gpus_means_the_processor(taken):
    assert Hardware(threads=None, device=None, gpus=0).select_devices() == ("cpu",)
    assert not taken


def test_without_a_gpu_the_default_stays_the_processor(taken, monkeypatch):
    monkeypatch.setattr(gpus, "take_gpus", lambda count: [])
    assert Hardware(threads=None, device=None, gpus=2).select_devices() == ("cuda",), "api.select_device decides"


NO_SEEDS = ["\u0661", "\uff11", "\u00b2", "1_0", " 1", "0x1", "1.0", "1e3", "-1", "4001", "9" * 5000, "nan", "inf", ""]


@pytest.mark.parametrize("text", NO_SEEDS, ids=lambda text: ascii(text[:9]))
def test_what_is_no_seed_is_refused_in_one_line(text, tmp_path, capsys):
    arguments = ["--model", str(tmp_path / "m"), "--sampler", "onestep", "--out", str(tmp_path / "a.npy")]
    assert main(["sample", *arguments, "--seed", text]) == 2
    error = capsys.readouterr().err
    assert error.startswith("cm sample: error: ") and "seed" in error and error.count("\n") == 1


@pytest.mark.parametrize("option", ["--batch", "--count", "--threads", "--gpus"])
@pytest.mark.parametrize("text", ["1" + "0" * 30, "-1", "\u0661", "many"], ids=ascii)
def test_absurd_numbers_are_refused_in_one_line(option, text, tmp_path, capsys):
    arguments = ["--model", str(tmp_path / "m"), "--sampler", "onestep", "--out", str(tmp_path / "a.npy")]
    assert main(["sample", *arguments, option, text]) == 2
    assert capsys.readouterr().err.count("\n") == 1


COMMANDS = {
    "sample --threads": "sample --model m --sampler onestep --out a.npy --threads",
    "score --threads": "score m.npy --protocol offline --reference m --out a.json --threads",
    "score --workers": "score m.npy --protocol offline --reference m --out a.json --workers",
    "featurize --workers": "featurize m.npy --protocol offline --out a.npz --workers",
    "train --threads": "train --run digits/edm/default/seed0 --data m --out 100.safetensors --threads",
    "prepare --workers": "prepare --dataset digits --out a --workers",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_more_threads_than_any_machine_starts_are_refused(command, tmp_path, monkeypatch, capsys):
    """OpenMP ends the process if there is no memory for its threads."""
    monkeypatch.chdir(tmp_path)
    name = command.rpartition("--")[2]
    assert main([*COMMANDS[command].split(), "1000000000"]) == 2
    error = capsys.readouterr().err
    assert f"{name} must be at most 4096, not 1000000000" in error and error.count("\n") == 1


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999", "-1"])
def test_a_number_of_seconds_is_finite(text, tmp_path, capsys):
    arguments = [
        "--run",
        "digits/edm/default/seed0",
        "--data",
        str(tmp_path),
        "--out",
        str(tmp_path / "100.safetensors"),
    ]
    assert main(["train", *arguments, "--save-seconds", text]) == 2
    assert "save-seconds" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["5\u0663.safetensors", "\u0661.safetensors", "\uff11\uff10.safetensors"], ids=ascii)
def test_a_percentage_has_ascii_digits(name, tmp_path, capsys):
    arguments = ["--run", "digits/edm/default/seed0", "--data", str(tmp_path), "--out", str(tmp_path / name)]
    assert main(["train", *arguments]) == 2
    assert "out must be files" in capsys.readouterr().err


def test_ctrl_c_within_a_command_is_one_line(monkeypatch, capsys):
    def interrupt(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(config, "load_suite", interrupt)
    assert main(["draw", "--suite", "a.yaml", "--artefact", "a"]) == 130
    assert capsys.readouterr().err.strip() == "cm draw: interrupted"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_a_command_leaves_no_file_half_written(number, tmp_path, monkeypatch, capsys):
    def write_until_ended(folder):
        with files.replace_file(folder / "a.json") as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), number)
            time.sleep(60)

    monkeypatch.setattr("cm.config.schema.write_schemas", write_until_ended)
    with handle_signals([number], signal.SIG_DFL):
        assert main(["schema", "--out", str(tmp_path)]) == 128 + number
        assert signal.getsignal(number) == signal.SIG_DFL
    assert capsys.readouterr().err == f"cm schema: ended by {number.name}\n"
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda number, frame: None])
def test_a_signal_that_is_ignored_or_handled_stays_so(handler, tmp_path, monkeypatch):
    monkeypatch.setattr("cm.config.schema.write_schemas", lambda folder: os.kill(os.getpid(), signal.SIGHUP))
    with handle_signals([signal.SIGHUP], handler):
        assert main(["schema", "--out", str(tmp_path)]) == 0


def test_ctrl_c_while_the_modules_of_the_command_line_are_imported_is_one_line(monkeypatch, capsys):
    class Interrupting(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path, target=None):
            if name == "cm.cli":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "cm.cli")
    monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
    assert run() == 130
    assert capsys.readouterr().err == "cm: interrupted\n"
