"""What a result depends on besides its inputs: the commit of this code and the versions of its libraries."""

from __future__ import annotations

import functools
import importlib.metadata
import subprocess
from pathlib import Path

from cm import __version__


@functools.cache
def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    packages = ("torch", "numpy", "scipy")
    return {"cm": __version__, **{name: importlib.metadata.version(name) for name in packages}}


@functools.cache
def commit() -> str:
    """The commit of this code, with `+` behind it if the tree was changed; `unknown` outside a git checkout."""
    run = functools.partial(subprocess.run, cwd=Path(__file__).parent, capture_output=True, text=True)
    try:
        head = run(["git", "rev-parse", "--short=12", "HEAD"])
        changed = run(["git", "status", "--porcelain", "--untracked-files=no"])
    except OSError:
        return "unknown"
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "") if head.returncode == 0 else "unknown"
