"""`torch`, imported when it is first used.

The workflow reads solvers, distances, objectives and network descriptions at every start, for their names and fields.
They write `from cm.lazy import torch`, so that reading them does not cost the seconds that importing torch does.
"""

from __future__ import annotations

import importlib
from typing import Any


class _Lazy:
    """Stands for a module; the first attribute that is asked for imports it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)


torch = _Lazy("torch")
