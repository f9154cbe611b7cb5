"""A source archive of the Python registry, fetched by pip without running what is in it.

`pip download` builds the metadata of a source archive, and so runs its `setup.py`, even if only the archive is wanted.
The standard (PEP 517) lets the build backend say what the metadata is: here that is a backend of our own, under the
name of the one that pip takes for an archive without a `pyproject.toml`, and it looks at nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from cm.errors import UserError
from cm.utils import fetch

BACKEND = """
import pathlib, sys

def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    folder = pathlib.Path(metadata_directory, "{name}-{version}.dist-info")
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
    return folder.name

__legacy__ = sys.modules[__name__]
"""


def packed(package: str, *, sha256: str, name: str) -> Path:
    """The source archive `name` of `package`, such as `name==1.2.3`, which has no `pyproject.toml`; in the cache.

    UserError if pip fails or the archive is another.
    """
    path = fetch.cache_folder() / name
    return fetch.fetch_archive(name, lambda folder: _download(package, folder, path), sha256=sha256)


def _download(package: str, folder: Path, path: Path) -> None:
    """Run pip; PIP_USE_PEP517 is for its older releases, which ask setuptools by another way."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    command += ["--no-build-isolation", "--disable-pip-version-check", "--dest", str(folder), package]
    with tempfile.TemporaryDirectory() as place:
        environment = {"PYTHONPATH": str(_backend(package, Path(place))), "PIP_USE_PEP517": "1"}
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=os.environ | environment)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit status {done.returncode}"]
        raise UserError(f"{package} cannot be fetched ({lines[-1].strip()}): put its archive at {path}")


def _backend(package: str, folder: Path) -> Path:
    """The folder with a `setuptools` that runs nothing."""
    name, _, version = package.partition("==")
    home = folder / "setuptools"
    home.mkdir(parents=True)
    (home / "__init__.py").touch()
    (home / "build_meta.py").write_text(BACKEND.format(name=name.replace("-", "_"), version=version))
    return folder
