"""Names that become parts of paths and of command lines, and templates that name settings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cm.errors import UserError

NAME = re.compile(r"[A-Za-z0-9_+~,][A-Za-z0-9._+~,-]*")
LONGEST_NAME = 200  # characters: a file of that name can have a suffix and a temporary prefix
_BRACES = re.compile(r"\{([^{}]*)\}|[{}]")


def check_name(name: object, what: str, where: str = "") -> str:
    """The name itself, if it can be a part of a path and of a command line.

    `what`: what it names, such as `artefact`. Raises UserError, which `where` precedes, for anything else.
    """
    place = f"{where}: " if where else ""
    if not isinstance(name, str):
        raise UserError(f"{place}the name of a {what} must be text, not {name!r}")
    if not NAME.fullmatch(name):
        allowed = "letters, digits and . _ - + ~ , and does not start with . or -"
        raise UserError(f"{place}'{name}' cannot be the name of a {what}, which has only {allowed}")
    if len(name) > LONGEST_NAME:
        raise UserError(f"{place}the name of a {what} has at most {LONGEST_NAME} characters, not {len(name)}: '{name}'")
    return name


def fill_template(template: str, settings: Mapping[str, Any], where: str) -> str:
    """The template with each `{setting}` replaced by the value of that setting, as text.

    `CD, N {steps}` becomes `CD, N 18`. Nothing but names is understood between braces. Raises UserError, which names
    `where`, for a name that is no setting.
    """

    def replace(match: re.Match[str]) -> str:
        if match[1] not in settings:
            shown = f"'{match[1]}'" if match[1] else "nothing"
            raise UserError(f"{where}: '{template}' names {shown} in braces, which is no setting of the run")
        return str(settings[match[1]])

    return _BRACES.sub(replace, template)
