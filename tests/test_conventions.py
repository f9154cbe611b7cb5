"""Version, licence, Python and dependencies are the same in every file that states them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

import cm

ROOT = Path(__file__).parents[1]


def read(path: str) -> str:
    return (ROOT / path).read_text()


def test_the_version_is_stated_once():
    citation, deposit = yaml.safe_load(read("CITATION.cff")), json.loads(read(".zenodo.json"))
    assert citation["version"] == deposit["version"] == cm.__version__
    assert re.search(rf"^## {re.escape(cm.__version__)}\b", read("CHANGELOG.md"), re.MULTILINE)


def test_the_citation_says_what_is_cited():
    citation, deposit = yaml.safe_load(read("CITATION.cff")), json.loads(read(".zenodo.json"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["title"] == deposit["title"]
    assert citation["license"] == deposit["license"] == re.search(r'^license = "(.*)"', read("pyproject.toml"), re.M)[1]
    assert [author["name"] for author in citation["authors"]] == [one["name"] for one in deposit["creators"]]


def test_the_container_has_the_locked_environment():
    dockerfile = read("Dockerfile")
    base = re.search(r"^FROM python:(\d+\.\d+)\.\d+-\S+$", dockerfile, re.M)
    assert base, "the base image has no pinned version"
    assert base[1] == re.search(r'requires-python = ">=(.*)"', read("pyproject.toml"))[1]
    assert "pip install --no-cache-dir -r requirements.lock" in dockerfile
    ignored = read(".dockerignore").split()
    assert not {"cm", "config", "workflow", "requirements.lock"} & set(ignored)


def test_continuous_integration_runs_the_same_tests():
    (job,) = yaml.safe_load(read(".github/workflows/test.yml"))["jobs"].values()
    assert job["steps"][-1]["run"].endswith(" .ci/run")
    python = next(step["with"]["python-version"] for step in job["steps"] if "setup-python" in step.get("uses", ""))
    assert f'requires-python = ">={python}"' in read("pyproject.toml")


def test_hooks_are_the_linters_of_make_lint():
    (repository,) = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    commands = [hook["entry"].removeprefix(".venv/bin/") for hook in repository["hooks"]]
    for linter in ("ruff check", "ruff format", "mypy", "snakefmt"):
        assert any(command.startswith(linter) for command in commands)
        assert linter in read("Makefile")
