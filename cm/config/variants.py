"""Variants: a document with some settings changed, and the name that says which.

A **variant** is named by what it changes and nothing else: `solver~euler,steps~9`; `default` changes nothing.

A setting is named by its last word. It may belong to a component of a section: with `curriculum: adaptive`, `s0~4` is
the setting `s0` of the curriculum. Where a word would be ambiguous, the component's stands before it:
`distance.c~0.03`.

Settings that depend on others stand under `when:`, as `{setting: {value: {other setting: its value}}}`: with
`when: {distance: {l1: {lr: 2.0e-4}}}` the variant `distance~l1` has that rate, and its name need not say so.

All functions but `complete` take a complete document, in which every component is a mapping of its name and settings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from cm import registry
from cm.config.checking import (
    EMPTY_LIST,
    component_kind,
    component_mapping,
    convert,
    default_of,
    hints_of,
    is_required,
    parse_list,
    plain_component,
)
from cm.config.documents import Document
from cm.config.names import check_name
from cm.config.runs import COMPONENTS, SECTIONS
from cm.config.sections import Training
from cm.config.yaml_reader import parse_scalar
from cm.errors import UserError, unknown

Path = tuple[str, ...]  # ("training", "lr"), or ("objective", "curriculum", "s0")
Changes = Mapping[str, Any]
MISSING = object()


def complete(document: Document, where: str) -> Document:
    """The document with every component as a mapping of its name and settings, those at their default included."""
    sections = SECTIONS if "objective" in document else tuple(document)
    done = {name: _complete(class_of_section(name, document, where), document[name], where) for name in sections}
    return {**document, **done}


def _complete(cls: type, settings: Mapping[str, Any], where: str) -> Document:
    found = dict(settings)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for name, hint in hints_of(cls).items():
        kind = component_kind(hint)
        if kind is None or (name not in found and is_required(fields[name])):
            continue
        value = found[name] if name in found else plain_component(kind, default_of(fields[name]))
        value = component_mapping(kind, value, f"{where}, {name}")
        inner = _class_of(kind, value)
        found[name] = value if inner is None else _complete(inner, value, where)
    return found


def resolve(document: Document, changes: Changes, where: str) -> Document:
    """The document with the settings that its `when:` gives to these changes."""
    given: dict[str, Any] = {}
    rules = document.get("when", {})
    changed = apply(document, changes, where)
    for key, cases in rules.items():
        cases = _mapping(cases, f"{where}, when {key}")
        value = _name_or_value(value_at(changed, locate(changed, key, where)))
        for case, settings in cases.items():
            if case == value:
                given |= _mapping(settings, f"{where}, when {key} is {value}")
    for key in given:
        if key in rules:
            raise UserError(f"{where}: 'when:' gives {key}, which it also asks for")
    return apply(document, given, where)


def apply(document: Document, changes: Changes, where: str) -> Document:
    """The document with every change in its place; components first, so that their settings are found."""
    for key, value in _ordered(document, changes, where):
        path = locate(document, key, where)
        if component_kind(hint_at(document, path)) is None:
            document = _replace(document, path, parse_list(hint_at(document, path), value, where))
        elif value != _name_or_value(value_at(document, path)):
            document = complete(_replace(document, path, {"name": value}), where)
    return document


def write_variant(document: Document, changes: Changes, where: str) -> str:
    """The name of what `changes` changes in a document: sorted by setting, without settings at their default."""
    written = {}
    changed = apply(document, changes, where)
    for key, _ in _ordered(document, changes, where):
        path = locate(changed, key, where)
        value = _checked_value(changed, path, where)
        if value != _unchanged_value(document, changed, path, where):
            written[_shortest_key(changed, path, where)] = value
    return ",".join(f"{key}~{write_value(written[key])}" for key in sorted(written)) or "default"


def parse_variant(text: str) -> dict[str, Any]:
    """`solver~euler,steps~9` to `{"solver": "euler", "steps": 9}`; a list, `4+8`, is still text."""
    check_name(text, "variant")
    if text == "default":
        return {}
    pairs = [part.partition("~") for part in text.split(",")]
    if any(not (key and tilde and value) for key, tilde, value in pairs):
        raise UserError(f"'{text}' is not of the form setting~value,setting~value")
    return {key: parse_scalar(value, f"'{text}'") for key, _, value in pairs}


def write_value(value: Any) -> str:
    """A value as `parse_variant` and `parse_list` read it."""
    if isinstance(value, list | tuple):
        return "+".join(map(write_value, value)) or EMPTY_LIST
    if isinstance(value, float):
        mantissa, exponent, power = repr(value).partition("e")
        return mantissa + (".0" if exponent and "." not in mantissa else "") + exponent + power
    return {"True": "true", "False": "false", "None": "null"}.get(str(value), str(value))


# ---- where a setting is -------------------------------------------------------------------------------------------


def locate(document: Document, key: str, where: str) -> Path:
    """The path of the setting that a key names; UserError, with the known settings, for none or for several."""
    paths = list(_setting_paths(document, where))
    nearest = _nearest(paths, tuple(key.split(".")))
    if not nearest:
        raise unknown("setting", key, {path[-1] for path in paths}, where)
    if len(nearest) > 1:
        names = " or ".join(".".join(path[1:]) for path in nearest)
        raise UserError(f"{where}: the setting '{key}' is ambiguous: write {names}")
    return nearest[0]


def _nearest(paths: list[Path], words: Path) -> list[Path]:
    """The paths that end in these words, of those the ones nearest to their section."""
    found = [path for path in paths if path[-len(words) :] == words and len(path) > len(words)]
    return [path for path in found if len(path) == min(map(len, found))]


def _shortest_key(document: Document, path: Path, where: str) -> str:
    """The shortest key that names the setting at a path."""
    paths = list(_setting_paths(document, where))
    keys = (path[-length:] for length in range(1, len(path)))
    return ".".join(next(words for words in keys if _nearest(paths, words) == [path]))


def _setting_paths(document: Document, where: str) -> Iterator[Path]:
    """The paths of all settings of a document, those of its components included."""
    for section in SECTIONS if "objective" in document else tuple(document):
        yield from _paths_below((section,), class_of_section(section, document, where), document[section])


def _paths_below(path: Path, cls: type, settings: Mapping[str, Any]) -> Iterator[Path]:
    for name, hint in hints_of(cls).items():
        yield (*path, name)
        kind = component_kind(hint)
        inner = _class_of(kind, settings[name]) if kind and name in settings else None
        if inner is not None:
            yield from _paths_below((*path, name), inner, settings[name])


def class_of_section(section: str, document: Document, where: str) -> type:
    """The dataclass whose fields are the settings of a section.

    UserError for a component without or of unknown name.
    """
    if section == "training":
        return Training
    kind = COMPONENTS.get(section, section)
    if "name" not in document[section]:
        raise UserError(f"{where}: '{section}:' needs a 'name'; known: {', '.join(registry.names(kind))}")
    return registry.get(kind, document[section]["name"], f"{where}, {section}")


def _class_of(kind: str, value: Mapping[str, Any]) -> type | None:
    """The settings dataclass of a component, None for one without settings or of an unknown name."""
    found = registry.components(kind).get(str(value.get("name")))
    return found if isinstance(found, type) and dataclasses.is_dataclass(found) else None


def _class_at(document: Document, path: Path) -> type:
    """The dataclass of the section or component at a path."""
    cls, settings = class_of_section(path[0], document, path[0]), document[path[0]]
    for name in path[1:]:
        kind = component_kind(hints_of(cls)[name])
        inner = _class_of(kind, settings[name]) if kind else None
        if inner is None:
            raise UserError(f"{'.'.join(path)} has no settings")
        cls, settings = inner, settings[name]
    return cls


def hint_at(document: Document, path: Path) -> Any:
    """The type hint of the setting at a path."""
    return hints_of(_class_at(document, path[:-1]))[path[-1]]


def value_at(document: Document, path: Path) -> Any:
    """What the document says at a path, else the default of the setting, MISSING if it has none."""
    owner: Any = document
    for part in path[:-1]:
        owner = owner[part]
    if path[-1] in owner:
        return owner[path[-1]]
    return _default_at(document, path)


def _default_at(document: Document, path: Path) -> Any:
    fields = {field.name: field for field in dataclasses.fields(_class_at(document, path[:-1]))}
    return MISSING if is_required(fields[path[-1]]) else default_of(fields[path[-1]])


# ---- changes ------------------------------------------------------------------------------------------------------


def _ordered(document: Document, changes: Changes, where: str) -> list[tuple[str, Any]]:
    """Changes in the order in which they are made: components, then their settings, each a change of its own."""
    flat: dict[str, Any] = {}
    for key, value in changes.items():
        named = isinstance(value, Mapping) and "name" in value
        flat[key] = value["name"] if named else value
        flat |= {f"{key}.{name}": inner for name, inner in value.items() if name != "name"} if named else {}
    paths = list(_setting_paths(document, where))
    return sorted(flat.items(), key=lambda change: not _is_component(document, paths, change[0]))


def _is_component(document: Document, paths: list[Path], key: str) -> bool:
    nearest = _nearest(paths, tuple(key.split(".")))
    return bool(nearest) and component_kind(hint_at(document, nearest[0])) is not None


def _replace(document: Document, path: Path, value: Any) -> Document:
    """The document with another value at a path."""
    inner = value if len(path) == 1 else _replace(document[path[0]], path[1:], value)
    return {**document, path[0]: inner}


def _checked_value(document: Document, path: Path, where: str) -> Any:
    """The value at a path after conversion by its type hint; of a component, its name."""
    hint, value = hint_at(document, path), value_at(document, path)
    kind = component_kind(hint)
    if kind:
        registry.get(kind, value["name"], f"{where}, {path[-1]}")
        return value["name"]
    return convert(hint, value, path[-1], f"{where}, {path[0]}")


def _unchanged_value(document: Document, changed: Document, path: Path, where: str) -> Any:
    """The value of a setting without the changes; where these brought its component, the component's default."""
    owners = [path[:length] for length in range(2, len(path))]
    same = all(value_at(document, owner)["name"] == value_at(changed, owner)["name"] for owner in owners)
    value = value_at(document, path) if same else _default_at(changed, path)
    if value is MISSING or isinstance(value, Mapping):
        return _name_or_value(value)
    return convert(hint_at(changed, path), value, path[-1], where)


def _name_or_value(value: Any) -> Any:
    """The name of a component; any other value itself."""
    return value["name"] if isinstance(value, Mapping) and "name" in value else value


def _mapping(value: Any, where: str) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: expected a mapping of settings, not {value!r}")
    return value
