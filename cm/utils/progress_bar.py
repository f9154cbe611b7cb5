"""Progress of long computations: a bar on a terminal, a plain line now and then in a log."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm


class ProgressBar:
    """Counts from `start` to `total` and shows the rate and the time left on standard error.

    `title`: what is computed. `unit`: what is counted. `lines`: how many lines at most are printed where standard
    error is not a terminal. `shown`: whether anything is shown.
    """

    def __init__(
        self, title: str, total: float, *, start: float = 0, unit: str = "it", lines: int = 10, shown: bool = True
    ) -> None:
        self._title, self._total, self.done, self._start, self._unit = title, total, start, start, unit
        self._interval, self._start_time = max(1, total // lines), time.monotonic()
        self._shown = shown
        on_terminal = shown and sys.stderr.isatty()
        self._bar = tqdm(total=total, initial=start, desc=title, unit=unit) if on_terminal else None

    def update(self, count: float = 1, **values: float) -> None:
        """Count `count` more; `values`, such as the loss, are shown beside the progress."""
        before, self.done = self.done, self.done + count
        if self._bar is not None:
            self._bar.set_postfix({name: f"{value:.4g}" for name, value in values.items()}, refresh=False)
            self._bar.update(count)
        elif self._shown and (before // self._interval != self.done // self._interval or self.done == self._total):
            self._print(values)

    def close(self) -> None:
        """Leave the bar on the terminal as it is."""
        if self._bar is not None:
            self._bar.close()

    def _print(self, values: dict[str, float]) -> None:
        rate = (self.done - self._start) / max(time.monotonic() - self._start_time, 1e-9)
        left = format_duration((self._total - self.done) / rate)
        shown = "".join(f"  {name} {value:.4g}" for name, value in values.items())
        line = f"{self._title}  {self.done:.0f}/{self._total:.0f}{shown}  {rate:.1f} {self._unit}/s  {left} left"
        print(line, file=sys.stderr, flush=True)


def format_duration(seconds: float) -> str:
    """`00:01:12`, and `2 d 03:00:00` from a day on."""
    days, rest = divmod(int(seconds), 86_400)
    clock = time.strftime("%H:%M:%S", time.gmtime(rest))
    return f"{days} d {clock}" if days else clock
