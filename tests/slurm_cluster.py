"""A real Slurm on this machine, for tests: no systemd, no accounting, everything in one temporary folder.

It needs Debian's packages `slurm-wlm` and `munge`. The CPUs and the memory of the node are simulated, so that jobs of
the workflow fit on a small machine; so are its GPUs, which are device files that nothing opens and that root must make,
and so are further nodes. Jobs of the partition `urgent` preempt those of `main`, the default.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

DAEMONS = ("munged", "slurmctld", "slurmd")
CLIENTS = ("sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo", "sshare", "sacctmgr")
SYSTEM_PATH = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/%n.pid
SlurmdSpoolDir={folder}/%n
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
EnforcePartLimits=ALL
KillWait=5
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=5,sched_min_interval=0,batch_sched_delay=0,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 State=UP
PartitionName=urgent Nodes=ALL MaxTime=INFINITE PriorityTier=2 State=UP
"""
NODE = (
    "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} "
    "CPUs={cpus} RealMemory={memory} Gres=gpu:{gpus} State=UNKNOWN"
)


def missing() -> str:
    """Why no Slurm can be started here; empty if one can."""
    programs = [name for name in (*DAEMONS, "sbatch") if not shutil.which(name, path=SYSTEM_PATH)]
    if programs:
        return f"{', '.join(programs)} not installed: apt-get install slurm-wlm munge"
    return "" if os.geteuid() == 0 else "simulated GPUs of Slurm are device files, which only root may make"


@contextlib.contextmanager
def run_slurm(folder: Path, *, nodes: int = 1, cpus: int = 16, gpus: int = 2) -> Iterator[Path]:
    """A context with a running Slurm; its value is a folder of Slurm's commands, which must come first on the path.

    All files are below `folder`; `cpus` and `gpus` are those of each node. At the end, jobs are cancelled and the
    daemons are stopped.
    """
    names = [f"node{number}" for number in range(1, nodes + 1)]
    clients = _configure(folder, names, cpus, gpus)
    try:
        _start(folder, names)
        _wait_until(lambda: _call(*_states(clients)).count("idle") == nodes, "nodes of Slurm", folder)
        yield clients
    finally:
        if (folder / "slurmctld.pid").exists():
            _call(clients / "scancel", f"--user={_user()}")
            _wait_until(lambda: not _call(clients / "squeue", "--noheader"), "cancelled jobs", folder)
        for name in (*names, "slurmctld", "munged"):
            _stop(folder / f"{name}.pid")


def fail_node(clients: Path, name: str) -> None:
    """Let a node fail as if it lost its power: all that runs there is killed, and the controller finds it down."""
    folder = clients.parent
    doomed = {psutil.Process(int((folder / f"{name}.pid").read_text()))}
    for process in psutil.process_iter(["environ"]):
        environment = process.info["environ"] or {}
        if environment.get("SLURMD_NODENAME") == name and environment.get("SLURM_CONF") == str(folder / "slurm.conf"):
            doomed |= {process, *(parent for parent in process.parents() if parent.name().startswith("slurmstepd"))}
    for stop in (psutil.Process.suspend, psutil.Process.kill):  # none runs on to report that another one was killed
        for process in doomed:
            with contextlib.suppress(psutil.NoSuchProcess):
                stop(process)
    _call(clients / "scontrol", "update", f"nodename={name}", "state=down", "reason=test")


def start_nodes(clients: Path) -> None:
    """Start the daemons of the nodes that have failed, and wait until Slurm uses the nodes again."""
    folder = clients.parent
    failed = [line.split()[0] for line in _call(*_states(clients)).splitlines() if line.split()[1].startswith("down")]
    for name in failed:
        (folder / f"{name}.pid").unlink()
        _start_daemon(folder, name, "slurmd", ["-f", str(folder / "slurm.conf"), "-N", name])
        _call(clients / "scontrol", "update", f"nodename={name}", "state=resume")
    _wait_until(lambda: "down" not in _call(*_states(clients)), "nodes of Slurm", folder)


def _states(clients: Path) -> tuple[Path | str, ...]:
    """The command that prints the name and the state of each node."""
    return (clients / "sinfo", "--noheader", "--partition=main", "--Node", "--format=%N %T")


def _user() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name


def _configure(folder: Path, names: Sequence[str], cpus: int, gpus: int) -> Path:
    """Write the configuration, the key of munge, the device files and the commands; returns the folder of those."""
    (folder / "state").mkdir(parents=True)
    folder.chmod(0o755)  # munge refuses a socket that others cannot reach
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o600)
    for index in range(gpus):
        os.mknod(folder / f"gpu{index}", 0o666 | stat.S_IFCHR, os.makedev(1, 3))  # the numbers of /dev/null
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-{gpus - 1}]\n")
    controller, *ports = _free_ports(1 + len(names))
    host = socket.gethostname().split(".")[0]
    hardware = {"host": host, "cpus": cpus, "memory": 1_000_000, "gpus": gpus}
    nodes = [NODE.format(name=name, port=port, **hardware) for name, port in zip(names, ports, strict=True)]
    values = {"host": host, "user": _user(), "folder": folder, "controller_port": controller, "nodes": "\n".join(nodes)}
    (folder / "slurm.conf").write_text(CONFIGURATION.format(**values))
    return _wrap_clients(folder)


def _wrap_clients(folder: Path) -> Path:
    """Commands that know the configuration; an exported SLURM_CONF would not reach the inside of a Snakemake job."""
    clients = folder / "bin"
    clients.mkdir()
    for name in CLIENTS:
        real = shutil.which(name, path=SYSTEM_PATH)
        if real:
            (clients / name).write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {real} "$@"\n')
            (clients / name).chmod(0o755)
    return clients


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _start(folder: Path, names: Sequence[str]) -> None:
    options = {"key-file": "munge.key", "socket": "munge.sock", "pid-file": "munged.pid"}
    options |= {"log-file": "munged.log", "seed-file": "munged.seed"}
    configuration = ["-f", str(folder / "slurm.conf")]
    munged = ["--force", *(f"--{option}={folder / name}" for option, name in options.items())]
    commands = {"munged": ("munged", munged), "slurmctld": ("slurmctld", configuration)}
    commands |= {name: ("slurmd", [*configuration, "-N", name]) for name in names}
    for name, (daemon, arguments) in commands.items():
        _start_daemon(folder, name, daemon, arguments)


def _start_daemon(folder: Path, name: str, daemon: str, arguments: Sequence[str]) -> None:
    program = shutil.which(daemon, path=SYSTEM_PATH)
    with open(folder / f"{name}.out", "ab") as out:
        subprocess.run([program, *arguments], stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=True)
    _wait_until((folder / f"{name}.pid").exists, daemon, folder)


def _stop(pid_file: Path) -> None:
    """End a daemon that this module started, by the number in its own file, and wait until it has ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
        process = int(pid_file.read_text())
        os.kill(process, signal.SIGTERM)
        for _ in range(100):
            os.kill(process, 0)
            time.sleep(0.1)
        os.kill(process, signal.SIGKILL)


def _call(program: Path, *arguments: str) -> str:
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=20)
    return done.stdout.strip()


def _wait_until(condition: Callable[[], object], what: str, folder: Path, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            logs = [
                f"{path.name}:\n{path.read_text()[-1500:]}" for path in (*folder.glob("*.log"), *folder.glob("*.out"))
            ]
            raise RuntimeError(f"no {what} after {seconds:g} s\n" + "\n".join(logs))
        time.sleep(0.1)
