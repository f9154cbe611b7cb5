"""What a training does when it is asked to end: it saves its state after the current step, and then leaves or goes on.

SIGINT (Ctrl-C), SIGTERM and SIGHUP save and leave. SIGUSR1 saves and goes on. A training that `continue_on_sigterm`
describes goes on after SIGTERM as well: Slurm sends it some time before it kills a job, which may use that time.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from types import FrameType

LEAVING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
HANDLED = (*LEAVING, signal.SIGUSR1)

Handler = Callable[[int, FrameType | None], object] | int | None


@contextlib.contextmanager
def handle_signals(numbers: Iterable[int], handler: Handler) -> Iterator[None]:
    """A context with this handler of the signals; only the main thread can enter it."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


class Signals:
    """The signals that came, until the training has done what they ask for."""

    def __init__(self, *, continue_on_sigterm: bool = False) -> None:
        self._continue_on_sigterm = continue_on_sigterm
        self._save, self._leave = False, None  # type: bool, signal.Signals | None

    @contextlib.contextmanager
    def handle(self) -> Iterator[None]:
        """A context in which the signals are remembered instead of ending the process.

        Only the main thread can do so: in another one nothing changes. Signals that the process ignores, as `nohup`
        makes it do, stay ignored. A second Ctrl-C raises KeyboardInterrupt at once. A signal that nobody asked for
        until the end of the context has its usual effect then.
        """
        can_handle = threading.current_thread() is threading.main_thread()
        numbers = [number for number in HANDLED if signal.getsignal(number) not in (signal.SIG_IGN, None)]
        with handle_signals(numbers if can_handle else (), self._receive):
            yield
        if self._leave is not None:
            signal.raise_signal(self._leave)

    @property
    def save(self) -> bool:
        """Whether the state is to be saved now."""
        return self._save or self.leave

    @property
    def leave(self) -> bool:
        """Whether the training is to leave when the state is saved."""
        return self._leave is not None

    def clear(self) -> signal.Signals | None:
        """Forget the wish to save, since the state is saved; returns the signal that asks for the end, if any.

        That wish stays: it may have come while the state was being saved, after the training asked for it.
        """
        self._save = False
        return self._leave

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._leave == signal.SIGINT:
            raise KeyboardInterrupt
        self._save = True
        if number in LEAVING and not (number == signal.SIGTERM and self._continue_on_sigterm):
            self._leave = signal.Signals(number)
