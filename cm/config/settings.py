"""What a setting may be: the annotations that the fields of a settings dataclass carry.

A setting is a field with a type hint, and the hint says everything that the checker, the JSON Schema and the command
line need:

    batch: Annotated[int, at_least(1)]
    lr_decay: Literal["none", "linear"] = "none"
    metrics: tuple[Annotated[str, name_of("metric")], ...]
    artefacts: dict[Annotated[str, plain_name("artefact")], ArtefactFile]
    distance: Annotated[Distance, component("distance")] = default("distance", "lpips")

A **component** is something registered (a distance, a solver, a curriculum, a network). In YAML it is its name, or a
mapping of its `name` and its own settings; as a field it is the function, or the instance of the settings dataclass.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from cm import registry
from cm.config.names import check_name
from cm.errors import UserError


@dataclasses.dataclass(frozen=True)
class Bound:
    """A bound that a number must respect. `word`: how the error names it; `keyword`: what JSON Schema calls it."""

    limit: float
    word: str
    keyword: str

    def check(self, value: float, name: str, where: str) -> None:
        """UserError unless the value respects the bound (NaN respects none)."""
        holds = {
            "at least": value >= self.limit,
            "above": value > self.limit,
            "at most": value <= self.limit,
            "below": value < self.limit,
        }
        if not holds[self.word]:
            raise UserError(f"{where}: {name} must be {self.word} {self.limit}, not {value}")


def at_least(limit: float) -> Bound:
    """The value must be `limit` or larger."""
    return Bound(limit, "at least", "minimum")


def above(limit: float) -> Bound:
    """The value must be larger than `limit`."""
    return Bound(limit, "above", "exclusiveMinimum")


def at_most(limit: float) -> Bound:
    """The value must be `limit` or smaller."""
    return Bound(limit, "at most", "maximum")


def below(limit: float) -> Bound:
    """The value must be smaller than `limit`."""
    return Bound(limit, "below", "exclusiveMaximum")


@dataclasses.dataclass(frozen=True)
class PlainName:
    """The value is a name that can be a part of a path, see `cm.config.names`. `what`: what it names."""

    what: str

    def check(self, value: Any, name: str, where: str) -> None:
        """UserError unless the value is such a name."""
        check_name(value, self.what, where)


def plain_name(what: str) -> PlainName:
    """The value must be a name that can be a part of a path and of a command line."""
    return PlainName(what)


@dataclasses.dataclass(frozen=True)
class OneOrMore:
    """The value is a tuple that is written as its element where it has only one. `most`: how many it may have."""

    most: int

    def check(self, value: Any, name: str, where: str) -> None:
        """UserError for no elements, too many, or the same one twice."""
        if not 1 <= len(value) <= self.most or len(set(value)) < len(value):
            raise UserError(f"{where}: {name} must be one value, or up to {self.most} different ones")


def one_or_more(most: int) -> OneOrMore:
    """The value must be a tuple of up to `most` different elements, a single one without brackets."""
    return OneOrMore(most)


@dataclasses.dataclass(frozen=True)
class NameOf:
    """The value is the name of a registered component of this kind."""

    kind: str


def name_of(kind: str) -> NameOf:
    """The value must be the name of a registered component of this kind."""
    return NameOf(kind)


@dataclasses.dataclass(frozen=True)
class Component:
    """The value is a registered component of this kind, given by its name or by its name and its settings."""

    kind: str


def component(kind: str) -> Component:
    """The value must be a registered component of this kind."""
    return Component(kind)


def default(kind: str, name: str, **settings: Any) -> Any:
    """A field whose default is the component of that kind and name; components are looked up when one is needed."""

    def make() -> Any:
        found = registry.get(kind, name)
        return found(**settings) if isinstance(found, type) else found

    return dataclasses.field(default_factory=make)
