"""What a result depends on besides its inputs: the commit of this code, the versions of its libraries, the hardware."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections import Counter
from pathlib import Path

from cm import __version__

PACKAGES = ("torch", "numpy", "scipy")
PROCESSORS = Path("/proc/cpuinfo")


@functools.cache
def versions() -> dict[str, str]:
    """Versions of this suite and of the libraries that compute its numbers, by name."""
    return {"cm": __version__, **{name: importlib.metadata.version(name) for name in PACKAGES}}


@functools.cache
def commit() -> str:
    """The commit of this code, 12 hexadecimal digits, followed by `+` if tracked files were changed.

    `unknown` outside a git checkout.
    """
    try:
        head = _run_git("rev-parse", "--short=12", "HEAD")
        changes = _run_git("status", "--porcelain", "--untracked-files=no")
    except OSError:
        return "unknown"
    if head.returncode != 0:
        return "unknown"
    return head.stdout.strip() + ("+" if changes.stdout.strip() else "")


def hardware() -> str:
    """The GPUs that this process has used so far, and its processor: `1 x NVIDIA H100, AMD EPYC 9654 (2 cores)`."""
    gpus = [f"{count} x {name}" for name, count in Counter(_find_gpus()).items()]
    return ", ".join([*gpus, f"{_name_processor()} ({len(os.sched_getaffinity(0))} cores)"])


def _find_gpus() -> list[str]:
    """The names of the GPUs that torch can see, if it has computed on one; torch is not imported for it."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def _name_processor() -> str:
    lines = PROCESSORS.read_text().splitlines() if PROCESSORS.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _run_git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True)
