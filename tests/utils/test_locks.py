"""One process holds a lock; that of a dead process is taken over."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys

import pytest

from cm.errors import UserError
from cm.utils.locks import hold_lock

HOLD = "import sys, pathlib; from cm.utils.locks import hold_lock\nwith hold_lock(pathlib.Path(sys.argv[1]), 'it'):\n"
HOST = socket.gethostname()


@pytest.fixture
def lock(tmp_path, monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "folder" / "lock"


@pytest.fixture
def holder(lock):
    """Another process, which holds the lock."""
    code = HOLD + "    print('held', flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def left_by(lock, **holder) -> None:
    lock.parent.mkdir()
    lock.write_text(json.dumps(holder))


def without_record_locks(monkeypatch) -> None:
    """The file system has no locks but the existence of the file."""

    def lockf(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", lockf)


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def check_refused(lock, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught, hold_lock(lock, "it"):
        pass
    assert "\n" not in str(caught.value)


def test_a_lock_names_its_holder_and_goes_with_its_folder(lock, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    with hold_lock(lock, "it"):
        about = json.loads(lock.read_text())
        assert about == {"host": HOST, "pid": os.getpid(), "slurm_job": "12", "restarts": 0}
    assert not lock.parent.exists()


@pytest.mark.parametrize("record_locks", [True, False])
def test_a_living_holder_is_named(lock, holder, monkeypatch, record_locks):
    if not record_locks:
        without_record_locks(monkeypatch)
    check_refused(lock, f"it is in use by process {holder.pid} on {HOST}")
    assert lock.exists()


@pytest.mark.parametrize("record_locks", [True, False])
def test_the_lock_of_a_killed_process_is_taken_over(lock, holder, monkeypatch, record_locks):
    holder.kill()
    holder.wait()
    assert lock.exists()
    if not record_locks:
        without_record_locks(monkeypatch)
    with hold_lock(lock, "it"):
        assert json.loads(lock.read_text())["pid"] == os.getpid()
    assert not lock.exists()


def test_a_process_that_had_the_number_of_the_dead_holder_does_not_matter(lock):
    left_by(lock, host=HOST, pid=os.getppid())
    with hold_lock(lock, "it"):
        pass


def test_a_lock_of_another_host_is_left_to_the_user(lock):
    left_by(lock, host="elsewhere", pid=3)
    check_refused(
        lock, f"in use by process 3 on elsewhere: wait for it or end it; if it is dead already, remove {lock}"
    )


@pytest.mark.parametrize(("job", "restarts", "taken"), [("12", "1", True), ("12", "0", False), ("13", "1", False)])
def test_a_requeued_job_takes_the_lock_of_its_earlier_start(lock, monkeypatch, job, restarts, taken):
    left_by(lock, host="elsewhere", pid=3, slurm_job="12", restarts=0)
    monkeypatch.setenv("SLURM_JOB_ID", job)
    monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    if taken:
        with hold_lock(lock, "it"):
            assert json.loads(lock.read_text())["restarts"] == 1
    else:
        check_refused(lock, "process 3 on elsewhere, Slurm job 12")


DAMAGED = ["", "{", "[]", "[" * 4000, "9" * 4000, "\0" * 90, '{"host": 1}', '{"host": "a", "pid": null}']
DAMAGED += [f'{{"host": "{HOST}", "pid": {pid}}}' for pid in ("0", "-1", "1e400", "9" * 30, '"1"', "true", "[]")]
DAMAGED += ['{"host": "a", "pid": 3, "slurm_job": "12", "restarts": "x"}', '{"host": "a", "pid": 3, "slurm_job": []}']


@pytest.mark.parametrize("contents", DAMAGED, ids=lambda contents: ascii(contents[:40]))
@pytest.mark.parametrize("job", [None, "12"])
def test_a_lock_that_is_not_whole(lock, monkeypatch, contents, job):
    if job:
        monkeypatch.setenv("SLURM_JOB_ID", job)
    left_by(lock)
    lock.write_text(contents)
    with hold_lock(lock, "it"):
        pass
    without_record_locks(monkeypatch)
    left_by(lock)
    lock.write_text(contents)
    check_refused(lock, f"in use by another process.*remove {lock}")


def test_without_record_locks_the_process_decides(lock, monkeypatch):
    without_record_locks(monkeypatch)
    with hold_lock(lock, "it"):
        pass
    left_by(lock, host=HOST, pid=os.getppid())
    check_refused(lock, f"process {os.getppid()} on {HOST}.*remove {lock}")
    lock.write_text(json.dumps({"host": HOST, "pid": dead_process()}))
    with hold_lock(lock, "it"):
        pass


def test_a_lock_that_its_holder_removes_meanwhile_is_not_held_by_two(lock, monkeypatch):
    """Between opening and locking, the holder removes the file: the new file, not the old one, is locked."""
    left_by(lock, host=HOST, pid=dead_process())
    lockf, removed = fcntl.lockf, []

    def remove_first(file, operation):
        if not removed:
            removed.append(lock.unlink())
        lockf(file, operation)

    monkeypatch.setattr(fcntl, "lockf", remove_first)
    with hold_lock(lock, "it"):
        assert json.loads(lock.read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("exists", [True, False])
def test_a_planted_link_is_not_followed(lock, tmp_path, exists):
    target = tmp_path / "target"
    if exists:
        target.write_text("kept")
    lock.parent.mkdir()
    lock.symlink_to(target)
    with pytest.raises(OSError, match="symbolic link"), hold_lock(lock, "it"):
        pass
    assert target.exists() is exists and (not exists or target.read_text() == "kept")
