"""Which URLs are fetched."""

from __future__ import annotations

import re
import urllib.parse

from cm.errors import UserError


def check_url(url: str, schemes: tuple[str, ...] = ("http", "https")) -> None:
    """Raises UserError for a URL of another scheme, and for one with credentials or with characters that no URL has."""
    if re.search(r"[^!-~]", url):
        raise UserError(f"{url!r} is no URL: spaces, control characters and the like must be percent-encoded")
    try:
        parts = urllib.parse.urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise UserError(f"{url} is no URL: {error}") from None
    if parts.scheme not in schemes or not host:
        known = " or ".join(f"{scheme}://" for scheme in schemes)
        raise UserError(f"{url} cannot be fetched: its URL must begin with {known} and name a host")
    if "@" in parts.netloc:
        raise UserError(f"a URL of {host} has credentials in it, which would be written to logs: remove them")
