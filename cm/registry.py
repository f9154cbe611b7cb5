"""Words of the configuration and the components they name.

A component registers itself where it is written: `@register("solver", "heun")`. Dropping a file into a package below is
enough for it to be found: the packages that may hold components (`HOMES`) are imported by name when one is looked up,
as plug-ins are. A component that takes settings is a frozen dataclass; its fields are its settings, see
`cm.config.settings`. Nothing in here, and nothing that is found, imports torch when it is imported.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

from cm.errors import unknown

HOMES = {
    "artefact": "cm.report",
    "curriculum": "cm.diffusion.curriculum",
    "dataset": "cm.data",
    "distance": "cm.diffusion.distances",
    "metric": "cm.evaluation.metrics",
    "method": "cm.methods",
    "network": "cm.networks",
    "noise": "cm.diffusion.noise",
    "preconditioning": "cm.diffusion.preconditioning",
    "resizer": "cm.evaluation.resizers",
    "sampler": "cm.diffusion.samplers",
    "solver": "cm.diffusion.solvers",
    "times": "cm.diffusion.times",
    "weighting": "cm.diffusion.weightings",
    "weights": "cm.evaluation.pretrained",
}
_components: dict[str, dict[str, Any]] = {kind: {} for kind in HOMES}


def register(kind: str, name: str) -> Callable[[Any], Any]:
    """A decorator that makes a component known as `name` among the components of `kind`."""

    def decorate(component: Any) -> Any:
        if _identity(_components[kind].get(name, component)) != _identity(component):
            raise ValueError(f"two components claim the {kind} '{name}'")
        _components[kind][name] = component
        return component

    return decorate


def _identity(component: Any) -> Any:
    """What stays the same of a function or class whose module is imported twice; a value is itself."""
    return getattr(component, "__qualname__", component)


def name(kind: str, component: Any) -> str:
    """The name under which a function, or the class of an instance, is registered as a component of `kind`."""
    wanted = _identity(component if hasattr(component, "__qualname__") else type(component))
    names = [key for key, candidate in known(kind).items() if _identity(candidate) == wanted]
    if not names:
        raise ValueError(f"{component} is no registered {kind}")
    return names[0]


def get(kind: str, name: str, where: str = "") -> Any:
    """The component of `kind` called `name`; UserError, with the known names, if there is none."""
    components = known(kind)
    if name not in components:
        raise unknown(kind, name, components, where)
    return components[name]


def names(kind: str) -> list[str]:
    """All names of `kind`, sorted."""
    return sorted(known(kind))


def known(kind: str) -> dict[str, Any]:
    """Name to component, for every component of `kind`."""
    _discover(HOMES[kind])
    return _components[kind]


@functools.cache
def _discover(home: str) -> None:
    module = importlib.import_module(home)
    for info in pkgutil.iter_modules(getattr(module, "__path__", [])):
        if not info.ispkg:
            importlib.import_module(f"{home}.{info.name}")
