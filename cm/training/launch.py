"""Several processes of one training on this machine: `cm train --processes N`."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Sequence
from types import FrameType

START = "CM_START"  # the variable that names this start, which cm.training.processes reads
GRACE_SECONDS = 20.0  # for the others to leave by themselves once one process has died


def launch(count: int, command: Sequence[str]) -> int:
    """Run a command in `count` processes that find each other by their environment, and return their exit status.

    It is 0 if all succeed, else that of the first that failed; the others are then stopped within GRACE_SECONDS.
    SIGTERM, SIGINT and SIGUSR1 are passed on.
    """
    shared = os.environ | {"WORLD_SIZE": str(count), START: uuid.uuid4().hex}
    processes = [
        subprocess.Popen(command, env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(count)
    ]

    def pass_on(number: int, frame: FrameType | None) -> None:
        for process in processes:
            process.send_signal(number)

    previous = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    try:
        return _wait(processes)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        for process in processes:
            process.kill()
            process.wait()


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    """The exit status of all, once all have ended or one has failed and the others have had their time to leave."""
    failed, deadline = 0, float("inf")
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        statuses = [process.poll() for process in processes]
        if not failed and any(statuses):
            failed = _shell_status(next(status for status in statuses if status))
            deadline = time.monotonic() + GRACE_SECONDS
        time.sleep(0.1)
    return failed or max(_shell_status(process.poll() or 0) for process in processes)


def _shell_status(status: int) -> int:
    """An exit status as a shell reports it: 128 and the number of the signal that ended the process."""
    return 128 - status if status < 0 else status
