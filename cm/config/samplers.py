"""Samplers and edits by name: `onestep`, `multistep,times~0.8`, `inpainting,mask~half`."""

from __future__ import annotations

import functools
from typing import Any

from cm import registry
from cm.config.checking import make_component, plain_component
from cm.config.names import check_name
from cm.config.variants import apply, complete, parse_variant, write_value, write_variant
from cm.errors import UserError


def parse_sampler(text: str, where: str = "") -> Any:
    """The sampler of that name, its settings checked; UserError as `parse_component` raises it."""
    return parse_component("sampler", text, where)


def parse_edit(text: str, where: str = "") -> Any:
    """The edit of that name, its settings checked; UserError as `parse_component` raises it."""
    return parse_component("edit", text, where)


@functools.cache
def parse_component(kind: str, text: str, where: str = "") -> Any:
    """The registered component of a kind that a text names with its settings, which are checked.

    Raises UserError for an unknown component, setting or value, and for a name that is not written as variants are
    (settings sorted, those at their default left out), so that none has two names.
    """
    check_name(text, kind, where)
    name, _, rest = text.partition(",")
    registry.get(kind, name, where)
    changes = parse_variant(rest) if rest else {}
    place = ": ".join(filter(None, [where, f"{kind} '{text}'"]))
    document = complete({kind: {"name": name}}, place)
    component = make_component(kind, apply(document, changes, place)[kind], place)
    settings = write_variant(document, changes, place)
    written = name if settings == "default" else f"{name},{settings}"
    if written != text:
        raise UserError(f"{kind} '{text}' must be written '{written}'")
    return component


def write_sampler(sampler: Any) -> str:
    """The name of a sampler, from which `parse_sampler` makes it again."""
    plain = plain_component("sampler", sampler, changed_only=True)
    settings = {"name": plain} if isinstance(plain, str) else dict(plain)
    name = settings.pop("name")
    return ",".join([name, *(f"{key}~{write_value(settings[key])}" for key in sorted(settings))])


def previous_search(text: str) -> str | None:
    """The sampler whose search the search of the sampler `text` continues, None for the search of a first time point.

    Raises UserError for a sampler whose time points are not searched.
    """
    sampler = parse_sampler(text)
    if not is_searched(sampler):
        raise UserError(f"the sampler '{text}' has nothing to search: expected 'search,steps~n'")
    return write_sampler(sampler.previous) if sampler.previous else None


def is_searched(sampler: Any) -> bool:
    """Whether `cm search` must find the time points of a sampler before it can sample."""
    return registry.name("sampler", sampler) == "search"
