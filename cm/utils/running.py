"""What of Snakemake is still running in a folder: Snakemake itself, the jobs that it started here, and those of Slurm.

Snakemake has its own log open, and each job of the workflow the log of its rule, so a process that writes one of these
files is alive, whoever started it and whatever its parent. This is known of processes of this machine and user. Jobs of
Slurm are known by the folder that they were submitted from.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from cm.errors import UserError

PROCESSES = Path("/proc")
SNAKEMAKE_LOGS, SLURM_LOGS = ".snakemake/log", ".snakemake/slurm_logs"


def find_running(folder: Path, logs: str, ignored: str) -> list[str]:
    """Each process that writes a log of Snakemake or of its jobs, and each job of Slurm, in a few words.

    `folder`: where Snakemake was started. `logs`: the folder in it with the logs of the jobs. `ignored`: how the names
    of jobs of Slurm begin that do not count. Raises UserError where this cannot be known: on a system without /proc,
    and if Slurm does not answer, but was used here.
    """
    if not PROCESSES.is_dir():
        raise UserError(
            f"not unlocked, since there is no {PROCESSES}, which says what is running: make sure that no job is, "
            "and use `snakemake --unlock`"
        )
    watched = [(folder / part).resolve() for part in (SNAKEMAKE_LOGS, logs)]
    processes = [_name(process) for process in _own_processes() if _writes_below(process, watched)]
    return processes + _slurm_jobs(folder, ignored)


def find_written(folder: Path) -> set[Path]:
    """The files below a folder that a process of this machine and user writes; none on a system without /proc."""
    found: set[Path] = set()
    for process in _own_processes() if PROCESSES.is_dir() else ():
        found.update(_written_files(process, [folder.resolve()]))
    return found


def _own_processes() -> Iterator[Path]:
    """The folders in /proc of other processes."""
    for path in PROCESSES.iterdir():
        if path.name.isdigit() and int(path.name) != os.getpid():
            yield path


def _writes_below(process: Path, folders: Sequence[Path]) -> bool:
    """Whether a process has a file below the folders open for writing; not, if it has ended or is somebody else's."""
    return next(_written_files(process, folders), None) is not None


def _written_files(process: Path, folders: Sequence[Path]) -> Iterator[Path]:
    """The files below the folders that a process has open for writing; none, if it has ended or is somebody else's."""
    with contextlib.suppress(OSError):
        for link in (process / "fd").iterdir():
            path = Path(os.readlink(link))
            if any(path.is_relative_to(folder) for folder in folders):
                flags = re.search(r"^flags:\s*(\d+)$", (process / "fdinfo" / link.name).read_text(), re.MULTILINE)
                if flags and int(flags[1], 8) & os.O_ACCMODE != os.O_RDONLY:
                    yield path


def _name(process: Path) -> str:
    """`process 123 (cm train --run ...)`."""
    words = b""
    with contextlib.suppress(OSError):
        words = (process / "cmdline").read_bytes()
    command = words.decode(errors="replace").replace("\0", " ").strip()
    return f"process {process.name} ({command[:200]})"


def _slurm_jobs(folder: Path, ignored: str) -> list[str]:
    """The jobs of this user that were submitted from the folder, but for the one that this process belongs to."""
    if shutil.which("squeue") is None:
        return []
    command = ["squeue", "--me", "--noheader", "--format", "%A %T %j %Z"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        if not (folder / SLURM_LOGS).exists():
            return []
        raise UserError(
            f"not unlocked, since Slurm does not say which jobs are running: {' '.join(done.stderr.split())}"
        )
    jobs = (line.split(maxsplit=3) for line in done.stdout.splitlines())
    own = os.environ.get("SLURM_JOB_ID")
    return [
        f"Slurm job {number} ({state.lower()})"
        for number, state, name, place in jobs
        if Path(place).resolve() == folder.resolve() and number != own and not name.startswith(ignored)
    ]
