"""Source archives of the Python registry, fetched by pip without running anything that is in them.

`pip download` builds the metadata of a source archive, and so runs its `setup.py`, even if only the archive is wanted.
By the standard (PEP 517) the build backend returns the metadata. Here the backend is one of our own, which has the name
of the backend that pip uses for an archive without a `pyproject.toml`, and which does not look into the archive.
"""

from __future__ import annotations

import os
import subprocess
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


def fetch_sdist(package: str, *, sha256: str, name: str) -> Path:
    """The source archive `name` of a package `name==1.2.3` that has no `pyproject.toml`, fetched into the cache.

    Raises UserError if pip fails, and if the archive has another digest than `sha256`.
    """
    path = fetch.cache_folder() / name
    return fetch.fetch_archive(name, lambda folder: _download(package, folder, path), sha256=sha256)


def _download(package: str, folder: Path, path: Path) -> None:
    """Run pip, isolated; the build of the metadata, which it starts, sees PYTHONPATH.

    PIP_USE_PEP517 is for older releases of pip, which otherwise call setuptools directly.
    """
    command = [*fetch.PIP, "--quiet", "--no-deps", "--no-binary", ":all:", "--no-build-isolation"]
    command += ["--disable-pip-version-check", "--dest", str(folder), package]
    with tempfile.TemporaryDirectory() as home:
        environment = {"PYTHONPATH": str(_write_backend(package, Path(home))), "PIP_USE_PEP517": "1"}
        done = subprocess.run(command, capture_output=True, text=True, cwd=home, env=os.environ | environment)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit status {done.returncode}"]
        raise UserError(f"{package} cannot be fetched ({lines[-1].strip()}): put its archive at {path}")


def _write_backend(package: str, folder: Path) -> Path:
    """Write a `setuptools` that runs nothing into a folder, and return the folder."""
    name, _, version = package.partition("==")
    home = folder / "setuptools"
    home.mkdir(parents=True)
    (home / "__init__.py").touch()
    (home / "build_meta.py").write_text(BACKEND.format(name=name.replace("-", "_"), version=version))
    return folder
