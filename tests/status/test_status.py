"""`cm status` on made-up results: every state of a run, what a terminal shows, and mistakes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cm import config
from cm.cli import main
from cm.config.layout import Layout
from cm.config.measurements import Measurement
from cm.status.logs import find_error
from cm.status.runs import SILENCE_SECONDS, STATES, RunStatus, inspect_suite
from cm.status.text import describe

ROOT = Path(__file__).parents[2]
MICRO = ROOT / "tests" / "micro" / "micro.yaml"
EDM, CT, CD = (f"digits/{method}/default/seed0" for method in ("edm", "ct", "cd"))
STEP = Measurement(1, 0.25, 2.0, 1e-3, None, None, 64.0, 1 << 20, 1.0)


@pytest.fixture(scope="module")
def suite():
    return config.load_suite(MICRO)


@pytest.fixture
def layout(tmp_path):
    return Layout(str(tmp_path / "results"))


def write(path: str, text: str | bytes = "") -> Path:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def finish(layout: Layout, run: str) -> None:
    for progress in (50, 100):
        write(layout.model(run, progress))
    write(layout.seconds(run), "{}")


def measure(layout: Layout, run: str, steps: int) -> Path:
    lines = [STEP.to_line().replace(b'"step": 1,', f'"step": {step},'.encode()) for step in range(1, steps + 1)]
    return write(layout.metrics(run), b"".join(lines))


def hold(layout: Layout, run: str, pid: int, host: str | None = None, **more: object) -> Path:
    return write(layout.lock(run), json.dumps({"host": host or socket.gethostname(), "pid": pid, **more}))


def state_of(suite: config.Suite, layout: Layout, run: str) -> RunStatus:
    return {status.run: status for status in inspect_suite(suite, Path(layout.results))}[run]


@pytest.fixture
def dead():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


# ---- states ---------------------------------------------------------------------------------------------------------


def test_without_any_results_every_run_waits(suite, layout):
    found = inspect_suite(suite, Path(layout.results))
    assert {status.state for status in found} == {"waiting"}
    names = [status.run for status in found]
    assert len(names) == len(set(names)) and "digits/classifier/default/seed0" in names
    assert state_of(suite, layout, EDM).note == ""
    assert EDM in state_of(suite, layout, CD).note.removeprefix("needs ").split(", ")


def test_a_run_is_finished_when_its_models_and_its_seconds_are_there(suite, layout):
    finish(layout, CT)
    total = suite.experiments.run(CT).training.total_steps
    assert state_of(suite, layout, CT) == RunStatus(CT, "finished", total, total)
    assert EDM not in state_of(suite, layout, CT).note
    Path(layout.seconds(CT)).unlink()
    assert state_of(suite, layout, CT).state == "waiting"


def test_a_run_whose_curve_is_needed_needs_all_its_models(suite, layout):
    run = next(cell.run.name for cell in suite.required_cells() if cell.progress == 50)
    finish(layout, run)
    Path(layout.model(run, 50)).unlink()
    assert state_of(suite, layout, run).state == "waiting"


def test_a_run_is_running_while_its_process_lives(suite, layout):
    training = suite.experiments.run(CT).training
    hold(layout, CT, os.getpid())
    assert state_of(suite, layout, CT).step == 0
    measure(layout, CT, 3)
    found = state_of(suite, layout, CT)
    left = (training.total_steps - 3) * training.batch / 64.0
    note = f"process {os.getpid()} on {socket.gethostname()}"
    assert found == RunStatus(CT, "running", 3, training.total_steps, 0.25, 64.0, left, note)


def test_a_line_that_is_being_written_is_not_read(suite, layout):
    hold(layout, CT, os.getpid())
    with open(measure(layout, CT, 3), "ab") as file:
        file.write(b'{"step": 4, "lo')
    assert state_of(suite, layout, CT).step == 3


def test_a_run_whose_process_died_is_stopped_where_it_was(suite, layout, dead):
    measure(layout, CT, 3)
    hold(layout, CT, dead)
    found = state_of(suite, layout, CT)
    assert (found.state, found.step, found.seconds_left) == ("stopped", 3, None)
    assert found.note == f"process {dead} on {socket.gethostname()} died without a message"


def test_a_run_that_a_signal_ended_is_stopped(suite, layout):
    write(layout.state(CT))
    write(layout.log("train", CT), "cm train: error: old\ncm train: SIGTERM after step 3: the state is saved\n")
    found = state_of(suite, layout, CT)
    assert (found.state, found.note) == ("stopped", "the same command continues")


@pytest.mark.parametrize(
    ("log", "error"),
    [
        ("step 1\ncm train: error: no file x\n", "no file x"),
        ('Traceback (most recent call last):\n  File "x"\ntorch.OutOfMemoryError: CUDA out of memory.\n\nbye', None),
        ("Traceback (most recent call last):\nValueError: \x1b[31mred\n", "ValueError: [31mred"),
        ("all is well\n", ""),
    ],
)
def test_a_run_failed_if_its_log_ends_with_an_error(suite, layout, log, error):
    write(layout.log("train", CT), log)
    found = state_of(suite, layout, CT)
    if error == "":
        assert found.state == "waiting"
    else:
        assert (found.state, found.note) == ("failed", error or "torch.OutOfMemoryError: CUDA out of memory.")


def test_only_the_end_of_a_long_log_is_read(tmp_path):
    log = tmp_path / "log"
    log.write_text("cm train: error: old\n" + "x\n" * 100_000)
    assert find_error(log) is None
    log.write_text("x\n" * 100_000 + "cm train: error: new\n")
    assert find_error(log) == "new"


@pytest.mark.parametrize(("age", "state"), [(10.0, "running"), (SILENCE_SECONDS + 3600, "silent")])
def test_a_run_on_another_host_is_silent_when_no_file_has_changed_for_long(suite, layout, age, state):
    paths = [measure(layout, CT, 3), hold(layout, CT, 12, "node7", slurm_job="345", restarts=0)]
    for path in paths:
        os.utime(path, (time.time() - age,) * 2)
    found = state_of(suite, layout, CT)
    assert found.state == state and found.step == 3
    assert found.note.startswith("process 12 on node7, Slurm job 345")
    assert ("1.5 h" in found.note) == (state == "silent")


def test_a_run_whose_job_is_queued_waits(suite, layout):
    measure(layout, CT, 3)
    write(f"{layout.jobs(CT)}/job.json", '{"id": "77", "key": ""}')
    found = state_of(suite, layout, CT)
    assert (found.state, found.step, found.note) == ("waiting", 3, "job 77 has not started to train")


def test_a_run_whose_command_has_just_begun_is_running(suite, layout):
    """Another process has the log open, as the shell that Snakemake starts, and there is no lock yet."""
    with open(write(layout.log("train", CT)), "w") as log, subprocess.Popen(["sleep", "60"], stdout=log) as process:
        found = state_of(suite, layout, CT)
        process.kill()
    assert (found.state, found.note) == ("running", "starting")
    assert state_of(suite, layout, CT).state == "waiting"


def test_published_weights_are_finished_once_they_are_converted(layout):
    suite = config.load_suite(ROOT / "config" / "suites" / "released.yaml")
    run = next(run.name for run in suite.required_runs() if run.released)
    assert state_of(suite, layout, run).state == "waiting"
    write(layout.model(run, 100))
    assert state_of(suite, layout, run).state == "finished"
    Path(layout.model(run, 100)).unlink()
    write(layout.log("release", run), "cm convert: error: no network\n")
    assert (state_of(suite, layout, run).state, state_of(suite, layout, run).note) == ("failed", "no network")


# ---- what is printed ------------------------------------------------------------------------------------------------


def test_what_runs_comes_first_and_no_more_than_there_is_room_for():
    found = [RunStatus(f"digits/cd/default/seed{seed}", state, 5, 10, 0.5) for seed, state in enumerate(STATES)]
    text = describe("demo", found)
    assert text.splitlines()[0] == "suite demo, 6 runs: " + ", ".join(f"1 {state}" for state in STATES)
    assert len(text.splitlines()) == 8 and "50 %" in text
    short = describe("demo", found, height=7).splitlines()
    assert len(short) == 6 and short[-1] == "  and 3 more"
    long = RunStatus("x", "running", 5, 10, 0.5, 1234.5, 2 * 86_400 + 61.0, "process 1 on a")
    assert describe("demo", [long]).splitlines()[-1].split() == (
        ["x", "running", "50", "%", "5/10", "0.5", "1,234", "2", "d", "00:01:01", "process", "1", "on", "a"]
    )


def test_the_command_prints_text_or_json(layout, capsys):
    hold(layout, CT, os.getpid())
    arguments = ["status", str(MICRO), "--results", layout.results]
    Path(layout.results).mkdir(exist_ok=True)
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("suite micro, ") and lines[2].split()[:2] == [CT, "running"]
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["suite"] == "micro" and found["runs"][0]["run"] == CT
    assert {one["state"] for one in found["runs"]} == {"running", "waiting"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dmeo"], "unknown suite 'dmeo'; known: demo, "),
        (["none.yaml"], "none.yaml"),
        (["--results", "nowhere"], "no folder nowhere"),
        (["--watch", "--json"], "give --watch or --json, not both"),
        (["--every", "0", "--watch"], "0.1"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(ROOT)
    assert main(["status", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("cm status: error: ") and message in error and error.count("\n") == 1


def test_a_damaged_file_of_measurements_is_one_line(layout, capsys):
    write(layout.metrics(CT), "what is this?\n")
    assert main(["status", str(MICRO), "--results", layout.results]) == 2
    assert f"{layout.metrics(CT)}, line 1 is not JSON" in capsys.readouterr().err


@pytest.fixture
def watching(layout):
    """`cm status --watch` in a process of its own, which says whether it imported torch."""
    Path(layout.results).mkdir(parents=True)
    code = "import sys\nfrom cm.cli import main\ncode = main(sys.argv[1:])\n"
    code += "print('slow', {'torch', 'pandas', 'matplotlib', 'sklearn'} & set(sys.modules))\nsys.exit(code)"
    command = [sys.executable, "-c", code, "status", str(MICRO), "--results", layout.results, "--watch"]
    with subprocess.Popen(
        [*command, "--every", "0.2"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        yield process
        with contextlib.suppress(ProcessLookupError):
            process.kill()


def test_watching_goes_on_until_ctrl_c_and_imports_no_torch(watching, layout):
    assert watching.stdout is not None
    assert "running" not in watching.stdout.readline()
    hold(layout, CT, os.getpid())
    while "running" not in watching.stdout.readline():
        assert watching.poll() is None
    watching.send_signal(signal.SIGINT)
    rest, _ = watching.communicate(timeout=60)
    assert watching.returncode == 0
    assert rest.splitlines()[-1] == "slow set()" and "Traceback" not in rest and "error" not in rest
