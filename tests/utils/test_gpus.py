"""GPUs are taken by one process at a time; the GPUs of these tests are simulated: only their number exists."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from cm.errors import UserError
from cm.utils import gpus

ROOT = Path(__file__).parents[2]
# Takes GPUs, says which, and keeps them until its input ends. Arguments: how many to take, how many there are.
HOLDER = """
import os, sys
from cm.utils import gpus
gpus.count_gpus = lambda: int(sys.argv[2])
gpus.POLL_SECONDS = 0.02
gpus.take_gpus(int(sys.argv[1]))
print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder of locks of this test's own."""
    monkeypatch.setenv("CM_GPU_LOCKS", str(tmp_path))
    monkeypatch.setattr(gpus, "_locks", [])
    for name in (gpus.VISIBLE, gpus.HELD, "SLURM_JOB_ID"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return tmp_path


@pytest.fixture
def hold():
    """Starts a process that takes GPUs and keeps them until it is killed."""
    processes = []

    def start(count: int, total: int, **environment: str) -> subprocess.Popen:
        command = [sys.executable, "-c", HOLDER, str(count), str(total)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        processes.append(subprocess.Popen(command, env=environment, text=True, **pipes))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


def taken(process: subprocess.Popen) -> set[str]:
    """The GPUs that a process has taken; waits for it."""
    return set(process.stdout.readline().strip().split(","))


def waits(process: subprocess.Popen) -> bool:
    """Whether a process says that it waits for GPUs; waits for that."""
    return "waiting for" in process.stderr.readline()


def simulate(monkeypatch, count: int) -> None:
    monkeypatch.setattr(gpus, "count_gpus", lambda: count)


def test_three_jobs_share_three_gpus_and_a_fourth_waits_for_one_that_is_killed(hold):
    holders = [hold(1, 3) for _ in range(3)]
    used = [taken(holder) for holder in holders]
    assert set.union(*used) == {"0", "1", "2"}
    fourth = hold(1, 3)
    assert waits(fourth)
    holders[1].send_signal(signal.SIGKILL)
    assert taken(fourth) == used[1]


def test_a_job_of_two_gpus_gets_two_and_only_together(hold):
    single = hold(1, 2)
    assert taken(single) == {"0"}
    double = hold(2, 2)
    assert waits(double)
    later = hold(1, 2)
    time.sleep(0.3)
    single.kill()
    assert taken(double) == {"0", "1"}, "a job of one GPU that came later must not starve a job of two"
    double.kill()
    assert taken(later) <= {"0", "1"}


def test_jobs_of_several_gpus_do_not_deadlock(hold):
    holders = [hold(2, 3) for _ in range(3)]
    for holder in holders:
        holder.stdin.close()
    assert [holder.wait(timeout=30) for holder in holders] == [0, 0, 0]
    assert [len(taken(holder)) for holder in holders] == [2, 2, 2]


def test_jobs_that_are_limited_to_other_gpus_do_not_wait_for_each_other(hold):
    assert taken(hold(1, 2, CUDA_VISIBLE_DEVICES="1")) == {"1"}
    assert waits(hold(1, 2, CUDA_VISIBLE_DEVICES="1"))
    assert taken(hold(1, 2, CUDA_VISIBLE_DEVICES="0")) == {"0"}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (None, ["0", "1", "2"]),
        ("2,0", ["2", "0"]),
        ("", []),
        ("-1", []),
        ("0,-1,1", ["0"]),
        ("1,7", ["1"]),
        ("GPU-8932f937, GPU-2", ["GPU-8932f937", "GPU-2"]),
        ("MIG-1", ["MIG-1"]),
    ],
)
def test_cuda_visible_devices_limits_the_choice(monkeypatch, names, expected):
    simulate(monkeypatch, 3)
    if names is not None:
        monkeypatch.setenv(gpus.VISIBLE, names)
    assert gpus.visible_gpus() == expected


def test_gpus_that_are_taken_stay_taken_by_the_process_and_its_children(monkeypatch, folder):
    simulate(monkeypatch, 4)
    assert gpus.take_gpus(2) == ["0", "1"]
    assert os.environ[gpus.VISIBLE] == "0,1"
    monkeypatch.setattr(gpus, "_lock_some", None)
    assert gpus.take_gpus(2) == ["0", "1"]


def test_more_gpus_than_are_visible_are_refused_at_once(monkeypatch):
    simulate(monkeypatch, 2)
    monkeypatch.setenv(gpus.VISIBLE, "1")
    with pytest.raises(UserError, match="2 GPUs are needed, and 1 visible: 1"):
        gpus.take_gpus(2)


@pytest.mark.parametrize("names", ["0", "GPU-8932f937"])
def test_a_machine_without_gpus_has_none_to_take(monkeypatch, folder, names):
    simulate(monkeypatch, 0)
    monkeypatch.setenv(gpus.VISIBLE, names)
    assert gpus.take_gpus(1) == []
    assert not list(folder.iterdir())


def test_slurm_has_assigned_the_gpus(monkeypatch, folder):
    simulate(monkeypatch, 4)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv(gpus.VISIBLE, "2,3")
    assert gpus.take_gpus(2) == ["2", "3"]
    assert not list(folder.iterdir())


def test_the_locks_are_in_a_temporary_folder_by_default(monkeypatch):
    monkeypatch.delenv("CM_GPU_LOCKS")
    assert gpus.lock_folder() == Path(tempfile.gettempdir()) / f"cm-gpus-{os.getuid()}"


def test_counting_needs_no_driver(monkeypatch):
    def unavailable(name):
        raise OSError(name)

    monkeypatch.setattr(gpus.ctypes, "CDLL", unavailable)
    assert gpus.count_gpus() == 0


def test_a_planted_link_is_not_followed(folder, monkeypatch, tmp_path):
    monkeypatch.setattr(gpus, "count_gpus", lambda: 1)
    monkeypatch.setenv("CM_GPU_LOCKS", str(folder / "locks"))
    (folder / "locks").mkdir()
    (folder / "target").write_text("kept")
    (folder / "locks" / "gpu-0").symlink_to(folder / "target")
    with pytest.raises(OSError, match="symbolic link"):
        gpus.take_gpus(1)
    assert (folder / "target").read_text() == "kept"


@pytest.mark.parametrize("how", ["link", "owner"])
def test_the_default_folder_of_locks_must_be_ones_own(how, folder, monkeypatch):
    monkeypatch.delenv("CM_GPU_LOCKS")
    monkeypatch.setattr(gpus, "count_gpus", lambda: 1)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(folder))
    (folder / "other").mkdir()
    if how == "link":
        gpus.lock_folder().symlink_to(folder / "other")
    else:
        monkeypatch.setattr(os, "getuid", lambda: 12345)
        gpus.lock_folder().mkdir()
    with pytest.raises(UserError, match="belongs to another user: set CM_GPU_LOCKS"):
        gpus.take_gpus(1)
