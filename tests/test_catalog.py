"""The rules of the Snakemake workflow catalog for a workflow of standardized usage, as it documents them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml
from jobs_support import MICRO, call, options_of

import cm
from cm.config import WorkflowFile
from cm.config.schema import schema_file

ROOT = Path(__file__).parents[1]
USAGE = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]


def test_the_files_that_the_catalog_looks_for_exist():
    for path in ("workflow/Snakefile", "config/README.md", "config/config.yaml", "README.md"):
        assert (ROOT / path).is_file()
    assert not [path for path in (ROOT / "workflow/rules").iterdir() if path.suffix != ".smk"]
    readme = (ROOT / "README.md").read_text().lower()
    assert "snakemake" in readme and "workflow" in readme


def test_usage_has_the_documented_keys():
    assert set(USAGE) == {"mandatory-flags", "software-stack-deployment"}
    flags, deployment = USAGE["mandatory-flags"], USAGE["software-stack-deployment"]
    assert isinstance(flags["desc"], str) and isinstance(flags["flags"], list)
    assert set(deployment) == {"conda", "apptainer", "apptainer+conda", "report"}
    assert all(isinstance(value, bool) for value in deployment.values())


def test_what_usage_promises_is_in_the_workflow():
    text = "\n".join(path.read_text() for path in (ROOT / "workflow").rglob("*") if path.is_file())
    promised = USAGE["software-stack-deployment"]
    assert promised["conda"] == ('"../../environment.yml"' in text)
    assert promised["apptainer"] == bool(re.search(r"^container: ", text, re.MULTILINE))
    assert promised["report"] == ("report(" in text)


def test_the_schema_makes_the_table_of_parameters():
    """The catalog takes name, type, description and default of each property of the schema."""
    properties = yaml.safe_load((ROOT / "workflow/schemas" / schema_file("workflow")).read_text())["properties"]
    assert properties.keys() == WorkflowFile.__dataclass_fields__.keys()
    readme = (ROOT / "config/README.md").read_text()
    for name, one in properties.items():
        assert one["type"] and one["description"] and one["default"]
        assert f"| `{name}` | `{one['default']}` |" in readme


def test_the_container_is_pinned_once_and_is_that_of_the_dockerfile():
    scheme, name, tag = WorkflowFile().container.split(":")
    assert (scheme, tag) == ("docker-daemon", cm.__version__)
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert set(re.findall(rf"{name}:(\S+)", dockerfile)) == {tag}
    assert set(re.findall(r"docker build -t (\S+)", dockerfile)) == {f"{name}:{tag}"}
    python = re.search(r"^FROM python:([\d.]+)-", dockerfile, re.MULTILINE)[1]
    assert python.startswith(re.search(r"python=([\d.]+)", (ROOT / "environment.yml").read_text())[1] + ".")


APPTAINER = """#!/bin/sh
echo "$@" >> {calls}
case "$*" in
--version) echo "apptainer version 1.3.4" ;;
*pull*) touch "$3" ;;
*) while [ "$1" != sh ] && [ "$1" != bash ]; do shift; done; exec "$@" ;;
esac
"""


@pytest.mark.parametrize("chosen", [None, "image.sif"])
def test_jobs_run_in_the_container(tmp_path, chosen):
    """A stand-in for Apptainer notes the image and runs the command without one."""
    programs, calls = tmp_path / "programs", tmp_path / "calls"
    programs.mkdir()
    (programs / "apptainer").write_text(APPTAINER.format(calls=calls))
    (programs / "apptainer").chmod(0o755)
    (tmp_path / "image.sif").touch()
    shutil.copytree(MICRO, tmp_path, dirs_exist_ok=True)
    target, words = "results/data/digits/manifest.json", [f"container={chosen}"] if chosen else []
    command = f"snakemake {target} --sdm apptainer"
    call(command, *options_of(tmp_path, "micro.yaml"), *words, cwd=tmp_path, programs=programs)
    pulled = [line.split()[-1] for line in calls.read_text().splitlines() if line.startswith("pull")]
    run = [line for line in calls.read_text().splitlines() if "cm prepare" in line]
    assert (tmp_path / target).exists()
    assert pulled == ([] if chosen else [WorkflowFile().container])
    assert len(run) == 1 and (chosen or ".simg") in run[0]
