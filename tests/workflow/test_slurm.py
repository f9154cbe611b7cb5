"""The workflow and long trainings on a real Slurm of two simulated nodes."""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import slurm_cluster
import torch
import yaml
from jobs_support import MICRO, ROOT, call, needs_plugin, needs_slurm, options_of, start, wait_until

from cm.checkpoints import native

# Snakemake asks after that many seconds whether a job has ended, and then less and less often.
POLLING = "--slurm-init-seconds-before-status-checks 10"
RUN = "digits/edm/default/seed0"
STATE = f"results/models/{RUN}/partial/state.safetensors"
MODEL = f"results/models/{RUN}/100.safetensors"
STEPS = 2000  # enough for a training to be interrupted several times

pytestmark = [needs_plugin, needs_slurm]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """The folder of the commands of a running Slurm with two nodes, each with two simulated GPUs."""
    with slurm_cluster.run_slurm(tmp_path_factory.mktemp("slurm"), nodes=2) as programs:
        yield programs


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with the tables of a teacher and of what is distilled from it, made without Slurm."""
    place = tmp_path_factory.mktemp("here")
    shutil.copytree(MICRO, place, dirs_exist_ok=True)
    suite = yaml.safe_load((MICRO / "micro.yaml").read_text()) | {"seeds": [0], "ablations": {}}
    artefacts = {name: suite["artefacts"][name] for name in ("table1", "table3", "runs")}
    artefacts["table1"]["entries"] = [{"method": "edm", "label": "EDM"}, {"method": "cd", "label": "CD"}]
    (place / "small.yaml").write_text(yaml.safe_dump(suite | {"artefacts": artefacts}))
    experiment = place / "experiments/digits/edm.yaml"
    settings = yaml.safe_load(experiment.read_text())
    settings["training"]["total_steps"] = STEPS
    experiment.write_text(yaml.safe_dump(settings))
    call("snakemake all_tables --cores 2", *options_of(place, "small.yaml"), cwd=place)
    return place


@pytest.fixture
def place(here, tmp_path):
    """A copy of that folder without the trainings and what follows from them."""
    shutil.copytree(here, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".snakemake", "reports"))
    for results in ("scores", "logs", "models"):
        shutil.rmtree(tmp_path / "results" / results)
    return tmp_path


def squeue(slurm: Path, *options: str) -> list[str]:
    """The ids of the jobs of trainings that are queued or running."""
    lines = run([slurm / "squeue", "--noheader", "--format=%i %j", *options]).splitlines()
    return [line.split()[0] for line in lines if "cm_train_digits_edm" in line]


def run(command: list[str | Path]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def node_of(slurm: Path, job: str) -> str:
    """The node that a job runs on."""
    return run([slurm / "squeue", "--noheader", f"--jobs={job}", "--format=%N"])


def processes_of(place: Path) -> list[int]:
    """The processes that train in a folder, without those that supervise them."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        words = process.info["cmdline"] or []
        if process.info["cwd"] == str(place) and "train" in words and "launch" not in words and not process.children():
            found.append(process.pid)
    return found


def has_saved(slurm: Path, place: Path, since: float) -> bool:
    """Whether a training runs and has saved a state that is newer than that."""
    state = place / STATE
    return bool(squeue(slurm, "--states=RUNNING")) and state.exists() and state.stat().st_mtime > since


def has_started(place: Path, job: str, times: int) -> bool:
    """Whether the job was started that many times; what ran before is dead then."""
    return (place / f"results/jobs/{RUN}/{job}_0_log.out").read_text().count("Loading pickle") == times


def weights(path: Path) -> dict[str, torch.Tensor]:
    return native.load(path)[0]


def launch(place: Path, slurm: Path, options: str, run: str = RUN) -> subprocess.Popen[str]:
    """`cm train` as a job of Slurm."""
    folder = f"results/models/{run}"
    files = f"--folder results/jobs/{run} --state {folder}/partial/state.safetensors --output {folder}/100.safetensors"
    command = f"{sys.executable} -m cm launch --cluster slurm --sbatch mem=1000 {files} {options}"
    return start(f"{command} -- {train_command(run, folder)}", cwd=place, programs=slurm)


def train_command(run: str, folder: str) -> str:
    options = "--experiments experiments --data results/data/digits --threads 1 --gpus 0 --save-steps 50"
    return f"cm train --run {run} {options} --out {folder}/100.safetensors"


def test_a_job_that_is_requeued_three_times_ends_with_the_same_model(place, here, slurm):
    """Its time is over, it is preempted, and its node fails; the restarts are those of one job."""
    process = launch(place, slurm, "--minutes 1 --grace-seconds 30")
    wait_until(lambda: has_saved(slurm, place, since=0), "training")
    (job,) = squeue(slurm)
    urgent = [slurm / "sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=true"]
    interrupts = (
        lambda: run([slurm / "scancel", "--signal=USR2", job]),  # what Slurm sends before the time is over
        lambda: run(urgent),
        lambda: slurm_cluster.fail_node(slurm, node_of(slurm, job)),
    )
    for number, interrupt in enumerate(interrupts, 1):
        interrupt()
        wait_until(functools.partial(has_started, place, job, times=number + 1), "restart")
        wait_until(functools.partial(has_saved, slurm, place, since=time.time()), "saved state")
    assert squeue(slurm) == [job]
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert output.count("Loading pickle") >= 4  # Slurm may requeue a job again when the failed node does not answer
    slurm_cluster.start_nodes(slurm)
    assert weights(place / MODEL).keys() == weights(here / MODEL).keys()
    for name, value in weights(here / MODEL).items():
        assert torch.equal(weights(place / MODEL)[name], value)


def test_two_tasks_on_two_nodes_train_one_model(place, slurm):
    run = "digits/edm/total_steps~10/seed0"
    process = launch(place, slurm, "--nodes 2 --tasks 2", run)
    call(train_command(run, "alone"), cwd=place)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert len([line for line in output.splitlines() if "10/10" in line]) == 1  # one of them shows the progress
    together = weights(place / f"results/models/{run}/100.safetensors")
    for name, value in weights(place / "alone/100.safetensors").items():
        torch.testing.assert_close(together[name], value, rtol=1e-4, atol=1e-5)


def test_a_task_that_dies_alone_ends_the_others(place, slurm):
    process = launch(place, slurm, "--nodes 2 --tasks 2")
    wait_until(lambda: has_saved(slurm, place, since=0), "training")
    first, second = processes_of(place)
    os.kill(second, signal.SIGKILL)
    killed = time.monotonic()
    output, _ = process.communicate(timeout=200)
    assert process.returncode in (128 + signal.SIGKILL, 128 + signal.SIGTERM)  # of the one, or of the other
    assert re.search(r"a process of the training was ended by SIG(KILL|TERM), and so were the others", output)
    assert time.monotonic() - killed < 60
    wait_until(lambda: not psutil.pid_exists(first), "end of the other task", seconds=20)
    assert (place / STATE).exists()


def test_a_cancelled_job_is_reported_and_keeps_its_state(place, slurm):
    process = launch(place, slurm, "")
    wait_until(lambda: has_saved(slurm, place, since=0), "training")
    (job,) = squeue(slurm)
    subprocess.run([slurm / "scancel", job], check=True)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 1
    assert f"job {job} ended in the state CANCELLED and left no result" in output
    assert (place / STATE).exists()


def test_snakemake_is_killed_and_finds_its_training_again(place, here, slurm):
    """The tables are those that were made here."""
    command = f"snakemake --profile {ROOT}/slurm all_tables {POLLING}"
    arguments = options_of(place, "small.yaml")
    killed = start(command, *arguments, cwd=place, programs=slurm)
    wait_until(lambda: squeue(slurm, "--states=RUNNING"), "training")
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    (job,) = squeue(slurm)

    call("snakemake --unlock", *arguments, cwd=place)
    call(command, *arguments, cwd=place, programs=slurm)
    log = (place / f"results/logs/train/{RUN}.log").read_text()
    assert f"job {job} was submitted before" in log
    assert "is submitted as" not in log
    tables = sorted(path.relative_to(here) for path in (here / "reports/tables").iterdir())
    assert {table.stem for table in tables} == {"table1", "table3", "runs"}
    for table in tables:
        assert (place / table).read_text() == (here / table).read_text()


def test_two_gpus_arrive_as_two(tmp_path, slurm):
    (tmp_path / "Snakefile").write_text(
        'rule both:\n    output: "gpus"\n    resources: gpu=2, mem_mb=100, runtime=5\n'
        '    shell: "echo {resources.gpu} $CUDA_VISIBLE_DEVICES > {output}"\n'
    )
    profiles = f"--profile {ROOT}/slurm --workflow-profile {ROOT}/profiles/default"
    call(f"snakemake {profiles} {POLLING}", cwd=tmp_path, programs=slurm)
    assert (tmp_path / "gpus").read_text() == "2 0,1\n"
