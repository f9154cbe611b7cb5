"""JSON Schemas: in sync with the types, true of every shipped file, and strict about mistakes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
import yaml
from setting_sections import SECTIONS

from cm import registry
from cm.config.schema import SCHEMAS, describe_settings, schema_file, write_schemas

ROOT = Path(__file__).parents[2]
SHIPPED = {
    "claims": "claims.yaml",
    "experiment": "experiments/*/*.yaml",
    "protocol": "protocols/*.yaml",
    "suite": "suites/*.yaml",
    "workflow": "config.yaml",
}
FILES = [(kind, path) for kind, pattern in SHIPPED.items() for path in sorted((ROOT / "config").glob(pattern))]
COMPONENTS = [
    found
    for kind in registry.HOMES
    for found in registry.components(kind).values()
    if isinstance(found, type) and dataclasses.is_dataclass(found)
]


def problems(kind: str, document: dict) -> list[str]:
    validator = jsonschema.Draft202012Validator(SCHEMAS[kind]())
    return [error.message for error in validator.iter_errors(document)]


@pytest.mark.parametrize(("kind", "path"), FILES, ids=lambda value: getattr(value, "stem", value))
def test_every_shipped_file_fits_its_schema_and_names_it(kind, path):
    assert problems(kind, yaml.safe_load(path.read_text())) == []
    first = path.read_text().splitlines()[0]
    assert first.startswith("# yaml-language-server: $schema=")
    schema = (path.parent / first.partition("=")[2]).resolve()
    assert schema == ROOT / "workflow" / "schemas" / schema_file(kind)


def test_the_committed_schemas_are_those_of_the_types(tmp_path):
    for path in write_schemas(tmp_path):
        committed = ROOT / "workflow" / "schemas" / path.name
        assert json.loads(committed.read_text()) == json.loads(path.read_text()), "run `cm schema`"


@pytest.mark.parametrize(
    ("kind", "document"),
    [
        ("experiment", {"trainign": {}}),
        ("experiment", {"training": {"batch": 0}}),
        ("experiment", {"training": {"optimiser": "sgd"}}),
        ("experiment", {"training": {"learning_rate": 1.0}}),
        ("experiment", {"network": {"name": "ncsnp"}}),
        ("experiment", {"network": {"name": "ncsnpp", "dropout": 1.0}}),
        ("experiment", {"objective": {"distance": "l3"}}),
        ("experiment", {"objective": {"curriculum": {"name": "adaptive", "steps": 3}}}),
        ("suite", {"artefacts": {}}),
        ("suite", {"dataset": "digits", "progress": [101]}),
        ("suite", {"dataset": "digits", "artefacts": {"a": {"kind": "tables", "caption": "c"}}}),
        ("protocol", {"extractor": "inception", "metrics": ["fidd"]}),
        ("workflow", {"suit": "demo"}),
    ],
)
def test_mistakes_do_not_fit(kind, document):
    assert problems(kind, document)


@pytest.mark.parametrize("cls", [*SECTIONS, *COMPONENTS], ids=lambda cls: cls.__qualname__)
def test_every_setting_has_a_description(cls):
    names = {field.name for field in dataclasses.fields(cls)}
    assert not names - set(describe_settings(cls))


def properties_with_default(schema: dict) -> Iterator[tuple[str, dict]]:
    """The name and the schema of each property that has a default, in all parts of a schema."""
    for name, part in schema.get("properties", {}).items():
        if "default" in part:
            yield name, part
    for value in schema.values():
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, dict):
                yield from properties_with_default(part)


@pytest.mark.parametrize("kind", SCHEMAS)
def test_every_default_fits_the_schema_of_its_setting(kind):
    found = list(properties_with_default(SCHEMAS[kind]()))
    assert found
    for name, part in found:
        errors = [error.message for error in jsonschema.Draft202012Validator(part).iter_errors(part["default"])]
        assert not errors, f"{name}: {errors}"


def test_optional_settings_state_their_default():
    suite = SCHEMAS["suite"]()["properties"]
    assert (suite["seeds"]["default"], suite["threads"]["default"]) == ([0], 1)
    assert "default" not in suite["dataset"]
    assert SCHEMAS["workflow"]()["properties"]["suite"]["default"] == "demo"
