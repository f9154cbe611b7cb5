"""Samplers by name: `onestep`, `multistep,times~0.8`, `ode,solver~heun,steps~18`."""

from __future__ import annotations

import functools
from typing import Any

from cm import registry
from cm.config.checking import make_component
from cm.config.names import check_name
from cm.config.variants import apply, complete, parse_variant, write_variant
from cm.errors import UserError


@functools.cache
def parse_sampler(text: str, where: str = "") -> Any:
    """The sampler of that name, its settings checked.

    Raises UserError for an unknown sampler, setting or value, and for a name that is not written as variants are
    (settings sorted, those at their default left out), so that no sampler has two names.
    """
    check_name(text, "sampler", where)
    name, _, rest = text.partition(",")
    registry.get("sampler", name, where)
    changes = parse_variant(rest) if rest else {}
    place = ": ".join(filter(None, [where, f"sampler '{text}'"]))
    document = complete({"sampler": {"name": name}}, place)
    sampler = make_component("sampler", apply(document, changes, place)["sampler"], place)
    settings = write_variant(document, changes, place)
    written = name if settings == "default" else f"{name},{settings}"
    if written != text:
        raise UserError(f"sampler '{text}' must be written '{written}'")
    return sampler
