"""What tests of jobs share: commands in a folder with the micro suite, and options of the workflow."""

from __future__ import annotations

import importlib.util
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import slurm_cluster

ROOT = Path(__file__).parents[1]
MICRO = ROOT / "tests" / "micro"
TOOLS = Path(sys.executable).parent

needs_plugin = pytest.mark.skipif(
    importlib.util.find_spec("snakemake_executor_plugin_slurm") is None,
    reason="snakemake-executor-plugin-slurm not installed: pip install -e .[dev]",
)
needs_slurm = pytest.mark.skipif(bool(slurm_cluster.missing()), reason=slurm_cluster.missing() or "Slurm is here")


def start(command: str, *options: str, cwd: Path = ROOT, programs: Path | None = None) -> subprocess.Popen[str]:
    """A command, started with this environment's programs, and those of a folder, first on the path."""
    path = os.pathsep.join(map(str, filter(None, [programs, TOOLS, os.environ["PATH"]])))
    variables = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*shlex.split(command), *options],
        cwd=cwd,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def call(command: str, *options: str, cwd: Path = ROOT, programs: Path | None = None, status: int = 0) -> str:
    """The output of a command, which must end with this status."""
    process = start(command, *options, cwd=cwd, programs=programs)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == status, output[-9000:]
    return output


def options_of(place: Path, suite: str) -> list[str]:
    """Options that run the workflow on a suite of a folder, with the profile that Snakemake reads always."""
    workflow = ["--snakefile", str(ROOT / "Snakefile"), "--directory", str(place)]
    return [*workflow, "--workflow-profile", str(ROOT / "profiles/default"), "--config", f"suite={suite}"]


def wait_until(condition: Callable[[], object], what: str, seconds: float = 90) -> None:
    """Wait until the condition holds; fails after that many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"no {what} after {seconds:g} s"
        time.sleep(0.1)
