"""What a result depends on besides its inputs: the commit of this code and the versions of its libraries."""

from __future__ import annotations

import functools
import importlib.metadata
import subprocess
from pathlib import Path

from cm import __version__

PACKAGES = ("torch", "numpy", "scipy")


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


def _run_git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True)
