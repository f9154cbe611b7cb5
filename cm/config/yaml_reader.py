"""YAML within limits: the only place where text of YAML becomes values.

What is read: mappings without duplicate keys, lists, text, finite numbers, true, false and null; aliases and merge keys
(`<<`), which count as often as they are used. Tags (`!!python/name`) are refused. Dates are text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from cm.errors import UserError

LARGEST_FILE = 1 << 20  # bytes
DEEPEST_NESTING = 32  # mappings and lists in each other
MOST_VALUES = 100_000  # with aliases replaced by what they stand for
LONGEST_NUMBER = 40  # characters
MERGE = "<<"

_PARSER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_RESOLVER = yaml.resolver.Resolver()
_CONSTRUCTOR = yaml.constructor.SafeConstructor()
_CONSTRUCT = {
    f"tag:yaml.org,2002:{kind}": getattr(_CONSTRUCTOR, f"construct_yaml_{kind}")
    for kind in ("null", "bool", "int", "float")
}


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; UserError with the line if the file is missing, too large or something else."""
    document = parse_yaml(_read_text(path), str(path))
    if not isinstance(document, dict):
        raise UserError(f"{path}: expected a mapping of settings")
    return document


def _read_text(path: Path) -> str:
    if not path.exists():
        raise UserError(f"no file {path}")
    if not path.is_file():
        raise UserError(f"{path} is not a file")
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise UserError(f"{path} is larger than a configuration file may be, {LARGEST_FILE} bytes")
        return content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML document. Raises UserError that names `where` and the line."""
    try:
        return _Document(yaml.parse(text, Loader=_PARSER), where).read()
    except yaml.YAMLError as error:
        raise UserError(f"{where} is not YAML: {' '.join(str(error).split())}") from None


def parse_scalar(text: str, where: str) -> Any:
    """The number, the truth value, the null or the text that unquoted text stands for in YAML.

    Raises UserError, which names `where`, for a number that is infinite or too long.
    """
    construct = _CONSTRUCT.get(_RESOLVER.resolve(yaml.ScalarNode, text, (True, False)))
    if construct is None:
        return text
    if len(text) > LONGEST_NUMBER:
        raise UserError(f"{where}: a number of {len(text)} characters is too long, at most {LONGEST_NUMBER}")
    try:
        value = construct(yaml.ScalarNode("", text))
    except ValueError:
        raise UserError(f"{where}: '{text}' is not a number") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where}: numbers must be finite, not {text}")
    return value


class _Document:
    """A YAML document that is built from the events of a parser, within the limits above."""

    def __init__(self, events: Iterator[yaml.Event], where: str) -> None:
        self._events, self._where, self._count = events, where, 0
        self._anchors: dict[str, tuple[Any, int]] = {}  # the value, and how many values it consists of

    def read(self) -> Any:
        """The value of the document, None for an empty one."""
        next(self._events)  # the start of the stream
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return None
        value = self._read_node(next(self._events), 0)
        next(self._events)  # the end of the document
        event = next(self._events)
        if not isinstance(event, yaml.StreamEndEvent):
            raise self._refuse(event, "expected a single document")
        return value

    def _refuse(self, event: yaml.Event, problem: str) -> UserError:
        return UserError(f"{self._place(event)}: {problem}")

    def _place(self, event: Any) -> str:
        return f"{self._where}, line {event.start_mark.line + 1}"

    def _read_node(self, event: Any, depth: int) -> Any:
        """The value that starts with an event, at a depth of nesting."""
        if isinstance(event, yaml.AliasEvent):
            return self._follow_alias(event, depth)
        if event.tag is not None:
            raise self._refuse(event, f"tags, such as {event.tag}, are not supported")
        first = self._count
        self._add(1, event)
        if isinstance(event, yaml.ScalarEvent):
            value = parse_scalar(event.value, self._place(event)) if event.implicit[0] else event.value
        else:
            self._check_depth(depth + 1, event)
            read = self._read_list if isinstance(event, yaml.SequenceStartEvent) else self._read_mapping
            value = read(depth + 1)
        if event.anchor:
            self._anchors[event.anchor] = value, self._count - first
        return value

    def _follow_alias(self, event: Any, depth: int) -> Any:
        if event.anchor not in self._anchors:
            raise self._refuse(event, f"the alias *{event.anchor} stands for nothing that is complete before it")
        value, count = self._anchors[event.anchor]
        self._add(count, event)
        self._check_depth(depth + _height(value), event)
        return value

    def _add(self, count: int, event: yaml.Event) -> None:
        self._count += count
        if self._count > MOST_VALUES:
            raise self._refuse(event, f"more than {MOST_VALUES} values, those of aliases included")

    def _check_depth(self, depth: int, event: yaml.Event) -> None:
        if depth > DEEPEST_NESTING:
            raise self._refuse(event, f"nested more than {DEEPEST_NESTING} levels deep")

    def _read_list(self, depth: int) -> list[Any]:
        values = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            values.append(self._read_node(event, depth))
        return values

    def _read_mapping(self, depth: int) -> dict[Any, Any]:
        own: dict[Any, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._read_node(event, depth)
            if not isinstance(key, str | int | float):
                raise self._refuse(event, f"a key must be text or a number, not {key!r}")
            if key in own:
                raise self._refuse(event, f"the key '{key}' stands here for the second time")
            own[key] = self._read_node(next(self._events), depth)
            if key == MERGE:
                self._check_merged(own[key], event)
        return _merge(own)

    def _check_merged(self, value: Any, event: yaml.Event) -> None:
        if not all(isinstance(part, dict) for part in _as_list(value)):
            raise self._refuse(event, f"'{MERGE}' must be followed by a mapping or a list of mappings")


def _merge(mapping: dict[Any, Any]) -> dict[Any, Any]:
    """A mapping with the entries of the mappings under `<<`, of which its own and the earlier ones take precedence."""
    merged: dict[Any, Any] = {}
    for part in reversed(_as_list(mapping.pop(MERGE, []))):
        merged |= part
    return merged | mapping


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _height(value: Any) -> int:
    """How many mappings and lists are in each other in a value."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(_height, inner), default=0)
