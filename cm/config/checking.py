"""Values against the fields of a dataclass: known, of the right type, in range, and registered where they are names."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import yaml

from cm import registry
from cm.errors import UserError, unknown


def check(cls: type, values: Mapping[str, Any], where: str) -> Any:
    """An instance of the dataclass `cls`; UserError for an unknown or missing setting, or a bad value."""
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            raise unknown("setting", key, fields, where)
    missing = [name for name, field in fields.items() if _required(field) and name not in values]
    if missing:
        raise UserError(f"{where}: '{missing[0]}' is missing")
    made = cls(**{key: _checked(fields[key], value, where) for key, value in values.items()})
    if hasattr(made, "check"):
        made.check(where)
    return made


def _required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _checked(field: dataclasses.Field, value: Any, where: str) -> Any:
    kind, wanted = field.metadata.get("kind"), str(field.type)
    if kind and wanted.startswith("list["):
        return [_checked_name(kind, field.name, item, where) for item in _as_list(value)]
    if kind:
        return _checked_name(kind, field.name, value, where)
    if value is None and "None" in wanted:
        return None
    if wanted.startswith("list["):
        inner = wanted.removesuffix(" | None")[5:-1]
        return [_checked_scalar(field, item, inner, where) for item in _as_list(value)]
    return _checked_scalar(field, value, wanted, where)


_WORDS = {
    "optimiser": ("adam", "radam"),
    "lr_decay": ("linear", "none"),
    "average": ("ema", "online", "target"),
    "precision": ("bfloat16", "float16", "float32"),
    "rounding": ("round", "truncate"),
}


def _checked_name(kind: str, key: str, value: Any, where: str) -> str:
    known = _WORDS.get(kind) or registry.names(kind)
    if value not in known:
        raise unknown(kind, value, known, f"{where}, {key}")
    return value


def _checked_scalar(field: dataclasses.Field, value: Any, wanted: str, where: str) -> Any:
    types = {"int": int, "float": (int, float), "str": str, "bool": bool, "list": list, "dict": dict}
    name = wanted.removesuffix(" | None")
    if not isinstance(value, types[name]) or (isinstance(value, bool) and name != "bool"):
        hint = " (YAML reads 4e-4 as text: write 4.0e-4)" if isinstance(value, str) and name == "float" else ""
        raise UserError(f"{where}: {field.name} must be {name}, not {value!r}{hint}")
    value = float(value) if name == "float" else value
    low, below = field.metadata.get("low"), field.metadata.get("below")
    if low is not None and not value >= low:
        raise UserError(f"{where}: {field.name} must be at least {low}, not {value}")
    if below is not None and not value < below:
        raise UserError(f"{where}: {field.name} must be below {below}, not {value}")
    return value


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def as_field(cls: type, key: str, value: Any) -> Any:
    """A value read from a name becomes a list where the field is one: `times~0.8`, `times~2.0+0.8`."""
    types = {field.name: str(field.type) for field in dataclasses.fields(cls)}
    if not types.get(key, "").startswith("list"):
        return value
    return [yaml.safe_load(part) for part in value.split("+")] if isinstance(value, str) else _as_list(value)
