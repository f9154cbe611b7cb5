"""The exceptions that a user may see, each in a single line.

The line of a mistake names the offender, what was expected and what is known.
"""

from __future__ import annotations

from collections.abc import Iterable

LONGEST_MESSAGE = 2000  # characters


class UserError(Exception):
    """A mistake of the user. The command line prints its message and exits with status 2, without a traceback.

    The message is one printable line, whatever the values are that it quotes.
    """

    def __init__(self, message: str) -> None:
        super().__init__(_one_line(message))


def _one_line(message: str) -> str:
    """A message with unprintable characters as escapes, and without the middle of what is very long."""
    if len(message) > LONGEST_MESSAGE:
        half = LONGEST_MESSAGE // 2
        message = f"{message[:half]} ... {message[-half:]}"
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in message)


class Interrupted(BaseException):
    """A signal ended a command, which has saved its state, if it has one. `status`: 128 and the number of the signal.

    The command line prints the message and exits with that status, without a traceback. As with KeyboardInterrupt, no
    handler of errors takes it for one of the work that it interrupts.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def unknown(what: str, name: object, known: Iterable[object], where: str = "") -> UserError:
    """Return the error for an unknown name.

    `unknown("solver", "hune", ["euler", "heun"])` says "unknown solver 'hune'; known: euler, heun". `where` precedes
    the message, followed by a colon.
    """
    place = f"{where}: " if where else ""
    return UserError(f"{place}unknown {what} '{name}'; known: {', '.join(sorted(map(str, known))) or 'none'}")
