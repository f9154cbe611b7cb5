"""Words of the configuration and the things they name; and the settings a thing takes.

A thing registers itself where it is written: `@register("solver", "heun")`. Dropping a file into a package below is
enough for it to be found. A thing that takes settings is a frozen dataclass whose fields are its section of the YAML;
`setting` adds the bounds or the registry that a value must respect. Nothing in here, and nothing that is found, imports
torch when it is imported.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

from cm.errors import unknown

HOMES = {
    "artefact": "cm.report",
    "dataset": "cm.data",
    "distance": "cm.diffusion.distances",
    "metric": "cm.evaluation.metrics",
    "network": "cm.networks",
    "method": "cm.methods",
    "preconditioning": "cm.diffusion.preconditioning",
    "resizer": "cm.evaluation.resizers",
    "sampler": "cm.diffusion.samplers",
    "schedule": "cm.diffusion.noise",
    "solver": "cm.diffusion.solvers",
    "weighting": "cm.diffusion.weightings",
    "weights": "cm.evaluation.pretrained",
}
_things: dict[str, dict[str, Any]] = {kind: {} for kind in HOMES}


def register(kind: str, name: str) -> Callable[[Any], Any]:
    """A decorator that makes a thing known as `name` among the things of `kind`."""

    def decorate(thing: Any) -> Any:
        if _identity(_things[kind].get(name, thing)) != _identity(thing):
            raise ValueError(f"two things claim the {kind} '{name}'")
        _things[kind][name] = thing
        return thing

    return decorate


def _identity(thing: Any) -> Any:
    """What stays the same of a function or class whose module is imported twice; a value is itself."""
    return getattr(thing, "__qualname__", thing)


def get(kind: str, name: str, where: str = "") -> Any:
    """The thing of `kind` called `name`; UserError, with the known names, if there is none."""
    things = known(kind)
    if name not in things:
        raise unknown(kind, name, things, where)
    return things[name]


def names(kind: str) -> list[str]:
    """All names of `kind`, sorted."""
    return sorted(known(kind))


def known(kind: str) -> dict[str, Any]:
    """Name to thing, for every thing of `kind`."""
    _discover(HOMES[kind])
    return _things[kind]


@functools.cache
def _discover(home: str) -> None:
    module = importlib.import_module(home)
    for info in pkgutil.iter_modules(getattr(module, "__path__", [])):
        if not info.ispkg:
            importlib.import_module(f"{home}.{info.name}")


def setting(default: Any, *, kind: str | None = None, low: float | None = None, below: float | None = None) -> Any:
    """A dataclass field for a configured value.

    `kind`: the value is the name of a registered thing of that kind (it is checked as a name, and the composition root
    puts the thing in its place). `low`: smallest allowed value. `below`: the value must be strictly smaller than this.
    Pass `dataclasses.MISSING` as the default for a value that the YAML must give.
    """
    metadata = {"kind": kind, "low": low, "below": below}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)
