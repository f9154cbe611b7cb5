"""Hostile input may only work or be refused in one line, soon."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator

from cm.errors import UserError

SECONDS = 10  # a hang is a failure


@contextlib.contextmanager
def time_limit(seconds: float = SECONDS) -> Iterator[None]:
    """A context in which the test fails if the block takes longer."""

    def stop(*_: object) -> None:
        raise AssertionError(f"it took more than {seconds} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def outcome(function: Callable[..., object], *arguments: object, **named: object) -> str:
    """The line with which a call is refused, empty if it works; any other exception is the test's."""
    try:
        with time_limit():
            function(*arguments, **named)
    except UserError as error:
        message = str(error)
        assert message and message.isprintable() and len(message) < 3000, repr(message)
        return message
    return ""


def refusal(function: Callable[..., object], *arguments: object, **named: object) -> str:
    """The line with which a call is refused, which it must be."""
    message = outcome(function, *arguments, **named)
    assert message, "it was not refused"
    return message
