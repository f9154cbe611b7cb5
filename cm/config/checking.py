"""Values against type hints: known, of the right type, in range, and registered where they are names.

`check` makes an instance of a settings dataclass from plain values (what YAML holds); `to_plain` is its inverse.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Protocol, TypeVar, Union, get_args, get_origin

from cm import registry
from cm.config.settings import Bound, Component, NameOf, OneOrMore, PlainName
from cm.config.yaml_reader import parse_scalar
from cm.errors import UserError, unknown


class Dataclass(Protocol):
    """Any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


Settings = TypeVar("Settings", bound=Dataclass)
EMPTY_LIST = "none"  # in names
WORDS: dict[Any, str] = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def check(cls: type[Settings], values: Mapping[str, Any], where: str) -> Settings:
    """An instance of the dataclass `cls` from plain values.

    If `cls` has a method `check(where)`, it is called on the instance. Raises UserError, which names `where`, for an
    unknown or missing setting and for a value that its type hint does not admit.
    """
    hints = hints_of(cls)
    for key in values:
        if key not in hints:
            raise unknown("setting", key, hints, where)
    for field in dataclasses.fields(cls):
        if field.name in hints and is_required(field) and field.name not in values:
            raise UserError(f"{where}: '{field.name}' is missing")
    instance = cls(**{key: convert(hints[key], value, key, where) for key, value in values.items()})
    if hasattr(instance, "check"):
        instance.check(where)
    return instance


def check_known(cls: type[Settings], values: Mapping[str, Any], where: str) -> Settings:
    """`check` of those values that the dataclass `cls` has fields for; others are ignored."""
    return check(cls, {key: value for key, value in values.items() if key in hints_of(cls)}, where)


@functools.cache
def hints_of(cls: type) -> dict[str, Any]:
    """The type hint of each setting of a dataclass, evaluated, in the order of the fields."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}


def is_required(field: dataclasses.Field[Any]) -> bool:
    """Whether a field has no default."""
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def default_of(field: dataclasses.Field[Any]) -> Any:
    """The default of a field that has one."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def convert(hint: Any, value: Any, name: str, where: str) -> Any:
    """A plain value as its type hint has it; UserError if the hint does not admit it."""
    if hint is Any:
        return value
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _convert_annotated(arguments[0], arguments[1:], value, name, where)
    if origin in (Union, types.UnionType):
        (inner,) = (argument for argument in arguments if argument is not type(None))
        return None if value is None else convert(inner, value, name, where)
    if origin is Literal:
        if not any(value == word and type(value) is type(word) for word in arguments):
            raise unknown(name, value, arguments, where)
        return value
    if origin is tuple:
        return _convert_tuple(arguments, value, name, where)
    if origin is dict or hint is dict:
        return _convert_mapping(arguments or (Any, Any), _mapping(value, name, where), name, where)
    if dataclasses.is_dataclass(hint):
        return check(typing.cast(type[Dataclass], hint), _mapping(value, name, where), f"{where}, {name}")
    return _convert_scalar(hint, value, name, where)


def _convert_mapping(arguments: tuple[Any, ...], entries: Mapping[Any, Any], name: str, where: str) -> dict[Any, Any]:
    key_hint, inner = arguments
    return {
        convert(key_hint, key, f"a key of {name}", where): convert(inner, entry, f"{name} {key}", where)
        for key, entry in entries.items()
    }


def _convert_annotated(inner: Any, marks: tuple[Any, ...], value: Any, name: str, where: str) -> Any:
    for mark in marks:
        if isinstance(mark, Component):
            return make_component(mark.kind, value, f"{where}, {name}")
        if isinstance(mark, NameOf) and value not in registry.names(mark.kind):
            raise unknown(mark.kind, value, registry.names(mark.kind), f"{where}, {name}")
    value = convert(inner, value, name, where)
    for mark in marks:
        if isinstance(mark, Bound | OneOrMore | PlainName):
            mark.check(value, name, where)
    return value


def _convert_tuple(arguments: tuple[Any, ...], value: Any, name: str, where: str) -> tuple[Any, ...]:
    items = list(value) if isinstance(value, list | tuple) else [value]
    if arguments[-1] is Ellipsis:
        return tuple(convert(arguments[0], item, name, where) for item in items)
    if len(items) != len(arguments):
        raise UserError(f"{where}: {name} must be {len(arguments)} values, not {value!r}")
    return tuple(convert(hint, item, name, where) for hint, item in zip(arguments, items, strict=True))


def _mapping(value: Any, name: str, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: '{name}' must be a mapping of settings, not {value!r}")
    return value


def _convert_scalar(hint: Any, value: Any, name: str, where: str) -> Any:
    accepted = (int, float) if hint is float else hint
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        advice = " (YAML reads 4e-4 as text: write 4.0e-4)" if isinstance(value, str) and hint is float else ""
        raise UserError(f"{where}: '{name}' must be {WORDS.get(hint, hint)}, not {value!r}{advice}")
    return _to_float(value, name, where) if hint is float else value


def _to_float(value: int | float, name: str, where: str) -> float:
    try:
        return float(value)
    except OverflowError:
        raise UserError(f"{where}: '{name}' must be a finite number, not one of {len(str(value))} digits") from None


def make_component(kind: str, value: Any, where: str) -> Any:
    """A registered component from its name, or from a mapping of its name and its settings.

    Returns the function, or the instance of the settings dataclass. Raises UserError for an unknown name or setting.
    """
    settings = component_mapping(kind, value, where)
    if "name" not in settings:
        raise UserError(f"{where}: needs a 'name'; known: {', '.join(registry.names(kind))}")
    name = settings.pop("name")
    found = registry.get(kind, name, where)
    if dataclasses.is_dataclass(found):
        return check(typing.cast(type[Dataclass], found), settings, where)
    if settings:
        raise UserError(f"{where}: the {kind} '{name}' has no settings, so no {next(iter(settings))!r}")
    return found


def component_mapping(kind: str, value: Any, where: str) -> dict[str, Any]:
    """The mapping of the name and the settings of a component that is given so, or by its name alone.

    Raises UserError for anything else.
    """
    if not isinstance(value, str | Mapping):
        raise UserError(f"{where}: must be the name of a {kind}, or a mapping of its name and settings, not {value!r}")
    return {"name": value} if isinstance(value, str) else dict(value)


def component_kind(hint: Any) -> str | None:
    """The kind of component that a type hint asks for, None for any other value."""
    marks = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    return next((mark.kind for mark in marks if isinstance(mark, Component)), None)


def to_plain(instance: Dataclass, *, changed_only: bool = False) -> dict[str, Any]:
    """The settings of an instance as plain data that `check` reads. `changed_only`: without those at their default."""
    hints = hints_of(type(instance))
    fields = {field.name: field for field in dataclasses.fields(instance)}
    values = {
        name: plain_value(hint, getattr(instance, name), changed_only=changed_only)
        for name, hint in hints.items()
        if not (changed_only and _at_default(fields[name], getattr(instance, name)))
    }
    return values


def _at_default(field: dataclasses.Field[Any], value: Any) -> bool:
    return not is_required(field) and default_of(field) == value


def plain_value(hint: Any, value: Any, *, changed_only: bool = False) -> Any:
    """A value of that type hint as plain data: a component as its name and settings, a tuple as a list."""
    kind = component_kind(hint)
    if kind is not None:
        return plain_component(kind, value, changed_only=changed_only)
    if isinstance(value, tuple):
        single = len(value) == 1 and any(isinstance(mark, OneOrMore) for mark in get_args(hint)[1:])
        return value[0] if single else list(value)
    return value


def plain_component(kind: str, value: Any, *, changed_only: bool = False) -> Any:
    """The name of a component, or, for one with settings, a mapping of its name and settings.

    What the checker reads.
    """
    name = registry.name(kind, value)
    cls: type = type(value)
    if not dataclasses.is_dataclass(cls) or not hints_of(cls):
        return name
    return {"name": name, **to_plain(value, changed_only=changed_only)}


def parse_list(hint: Any, value: Any, where: str) -> Any:
    """A value read from a name, where `4+8` is a list if the type hint is one, and `none` the empty list."""
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(argument for argument in get_args(hint) if argument is not type(None))
    if get_origin(hint) is tuple and isinstance(value, str):
        return [parse_scalar(part, where) for part in value.split("+")] if value != EMPTY_LIST else []
    return value
