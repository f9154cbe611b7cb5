"""Jobs on this machine: they outlive their launcher, are found again, and are never two."""

from __future__ import annotations

import json
import os
import signal
import sys
import textwrap

import pytest
from jobs_support import call, start, wait_until

from cm.cli import main
from cm.jobs.task import Task

# A command of six steps that saves after each of them and counts its starts. It takes SIGTERM as a training does.
COMMAND = """\
import os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
with open("starts", "a") as file:
    file.write("x")
state = pathlib.Path("state")
for step in range(int(state.read_text()) + 1 if state.exists() else 0, 6):
    print("step", step, flush=True)
    time.sleep(0.4)
    pathlib.Path("new").write_text(str(step))
    os.replace("new", "state")
pathlib.Path("model").write_text("done")
"""


@pytest.fixture
def place(tmp_path):
    (tmp_path / "command.py").write_text(textwrap.dedent(COMMAND))
    return tmp_path


def launch(*options: str) -> list[str]:
    """The command line that runs the command above as a job."""
    files = ["--folder", "jobs/a", "--state", "state", "--output", "model"]
    return [*files, *options, "--", sys.executable, "command.py"]


LAUNCH = f"{sys.executable} -m cm launch"


def test_a_job_ends_with_its_outputs_and_leaves_nothing_else(place):
    output = call(LAUNCH, *launch(), cwd=place)
    assert [line for line in output.splitlines() if line.startswith("step")] == [f"step {step}" for step in range(6)]
    assert (place / "model").exists()
    assert not (place / "jobs/a").exists()


def test_a_job_outlives_its_launcher_and_is_found_again(place):
    first = start(LAUNCH, *launch(), cwd=place)
    wait_until((place / "state").exists, "state")
    first.kill()
    first.communicate()
    output = call(LAUNCH, *launch(), cwd=place)
    assert "was submitted before: waiting for it" in output
    assert "step 0\n" in output  # the whole log is shown again
    assert (place / "starts").read_text() == "x"
    assert (place / "model").exists()


def test_what_snakemake_removed_meanwhile_is_restored(place):
    """The job ends while nobody waits; Snakemake then removes outputs of an incomplete job before it starts again."""
    first = start(LAUNCH, *launch(), cwd=place)
    wait_until((place / "state").exists, "state")
    first.kill()
    first.communicate()
    wait_until(lambda: list((place / "jobs/a").glob("*_status.json")), "end of the job")
    (place / "model").unlink()
    call(LAUNCH, *launch(), cwd=place)
    assert (place / "model").read_text() == "done"
    assert (place / "starts").read_text() == "x"


def test_what_was_removed_before_it_was_kept_is_made_again(place):
    """Snakemake removes the output in the moment between its writing and the end of the job."""
    program = place / "command.py"
    complete = program.read_text()
    program.write_text(complete.replace('pathlib.Path("model").write_text("done")', ""))
    output = call(LAUNCH, *launch(), cwd=place, status=1)
    assert "model was removed while job" in output and "it must be trained again" in output
    program.write_text(complete)
    call(LAUNCH, *launch(), cwd=place)
    assert (place / "model").read_text() == "done"
    assert (place / "starts").read_text() == "xx"


@pytest.mark.parametrize(("number", "goes_on"), [(signal.SIGINT, False), (signal.SIGTERM, True), (signal.SIGHUP, True)])
def test_ctrl_c_cancels_the_job_and_other_signals_leave_it(place, number, goes_on):
    process = start(LAUNCH, *launch(), cwd=place)
    wait_until((place / "state").exists, "state")
    # A terminal sends Ctrl-C, and says that it is closed, to all processes that were started in it.
    (os.kill if number == signal.SIGTERM else os.killpg)(process.pid, number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert ("goes on; the same command waits for it again" if goes_on else "is cancelled") in output.splitlines()[-1]
    call(LAUNCH, *launch(), cwd=place)
    assert (place / "starts").read_text() == ("x" if goes_on else "xx")
    assert (place / "model").exists()


def test_a_job_of_other_settings_is_cancelled(place):
    first = start(LAUNCH, *launch("--key", "old"), cwd=place)
    wait_until((place / "state").exists, "state")
    first.kill()
    first.communicate()
    output = call(LAUNCH, *launch("--key", "new"), cwd=place)
    assert "has other settings: it is cancelled" in output
    assert (place / "starts").read_text() == "xx"


def test_the_status_of_the_command_is_that_of_the_launcher(place):
    (place / "command.py").write_text("import sys\nprint('cm train: error: no such run')\nsys.exit(2)\n")
    output = call(LAUNCH, *launch(), cwd=place, status=2)
    assert "cm train: error: no such run" in output
    assert "Traceback" not in output
    assert not (place / "jobs/a/job.json").exists()  # so that the next launcher submits it anew


def test_a_job_that_dies_alone_is_reported(place):
    process = start(LAUNCH, *launch(), cwd=place)
    wait_until((place / "jobs/a/job.json").exists, "job")
    job = int(json.loads((place / "jobs/a/job.json").read_text())["id"])
    wait_until((place / "state").exists, "state")
    call("pkill", "-KILL", "-P", str(job))
    call("kill", "-KILL", str(job))
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"job {job} was killed and left no result" in output


RECORDS = ["", "{", "[]", "null", "3", "{}", '{"id": "3"}', '{"key": ""}', '{"id": null, "key": ""}', "[" * 9999]
RECORDS += [f'{{"id": {value}, "key": ""}}' for value in ('"../x"', '"-1"', '"\u0663"', "[]", "1.5", "true", "9" * 30)]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record[:30])
def test_a_damaged_record_of_a_job_is_refused_and_no_job_started(place, monkeypatch, capsys, record):
    monkeypatch.chdir(place)
    (place / "jobs/a").mkdir(parents=True)
    (place / "jobs/a/job.json").write_text(record)
    assert main(["launch", *launch()]) == 2
    error = capsys.readouterr().err
    assert "jobs/a/job.json" in error and error.count("\n") == 1
    assert os.listdir(place / "jobs/a") == ["job.json"]


@pytest.mark.parametrize("status", ["", "[]", "{}", '{"status": "0"}', '{"status": null}', '{"status": 1e400}'])
def test_a_damaged_status_of_a_job_is_that_of_a_failed_one(place, monkeypatch, status):
    monkeypatch.chdir(place)
    (place / "jobs/a").mkdir(parents=True)
    (place / "jobs/a/job.json").write_text('{"id": "7", "key": ""}')
    (place / "jobs/a/7_status.json").write_text(status)
    assert main(["launch", *launch()]) == 1
    assert not (place / "starts").exists()


@pytest.fixture
def task(tmp_path, monkeypatch):
    """A task that does nothing, as a process of the job 7."""
    for name, value in {"EXECUTOR": "local", "LOCAL_JOB_ID": "7", "LOCAL_GLOBALID": "0"}.items():
        monkeypatch.setenv(f"SUBMITIT_{name}", value)
    return Task((sys.executable, "-c", "pass"), tmp_path, tmp_path / "state", (), {}, grace_seconds=0.1, seconds=100)


def test_a_fourth_start_from_one_state_is_refused(task, capsys):
    task()
    task.state.write_text("progress")
    for _ in range(3):
        task()
    with pytest.raises(SystemExit) as error:
        task()
    assert error.value.code == 1
    assert "makes no progress and is not started again: it was started 3 times" in capsys.readouterr().out
    assert json.loads((task.folder / "7_status.json").read_text()) == {"status": 1}


@pytest.mark.parametrize(("lasted", "saves", "is_last"), [(60, False, True), (60, True, False), (10, False, False)])
def test_a_job_whose_time_is_over_goes_on_only_if_it_has_saved_something(task, capsys, lasted, saves, is_last):
    task()
    start = task.folder / "7_start.json"
    os.utime(start, (start.stat().st_atime - lasted, start.stat().st_mtime - lasted))
    if saves:
        task.state.write_text("progress")
    if is_last:
        with pytest.raises(SystemExit):
            task.checkpoint()
        assert "nothing was saved in 60 s: the job needs more time" in capsys.readouterr().out
    else:
        assert task.checkpoint().function is task


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cluster", "moon"], "'moon' is not one of 'local', 'slurm'"),
        (["--sbatch", "account"], "--sbatch must be NAME=VALUE, not account"),
        (["--minutes", "0"], "minutes must be at least 1, not 0"),
        (["--nodes", "2"], "a job of this machine is one task, which starts further processes itself"),
    ],
)
def test_mistakes_are_one_line(place, options, message):
    output = call(LAUNCH, *launch(*options), cwd=place, status=2)
    assert message in output
    assert len(output.splitlines()) == 1
    assert not (place / "starts").exists()


def test_slurm_is_needed_for_its_jobs(place, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin-of-nobody")
    output = call(LAUNCH, *launch("--cluster", "slurm"), cwd=place, status=2)
    assert output.splitlines()[-1].startswith("cm launch: error:")
