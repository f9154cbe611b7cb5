"""The components that the configuration names: solvers, distances, metrics, methods, data sets and so on.

A component registers itself where it is written: `@register("solver", "heun")`. It is a function or, if it has
settings, a frozen dataclass whose fields are the settings (see `cm.config.settings`).

Every kind of component has a home (`HOMES`), a module or a package. At the first look-up of a kind, its home and the
modules directly below it are imported by name, as plug-ins are, so that dropping a file into a package is enough to
add a component. Neither this module nor any module below a home imports torch at import time.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, TypeVar

from cm.errors import unknown

HOMES = {
    "artefact": "cm.report",
    "curriculum": "cm.diffusion.curriculum",
    "dataset": "cm.data",
    "distance": "cm.diffusion.distances",
    "edit": "cm.diffusion.edits",
    "metric": "cm.evaluation.metrics",
    "mask": "cm.data.masks",
    "method": "cm.methods",
    "network": "cm.networks",
    "noise": "cm.diffusion.noise",
    "preconditioning": "cm.diffusion.preconditioning",
    "resizer": "cm.evaluation.resizers",
    "sampler": "cm.diffusion.samplers",
    "solver": "cm.diffusion.solvers",
    "time-pairs": "cm.diffusion.time_pairs",
    "times": "cm.diffusion.times",
    "tracker": "cm.training.trackers",
    "weighting": "cm.diffusion.weightings",
    "weights": "cm.evaluation.pretrained",
}
T = TypeVar("T")
_components: dict[str, dict[str, Any]] = {kind: {} for kind in HOMES}


def register(kind: str, name: str) -> Callable[[T], T]:
    """Return a decorator that registers a component of `kind` as `name`.

    The decorator raises ValueError if another component has that name already.
    """

    def decorate(component: T) -> T:
        if _identity(_components[kind].get(name, component)) != _identity(component):
            raise ValueError(f"two components claim the {kind} '{name}'")
        _components[kind][name] = component
        return component

    return decorate


def _identity(component: Any) -> Any:
    """The qualified name of a function or class, which stays the same if its module is imported twice; else itself."""
    return getattr(component, "__qualname__", component)


def name(kind: str, component: Any) -> str:
    """The name under which a function, or the class of an instance, is registered as a component of `kind`.

    Raises ValueError if it is not registered.
    """
    identity = _identity(component if hasattr(component, "__qualname__") else type(component))
    for name, candidate in components(kind).items():
        if _identity(candidate) == identity:
            return name
    raise ValueError(f"{component} is no registered {kind}")


def get(kind: str, name: str, where: str = "") -> Any:
    """The component of `kind` called `name`. Raises UserError, with the known names, if there is none."""
    if not isinstance(name, str) or name not in components(kind):
        raise unknown(kind, name, components(kind), where)
    return components(kind)[name]


def names(kind: str) -> list[str]:
    """The names of all components of `kind`, sorted."""
    return sorted(components(kind))


def components(kind: str) -> dict[str, Any]:
    """All components of `kind` by name."""
    _import_home(HOMES[kind])
    return _components[kind]


@functools.cache
def _import_home(home: str) -> None:
    """Import a module and, if it is a package, the modules directly in it."""
    module = importlib.import_module(home)
    for info in pkgutil.iter_modules(getattr(module, "__path__", [])):
        if not info.ispkg:
            importlib.import_module(f"{home}.{info.name}")
