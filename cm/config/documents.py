"""Experiment files, read, merged and checked: what base.yaml, the method's file and `when:` say together."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cm import registry
from cm.config.checking import as_field, check
from cm.config.sections import SECTIONS, Evaluation, Released, Training
from cm.errors import UserError, unknown

_KEYS = {
    **dict.fromkeys((*SECTIONS, "evaluation", "data", "when", "released"), dict),
    **dict.fromkeys(("teacher", "perceptual", "sampler"), str),
    "chain": int,
}
_WORDS = {dict: "a mapping of settings", str: "text", int: "a whole number"}


def resolved(dataset: str, method: str, changes: Mapping[str, Any], experiments: Path) -> dict[str, Any]:
    """The document of a method with the settings that its `when:` gives to these changes."""
    document, where, chosen = _merged(dataset, method, experiments), f"{dataset}/{method}", {}
    rules = document.get("when", {})
    for key, cases in rules.items():
        section = section_of(key, where, document)
        value = changes.get(key, _default(key, section, document, where))
        chosen |= _mapping(_mapping(cases, f"{where}, when {key}").get(value, {}), f"{where}, when {key} is {value}")
    for key in chosen:
        if key in rules:
            raise UserError(f"{where}: 'when:' gives {key}, which it also asks for")
    return with_changes(document, chosen, where)


def _merged(dataset: str, method: str, experiments: Path) -> dict[str, Any]:
    own = _method_document(dataset, method, experiments)
    base = document_of(experiments / dataset / "base.yaml")
    merged = {**base, **own}
    for section in (*SECTIONS, "evaluation"):
        ours, theirs = own.get(section) or {}, base.get(section) or {}
        other_thing = ours.get("name", theirs.get("name")) != theirs.get("name")
        merged[section] = dict(ours) if other_thing else {**theirs, **ours}
    merged["objective"]["name"] = method
    return merged


def with_changes(document: Mapping[str, Any], changes: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The document with every change in its section."""
    changed = dict(document)
    for key, value in changes.items():
        section = section_of(key, where, document)
        cls = section_class(section, document, where)
        changed[section] = {**changed[section], key: as_field(cls, key, value)}
    return changed


def section_of(key: str, where: str, document: Mapping[str, Any]) -> str:
    """The section that a setting belongs to; UserError, with the known settings, if there is none."""
    homes = {name: [f.name for f in dataclasses.fields(section_class(name, document, where))] for name in SECTIONS}
    found = [name for name, keys in homes.items() if key in keys]
    if not found:
        raise unknown("setting", key, {key for keys in homes.values() for key in keys}, where)
    return found[0]


def section_class(section: str, document: Mapping[str, Any], where: str) -> type:
    """The dataclass whose fields are the settings of a section."""
    kinds = {"objective": "method", "network": "network", "noise": "schedule"}
    if section not in kinds:
        return {"training": Training, "evaluation": Evaluation}[section]
    if "name" not in document[section]:
        raise UserError(f"{where}: '{section}:' needs a 'name'; known: {', '.join(registry.names(kinds[section]))}")
    return registry.get(kinds[section], document[section]["name"], f"{where} {section}")


def settings_of(section: Mapping[str, Any]) -> dict[str, Any]:
    """A section without the name of what it sets."""
    return {key: value for key, value in section.items() if key != "name"}


def check_sections(document: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Every section as its dataclass, and `released`: name to entry; UserError for whatever is wrong in them."""
    sections = {
        name: check(section_class(name, document, where), settings_of(document[name]), f"{where}, {name}")
        for name in (*SECTIONS, "evaluation")
    }
    entries = {
        name: check(Released, _mapping(entry, f"{where}, released {name}"), f"{where}, released {name}")
        for name, entry in document.get("released", {}).items()
    }
    wanted = sections["training"].released
    if wanted is not None and wanted not in entries:
        raise unknown("released checkpoint", wanted, entries, where)
    return {**sections, "released": entries}


@functools.cache
def document_of(path: Path) -> dict[str, Any]:
    """One experiment file, read once; UserError for a section that is unknown or of another type."""
    document = read_yaml(path)
    for key, value in document.items():
        if key not in _KEYS:
            raise unknown("section", key, _KEYS, str(path))
        if not isinstance(value, _KEYS[key]) or isinstance(value, bool):
            raise UserError(f"{path}: '{key}' must be {_WORDS[_KEYS[key]]}, not {value!r}")
    return document


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping; UserError with the line if it is not one, or not there."""
    try:
        document = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError:
        raise UserError(f"no file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise UserError(f"{path}: expected a mapping of settings")
    return document


def _method_document(dataset: str, method: str, experiments: Path) -> dict[str, Any]:
    datasets = sorted(path.parent.name for path in experiments.glob("*/base.yaml"))
    if dataset not in datasets:
        raise unknown("dataset", dataset, datasets, str(experiments))
    methods = sorted(path.stem for path in (experiments / dataset).glob("*.yaml") if path.stem != "base")
    if method not in methods:
        raise unknown("method", method, methods, f"{experiments}/{dataset}")
    return document_of(experiments / dataset / f"{method}.yaml")


def _default(key: str, section: str, document: Mapping[str, Any], where: str) -> Any:
    fields = {field.name: field.default for field in dataclasses.fields(section_class(section, document, where))}
    return document[section].get(key, fields[key])


def _mapping(value: Any, where: str) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected a mapping of settings, not {value!r}")
    return value
