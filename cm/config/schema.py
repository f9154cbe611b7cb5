"""JSON Schemas of the configuration files, from the type hints that the checker reads.

Editors complete and check YAML files with them: each shipped file names its schema in its first line. The descriptions
and defaults are those of the tables of settings in the documentation and in the Snakemake workflow catalog.
"""

from __future__ import annotations

import dataclasses
import json
import re
import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from cm import registry
from cm.config.checking import default_of, hints_of, is_required, plain_value
from cm.config.claims import ClaimsFile
from cm.config.documents import ExperimentFile
from cm.config.names import NAME
from cm.config.protocols import Protocol
from cm.config.sections import Data, Evaluation, Released, Training
from cm.config.settings import Bound, Component, NameOf, PlainName
from cm.config.suite_files import SuiteFile
from cm.config.workflow_files import WorkflowFile
from cm.utils.files import replace_file

Schema = dict[str, Any]
DRAFT = "https://json-schema.org/draft/2020-12/schema"
SENTENCE = re.compile(r"\S.*?[.](?=\s|$)")
SCALARS: dict[Any, str] = {int: "integer", float: "number", str: "string", bool: "boolean"}


def write_schemas(folder: Path) -> list[Path]:
    """Write the schema of each kind of file; returns their paths."""
    paths = []
    for kind, make in SCHEMAS.items():
        path = folder / schema_file(kind)
        with replace_file(path) as temporary:
            temporary.write_text(json.dumps({"$schema": DRAFT, **make()}, indent=1) + "\n")
        paths.append(path)
    return paths


def schema_file(kind: str) -> str:
    """The name of the schema of a kind of file: `suite.json`.

    That of the workflow's configuration has the name by which the workflow catalog finds it; any JSON is YAML.
    """
    return "config.schema.yaml" if kind == "workflow" else f"{kind}.json"


def experiment_schema() -> Schema:
    """The schema of an experiment file: sections may be partial, since base.yaml and the method's file add up."""
    schema = _object(ExperimentFile)
    sections = {
        "objective": _any_of_components("method", named=False),
        "training": _partial(_object(Training)),
        "network": _any_of_components("network", named=True),
        "noise": _any_of_components("noise", named=True),
        "evaluation": _partial(_object(Evaluation)),
        "data": {**_partial(_object(Data)), "additionalProperties": True},
        "released": {**schema["properties"]["released"], "additionalProperties": _object(Released)},
    }
    schema["properties"] |= sections
    return {**schema, "title": "Experiment file"}


def suite_schema() -> Schema:
    """The schema of a suite file."""
    return {**_object(SuiteFile), "title": "Suite file"}


def protocol_schema() -> Schema:
    """The schema of a protocol file: its name and path are not written in it."""
    schema = _object(Protocol)
    for key in ("name", "file"):
        del schema["properties"][key]
    schema["required"].remove("name")
    return {**schema, "title": "Protocol file"}


def workflow_schema() -> Schema:
    """The schema of the configuration of the workflow."""
    return {**_object(WorkflowFile), "title": "Configuration of the workflow"}


def claims_schema() -> Schema:
    """The schema of the file of claims, in which a word in braces may stand for any value."""
    return {**_admit_words(_object(ClaimsFile)), "title": "File of claims"}


SCHEMAS: dict[str, Callable[[], Schema]] = {
    "claims": claims_schema,
    "experiment": experiment_schema,
    "protocol": protocol_schema,
    "suite": suite_schema,
    "workflow": workflow_schema,
}


def _object(cls: type) -> Schema:
    """The schema of the settings of a dataclass."""
    fields = dataclasses.fields(cls)
    descriptions, defaults = describe_settings(cls), _defaults(cls)
    properties = {
        name: {**_describe(schema_of(hint), name, descriptions.get(name)), **defaults.get(name, {})}
        for name, hint in hints_of(cls).items()
    }
    required = [field.name for field in fields if field.name in properties and is_required(field)]
    return {
        "type": "object",
        "description": _first_paragraph(cls),
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _defaults(cls: type) -> dict[str, Schema]:
    """The keyword `default` of each setting that has one, as it is written in YAML."""
    hints = hints_of(cls)
    optional = [field for field in dataclasses.fields(cls) if field.name in hints and not is_required(field)]
    values = {field.name: plain_value(hints[field.name], default_of(field)) for field in optional}
    return {name: {"default": value} for name, value in values.items() if value is not None}


def _admit_words(schema: Schema) -> Schema:
    """The schema with a text of one word in braces in place of every number, name and choice."""
    if {"enum", "minimum", "pattern"} & schema.keys():
        return {"anyOf": [schema, {"type": "string", "pattern": r"^\{\w+\}$"}]}
    parts: Schema = {}
    for key, value in schema.items():
        if key == "properties":
            parts[key] = {name: _admit_words(part) for name, part in value.items()}
        elif key == "anyOf":
            parts[key] = [_admit_words(part) for part in value]
        elif key in ("items", "additionalProperties") and isinstance(value, dict):
            parts[key] = _admit_words(value)
        else:
            parts[key] = value
    return parts


def _describe(schema: Schema, name: str, description: str | None) -> Schema:
    return {**schema, "description": description.removeprefix(f"`{name}`: ")} if description else schema


def _first_paragraph(cls: type) -> str:
    return " ".join((cls.__doc__ or "").split("\n\n")[0].split())


def describe_settings(cls: type) -> dict[str, str]:
    """What the docstring of a settings dataclass, or of a class it inherits from, says of each setting.

    The description of a setting is the first sentence in which its name stands in backquotes.
    """
    found: dict[str, str] = {}
    for parent in reversed(cls.__mro__):
        sentences = SENTENCE.findall(" ".join((parent.__doc__ or "").split()))
        for name in hints_of(cls):
            described = [sentence for sentence in sentences if f"`{name}`" in sentence]
            found |= {name: described[0]} if described else {}
    return found


def schema_of(hint: Any) -> Schema:
    """The schema of the values that a type hint admits."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _schema_of_annotated(arguments[0], arguments[1:])
    if origin in (Union, types.UnionType):
        return {"anyOf": [{"type": "null"} if one is type(None) else schema_of(one) for one in arguments]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is tuple:
        item = schema_of(arguments[0])
        return {"anyOf": [{"type": "array", "items": item}, item]}
    if origin is dict:
        names = schema_of(arguments[0])
        restricted = {"propertyNames": names} if "pattern" in names else {}
        return {"type": "object", **restricted, "additionalProperties": schema_of(arguments[1])}
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _object(hint)
    return {"type": SCALARS[hint]} if hint in SCALARS else {}


def _schema_of_annotated(inner: Any, marks: tuple[Any, ...]) -> Schema:
    for mark in marks:
        if isinstance(mark, Component):
            return _component(mark.kind)
        if isinstance(mark, NameOf):
            return {"enum": registry.names(mark.kind)}
    bounds: Schema = {mark.keyword: mark.limit for mark in marks if isinstance(mark, Bound)}
    if any(isinstance(mark, PlainName) for mark in marks):
        bounds["pattern"] = f"^{NAME.pattern}$"
    return {**schema_of(inner), **bounds}


def _component(kind: str) -> Schema:
    """A component by its name, or by a mapping of its name and settings."""
    return {"anyOf": [{"enum": registry.names(kind)}, _any_of_components(kind, named=True)]}


def _any_of_components(kind: str, *, named: bool) -> Schema:
    """The settings of any component of a kind, all optional; `named`: with its name, which selects the settings."""
    schemas = [_settings_schema(name, found, named=named) for name, found in sorted(registry.components(kind).items())]
    return {"anyOf": schemas + ([_without_name(schemas)] if named else [])}


def _settings_schema(name: str, found: Any, *, named: bool) -> Schema:
    empty: Schema = {"type": "object", "properties": {}, "additionalProperties": False}
    schema = _partial(_object(found)) if isinstance(found, type) and dataclasses.is_dataclass(found) else empty
    schema["title"] = name
    if named:
        schema["properties"] = {"name": {"const": name}, **schema["properties"]}
        schema["required"] = ["name"]
    return schema


def _without_name(schemas: list[Schema]) -> Schema:
    """A part of a section whose name stands in base.yaml: the settings of all components together."""
    properties: Schema = {}
    for schema in schemas:
        properties |= {key: value for key, value in schema["properties"].items() if key != "name"}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _partial(schema: Schema) -> Schema:
    """The schema with no setting required."""
    return {**schema, "required": []}
