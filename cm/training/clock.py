"""How long a training takes, over all its starts."""

from __future__ import annotations

import time
from collections.abc import Mapping


class Clock:
    """Counts the seconds of a training from where an earlier start of it stopped.

    `wall`: the time that passed. `processor`: the time that the processor's cores worked for it together, which other
    processes on the machine do not change much.
    """

    def __init__(self) -> None:
        self._before = {"wall": 0.0, "processor": 0.0}
        self._start = _now()

    def resume(self, before: Mapping[str, float]) -> None:
        """Count on from the seconds that an earlier start had counted when it saved its state."""
        self._before, self._start = dict(before), _now()

    def seconds(self) -> dict[str, float]:
        """The seconds so far, `wall` and `processor`."""
        now = _now()
        return {name: round(self._before[name] + now[name] - self._start[name], 3) for name in now}


def _now() -> dict[str, float]:
    return {"wall": time.monotonic(), "processor": time.process_time()}
