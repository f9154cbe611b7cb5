"""Training in several processes: the same result for any number of them, and no hanging when one of them fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import plan_of

from cm.checkpoints import native
from cm.cli import main
from cm.config.measurements import read_measurements
from cm.training import processes
from cm.training.launch import Environment, launch, read_environment
from cm.training.processes import ALONE, Processes
from cm.training.trainer import train

WORKER = Path(__file__).parent / "parallel_worker.py"
RUNS = [
    "digits/edm/default/seed0",
    "digits/cd/solver~euler,target_mu~0.9/seed0",
    "digits/ct/clip~0.1,microbatch~3/seed0",
    "digits/ct/precision~float16/seed0",
    "digits/ict/default/seed0",
    "digits/ect/default/seed0",
    "digits/tcm/default/seed0",
    "digits/scd/clip~1.0/seed0",
    "digits/meanflow/default/seed0",
    "digits/pd/steps~2/seed0",
    "digits/classifier/default/seed0",
]


def run_together(count: int, place: Path, out: Path, *names: str, fault: str = "none") -> int:
    """The exit status of `count` processes that train these runs."""
    return launch(count, [sys.executable, str(WORKER), str(place), str(out), fault, *names])


@pytest.fixture(autouse=True)
def paths(monkeypatch):
    """The processes find this copy of the package and the helpers of the tests."""
    places = [str(WORKER.parents[2]), str(WORKER.parents[1])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(places))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def alone(place, tmp_path_factory):
    """The runs, trained by one process."""
    out = tmp_path_factory.mktemp("alone")
    for name in RUNS:
        train(plan_of(place, name, out / name))
    return out


@pytest.mark.parametrize(("count", "names"), [(2, RUNS), (3, [RUNS[2], RUNS[-1]])], ids=["2", "3"])
def test_the_number_of_processes_does_not_change_the_weights(place, alone, tmp_path, count, names):
    """A batch of 16 in parts of 5, 5 and 6 images, too; only the order of additions differs."""
    assert run_together(count, place, tmp_path, *names) == 0
    for name in names:
        for progress in (50, 100):
            one, many = (native.load(out / name / f"{progress}.safetensors") for out in (alone, tmp_path))
            assert one[1] == many[1]
            # Biases before the classifier's normalisations have no gradient but rounding errors, which Adam enlarges.
            tolerance = 2e-3 if "classifier" in name else 2e-6
            assert all(torch.allclose(one[0][key], many[0][key], atol=tolerance, rtol=0) for key in one[0]), name
        one, many = (read_measurements(out / name / "metrics.jsonl") for out in (alone, tmp_path))
        assert [(line.step, line.N, line.mu) for line in many] == [(line.step, line.N, line.mu) for line in one]
        for key in ("loss", "gradient_norm", "rate"):  # a norm that float16 cannot hold is missing in both
            expected = [line.values.get(key, 0.0) for line in one]
            assert [line.values.get(key, 0.0) for line in many] == pytest.approx(expected, rel=2e-3, abs=1e-7), name
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == [
            "100.safetensors",
            "50.safetensors",
            "metrics.jsonl",
            "seconds.json",
        ]
    assert not list(tmp_path.glob("rendezvous*"))


def test_a_training_goes_on_in_another_number_of_processes(place, alone, tmp_path):
    name = RUNS[1]
    train(plan_of(place, name, tmp_path / name, stop_at=7))
    assert run_together(2, place, tmp_path, name) == 0
    one, two = (native.load(out / name / "100.safetensors")[0] for out in (alone, tmp_path))
    assert all(torch.allclose(one[key], two[key], atol=2e-6, rtol=0) for key in one)


def test_a_process_that_dies_ends_the_others(place, tmp_path, capfd):
    started = time.monotonic()
    assert run_together(3, place, tmp_path, RUNS[0], fault="die") == 7
    assert time.monotonic() - started < 60
    error = capfd.readouterr().err
    assert "error: the connection to another process of this training is lost" in error
    assert "Traceback" not in error


def test_weights_that_differ_are_noticed_after_the_first_step(place, tmp_path, capfd):
    assert run_together(2, place, tmp_path, RUNS[0], fault="differ") == 2
    error = capfd.readouterr().err
    assert f"{RUNS[0]}, step 1: the weights of process 1 differ from those of process 0; nothing is saved" in error
    assert not list((tmp_path / RUNS[0]).rglob("*.safetensors"))


def test_the_command_starts_processes(place, tmp_path, monkeypatch):
    arguments = ["train", "--run", RUNS[0], "--experiments", str(place / "experiments"), "--data", str(place / "data")]
    arguments += ["--out", str(tmp_path / "50.safetensors"), str(tmp_path / "100.safetensors"), "--threads", "1"]
    assert main([*arguments, "--processes", "2", "--device", "cpu"]) == 0
    assert (tmp_path / "100.safetensors").exists() and (tmp_path / "samples.png").exists()


def test_ctrl_c_reaches_each_process_once(place, tmp_path):
    """A terminal sends SIGINT to the whole group of the command; a second one would end the step at once."""
    command = [sys.executable, "-m", "cm", "train", "--run", "digits/edm/total_steps~3000/seed0", "--processes", "2"]
    command += ["--experiments", str(place / "experiments"), "--data", str(place / "data"), "--device", "cpu"]
    command += ["--out", str(tmp_path / "100.safetensors"), "--threads", "1", "--save-steps", "5"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, process_group=0) as training:
        state = tmp_path / "partial" / "state.safetensors"
        while not state.exists() and training.poll() is None:
            time.sleep(0.1)
        os.killpg(training.pid, signal.SIGINT)
        error = training.communicate(timeout=60)[1]
    assert training.returncode == 130, error
    assert "SIGINT after step" in error and "the state is saved" in error and "Traceback" not in error
    assert native.description(state)["step"] >= 5


def test_torchrun_starts_processes(place, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(WORKER), str(place), str(tmp_path), "none", RUNS[0]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / RUNS[0] / "100.safetensors").exists()


def test_more_processes_than_images_are_refused(place, tmp_path, capsys):
    arguments = ["train", "--run", RUNS[0], "--experiments", str(place / "experiments"), "--data", str(place / "data")]
    assert main([*arguments, "--out", str(tmp_path / "100.safetensors"), "--processes", "17"]) == 2
    assert "a batch of 16 cannot be divided among 17 processes" in capsys.readouterr().err


@pytest.mark.parametrize("batch", [1, 7, 16, 512])
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_shares_cover_the_batch_once(batch, count):
    shares = [Processes(rank, count).share(batch) for rank in range(count)]
    assert [index for share in shares for index in range(batch)[share]] == list(range(batch))
    sizes = [share.stop - share.start for share in shares]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("variables", "environment"),
    [
        ({}, Environment()),
        ({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, Environment(3, 4, 1)),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "CM_START": "x"}, Environment(0, 2, 0, "x")),
        (
            {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "9"}
            | {"SLURM_STEP_ID": "0", "SLURM_RESTART_COUNT": "2"},
            Environment(1, 2, 0, "slurm-9-0-2"),
        ),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "SLURM_JOB_ID": "9"}, Environment()),
    ],
)
def test_the_environment_says_who_trains_together(monkeypatch, variables, environment):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "CM_START", *(key for key in os.environ if key[:5] == "SLURM")):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert read_environment() == environment


def test_one_process_communicates_with_nobody():
    numbers = torch.tensor([1.0, 0.0])
    assert ALONE.sum_gradients([], numbers) is numbers
    ALONE.check_equal({"a": torch.zeros(1)}, "here")
    assert ALONE.any(True) and not ALONE.any(False)
    ALONE.wait()


def test_a_digest_sees_every_bit():
    weights = {"a": torch.zeros(3), "b": torch.ones(2, dtype=torch.bfloat16)}
    changed = {**weights, "b": torch.tensor([1.0, 1.0078125], dtype=torch.bfloat16)}
    copied = {name: tensor.clone() for name, tensor in weights.items()}
    assert native.checksum(weights) == native.checksum(copied) != native.checksum(changed)


def test_a_first_process_that_never_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "CONNECT_SECONDS", 0.1)
    with pytest.raises(processes.UserError, match="the first process did not start"):
        processes._open_store(Environment(1, 2, 1, "start"), tmp_path)
