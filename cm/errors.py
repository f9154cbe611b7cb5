"""The one exception a user may see: a line that names the offender, what was expected and what is known."""

from __future__ import annotations

from collections.abc import Iterable


class UserError(Exception):
    """A user's mistake. The command line prints its one line and exits with status 2, without a traceback."""


def unknown(what: str, name: object, known: Iterable[object], where: str = "") -> UserError:
    """The error for a name that is not known: `unknown("solver", "hune", ["euler", "heun"])`."""
    place = f"{where}: " if where else ""
    return UserError(f"{place}unknown {what} '{name}'; known: {', '.join(map(str, sorted(known))) or 'none'}")
