"""The one exception that a user may see: a single line that names the offender, what was expected and what is known."""

from __future__ import annotations

from collections.abc import Iterable


class UserError(Exception):
    """A mistake of the user. The command line prints its message and exits with status 2, without a traceback."""


def unknown(what: str, name: object, known: Iterable[object], where: str = "") -> UserError:
    """Return the error for an unknown name.

    `unknown("solver", "hune", ["euler", "heun"])` says "unknown solver 'hune'; known: euler, heun". `where` precedes
    the message, followed by a colon.
    """
    place = f"{where}: " if where else ""
    return UserError(f"{place}unknown {what} '{name}'; known: {', '.join(sorted(map(str, known))) or 'none'}")
