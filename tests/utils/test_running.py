"""Snakemake is unlocked after it was killed, but never while it or a job of it is running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cm.cli import main
from cm.config.layout import Layout
from cm.errors import UserError
from cm.jobs.request import TRAINING_PREFIX
from cm.utils import running

LOGS = Layout().logs
SNAKEFILE = """\
rule slow:
    output: "done"
    log: "results/logs/slow.log"
    shell: "sleep $(cat seconds) > {log}; touch {output}"
"""


def snakemake(folder: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--rerun-incomplete"]
    with (folder / "messages").open("w") as file:
        return subprocess.Popen(command, cwd=folder, stdout=file, stderr=file)


def wait_for(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder, the current one, on a machine without Slurm."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(running.shutil, "which", lambda name: None)
    return tmp_path


def test_a_killed_snakemake_is_unlocked_when_its_jobs_have_ended(folder, capsys):
    (folder / "Snakefile").write_text(SNAKEFILE)
    (folder / "seconds").write_text("100")
    first = snakemake(folder)
    wait_for((folder / "results/logs/slow.log").exists)
    assert main(["unlock"]) == 2
    assert f"process {first.pid} (" in capsys.readouterr().err
    first.kill()
    first.wait()
    (orphan,) = (text for text in running.find_running(folder, LOGS, TRAINING_PREFIX) if "(sleep 100)" in text)
    assert main(["unlock"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("cm unlock: error: not unlocked, since Snakemake or a job of it is running: process ")
    assert f"process {first.pid} (" not in error and orphan in error and error.count("\n") == 1
    (folder / "seconds").write_text("0")
    assert snakemake(folder).wait() != 0
    assert "LockException" in (folder / "messages").read_text()
    for text in running.find_running(folder, LOGS, TRAINING_PREFIX):
        os.kill(int(text.split()[1]), signal.SIGKILL)
    wait_for(lambda: not running.find_running(folder, LOGS, TRAINING_PREFIX))
    (folder / "elsewhere").mkdir()
    (folder / "Snakefile").rename(folder / "elsewhere/Snakefile")
    assert main(["unlock", "--snakefile", "elsewhere/Snakefile"]) == 0
    (folder / "elsewhere/Snakefile").rename(folder / "Snakefile")
    assert snakemake(folder).wait() == 0
    assert (folder / "done").exists()


def test_who_only_reads_a_log_is_no_job(folder):
    log = folder / LOGS / "train/a.log"
    log.parent.mkdir(parents=True)
    log.touch()
    for mode, count in (("r", 0), ("w", 1)):
        with log.open(mode) as file:
            process = subprocess.Popen(["sleep", "60"], stdin=file, stdout=file)
        try:
            wait_for(lambda expected=count: len(running.find_running(folder, LOGS, TRAINING_PREFIX)) == expected)
        finally:
            process.kill()
            process.wait()
    assert running.find_running(folder / LOGS, LOGS, TRAINING_PREFIX) == []


def put_squeue(folder: Path, monkeypatch, script: str) -> None:
    """Install a `squeue` that is this script of the shell."""
    path = folder / "bin" / "squeue"
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.undo()
    monkeypatch.setenv("PATH", str(path.parent), prepend=os.pathsep)


def test_jobs_of_slurm_count_if_they_are_of_this_folder(folder, monkeypatch):
    here = folder / "a folder"
    here.mkdir()
    lines = [
        f"11 RUNNING cm_a {here}",
        f"12 PENDING cm_b {here}",
        f"13 RUNNING cm_c {folder}",
        f"14 RUNNING cm_d {here}",
    ]
    lines += [f"15 RUNNING {TRAINING_PREFIX}digits_edm_default_seed0_1a2b3c4d {here}"]
    put_squeue(folder, monkeypatch, "\n".join(f"echo '{line}'" for line in lines))
    monkeypatch.setenv("SLURM_JOB_ID", "14")
    assert running.find_running(here, LOGS, TRAINING_PREFIX) == ["Slurm job 11 (running)", "Slurm job 12 (pending)"]


def test_a_slurm_that_does_not_answer_is_no_permission_if_it_was_used_here(folder, monkeypatch):
    put_squeue(folder, monkeypatch, "echo 'squeue: error:\nno answer' >&2; exit 1")
    assert running.find_running(folder, LOGS, TRAINING_PREFIX) == []
    (folder / running.SLURM_LOGS).mkdir(parents=True)
    with pytest.raises(UserError, match=r"does not say which jobs are running: squeue: error: no answer$"):
        running.find_running(folder, LOGS, TRAINING_PREFIX)


def test_a_system_that_does_not_say_what_is_running_is_no_permission(folder, monkeypatch):
    monkeypatch.setattr(running, "PROCESSES", folder / "proc")
    with pytest.raises(UserError, match="make sure that no job is"):
        running.find_running(folder, LOGS, TRAINING_PREFIX)
