"""Progress of long work: a bar on a terminal, a plain line now and then in a log."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm


class ProgressBar:
    """Counts from `start` to `total`; `update` shows rate, time left and a figure of merit such as the loss."""

    def __init__(self, what: str, total: float, *, start: float = 0, unit: str = "it", lines: int = 10) -> None:
        self._what, self._total, self.done, self._start, self._unit = what, total, start, start, unit
        self._every, self._began = max(1, total // lines), time.monotonic()
        self._bar = tqdm(total=total, initial=start, desc=what, unit=unit) if sys.stderr.isatty() else None

    def update(self, count: float = 1, **figures: float) -> None:
        """`count` more are done."""
        before, self.done = self.done, self.done + count
        if self._bar is not None:
            self._bar.set_postfix({name: f"{value:.4g}" for name, value in figures.items()}, refresh=False)
            self._bar.update(count)
        elif before // self._every != self.done // self._every or self.done == self._total:
            self._print(figures)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()

    def _print(self, figures: dict[str, float]) -> None:
        rate = (self.done - self._start) / max(time.monotonic() - self._began, 1e-9)
        left = time.strftime("%H:%M:%S", time.gmtime((self._total - self.done) / rate))
        shown = "".join(f"  {name} {value:.4g}" for name, value in figures.items())
        line = f"{self._what}  {self.done:.0f}/{self._total:.0f}{shown}  {rate:.1f} {self._unit}/s  {left} left"
        print(line, file=sys.stderr, flush=True)
