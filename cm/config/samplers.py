"""Samplers and edits by name: `onestep`, `multistep,times~0.8`, `inpainting,mask~half`."""

from __future__ import annotations

import functools
from typing import Any

from cm import registry
from cm.config.checking import make_component
from cm.config.names import check_name
from cm.config.variants import apply, complete, parse_variant, write_variant
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
