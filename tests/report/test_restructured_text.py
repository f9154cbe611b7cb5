"""A caption is text: nothing in it is markup of the report."""

from __future__ import annotations

import html
import random
import re

import pytest
from docutils.core import publish_parts

from cm.report.restructured_text import escape

CHARACTERS = "a1 _*`|[]()<>:.-\\=#\n\t'\"{}@/+~^$&;,!?\u2022\u00a0\u2028\x00"


def render(text: str) -> str:
    """The body of a page, as Snakemake makes it of a caption."""
    return publish_parts(escape(text) + "\n\n.. _link: place\n", writer="html")["body"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (".. raw:: html\n\n   <script>alert(1)</script>", ".. raw:: html <script>alert(1)</script>"),
        ("x\n\n.. csv-table::\n   :file: secret.csv", "x .. csv-table:: :file: secret.csv"),
        ("*a* `b` |c| [1]_ link_ http://a.b :math:`x`", "*a* `b` |c| [1]_ link_ http://a.b :math:`x`"),
        ("* item", "* item"),
        ("Title\n=====", "Title ====="),
        ("\x00 a\x00b", "ab"),
        ("Figure 3a, N = 2 \u00d7 4: \u03bc(k) \u2192 1", "Figure 3a, N = 2 \u00d7 4: \u03bc(k) \u2192 1"),
    ],
)
def test_markup_is_shown_as_it_is_written(text, shown):
    assert render(text).strip() == f"<p>{html.escape(shown)}</p>"


def test_any_text_is_one_paragraph_of_its_words():
    choice = random.Random(0)
    for _ in range(300):
        text = "".join(choice.choices(CHARACTERS, k=choice.randint(1, 40)))
        paragraph = re.fullmatch(r"\s*(?:<p>(.*)</p>)?\s*", render(text), re.DOTALL)
        assert paragraph, text
        assert html.unescape(paragraph[1] or "").split() == text.replace("\x00", "").split()
