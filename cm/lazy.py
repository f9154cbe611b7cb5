"""The module `torch`, imported when it is first used.

The workflow reads solvers, distances, methods and network descriptions at every start, for their names and settings.
They write `from cm.lazy import torch`, so that reading them does not take the seconds that importing torch takes.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any


class _LazyModule:
    """Stands for a module and imports it at the first access to one of its attributes."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)


if TYPE_CHECKING:
    import torch
else:
    torch = _LazyModule("torch")

__all__ = ["torch"]
