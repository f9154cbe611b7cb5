"""Text as reStructuredText, the language of the captions in Snakemake's report."""

from __future__ import annotations

import re


def escape(text: str) -> str:
    """The text as one paragraph of reStructuredText without markup.

    Each run of white space becomes one space, so that no line begins a directive or a list, characters that cannot be
    printed are left out, and all but letters, digits and spaces stands behind a backslash, which makes it literal.
    """
    printable = "".join(c for c in text if c.isprintable() or c.isspace())
    return re.sub(r"([^\w\s]|_)", r"\\\1", " ".join(printable.split()))
