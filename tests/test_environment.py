"""pyproject.toml, requirements.lock, environment.yml and what is installed agree with each other."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = (ROOT / "requirements.lock").read_text()
ENVIRONMENT = (ROOT / "environment.yml").read_text()

SUPPORTED_TORCH = SpecifierSet(">=2.11,<2.16")
OPEN_TO_OTHER_VERSIONS = {"torch", "torchvision"}
FOREIGN_PLACES = {
    "URL": r"\w+://",
    "index or find-links option": r"(?:--(?:extra-)?index-url|--find-links|--trusted-host|(?<!\S)-[if](?!\S))",
    "direct reference": r"(?<=\s)@(?=\s)",
    "editable or nested file": r"^\s*(?:-\s+)?(?:-[ercfi]\s|--(?:editable|requirement|constraint))",
    "absolute path": r"(?:(?<=[\s'\"=])|^)(?:/|~/|[A-Za-z]:\\)\S*",
    "host name": r"\b(?:[\w-]+\.)+(?:org|com|net|io|dev|local|internal)\b",
}


def _requirements(lines):
    parsed = [Requirement(line) for line in lines]
    return {canonicalize_name(requirement.name): requirement for requirement in parsed}


def _pin(requirement):
    (specifier,) = requirement.specifier
    assert specifier.operator == "==" and "*" not in specifier.version, f"{requirement} is no exact pin"
    return Version(specifier.version)


def _lock_lines():
    lines = re.sub(r"\\\n", " ", LOCK).splitlines()
    bare = (re.sub(r"(^|\s)#.*|\s--hash=\S+", "", line).strip() for line in lines)
    return [line for line in bare if line]


def _conda_pip_lines():
    (pip,) = (entry["pip"] for entry in yaml.safe_load(ENVIRONMENT)["dependencies"] if isinstance(entry, dict))
    return pip


DECLARED = _requirements(
    PYPROJECT["project"]["dependencies"] + PYPROJECT["project"]["optional-dependencies"]["dev"],
)
BUILD = _requirements(PYPROJECT["build-system"]["requires"])
LOCKED = {name: _pin(requirement) for name, requirement in _requirements(_lock_lines()).items()}
CONDA = {name: _pin(requirement) for name, requirement in _requirements(_conda_pip_lines()).items()}


def test_every_locked_package_has_one_line():
    assert len(LOCKED) == len(_lock_lines())


@pytest.mark.parametrize("name", sorted(DECLARED | BUILD))
def test_lock_pins_within_the_declared_range(name):
    requirement = (DECLARED | BUILD)[name]
    assert name in LOCKED, f"requirements.lock does not pin {name}: run `make lock`"
    assert LOCKED[name] in requirement.specifier, f"the lock has {name} {LOCKED[name]}, pyproject.toml {requirement}"


@pytest.mark.parametrize("name", sorted(DECLARED | CONDA))
def test_environment_yml_has_the_pins_of_the_lock(name):
    assert name in CONDA, f"environment.yml does not list {name}"
    assert name in DECLARED, f"environment.yml lists {name}, which pyproject.toml does not declare"
    assert CONDA[name] == LOCKED[name]


def test_python_of_environment_yml_is_supported():
    (python,) = re.findall(r"^ *- python=([\d.]+)$", ENVIRONMENT, re.MULTILINE)
    assert Version(python) in SpecifierSet(PYPROJECT["project"]["requires-python"])


def test_torch_is_in_the_supported_range():
    assert DECLARED["torch"].specifier == SUPPORTED_TORCH
    assert LOCKED["torch"] in SUPPORTED_TORCH
    assert LOCKED["torch"].local is None, "a local build such as +cpu is not on the registry"


@pytest.mark.parametrize("kind", FOREIGN_PLACES)
@pytest.mark.parametrize("text", [LOCK, ENVIRONMENT], ids=["requirements.lock", "environment.yml"])
def test_pins_name_no_place_to_fetch_from(text, kind):
    found = re.search(FOREIGN_PLACES[kind], text, re.MULTILINE)
    assert not found, f"{kind}: {found.group()!r}"


@pytest.mark.parametrize("name", sorted(DECLARED))
def test_installed_version_is_the_locked_one(name):
    installed = Version(metadata.version(name))
    if name in OPEN_TO_OTHER_VERSIONS:
        assert installed in DECLARED[name].specifier
    else:
        assert installed == LOCKED[name], f"the lock has {name} {LOCKED[name]}: run `make setup`"
