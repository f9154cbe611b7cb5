"""Tables as Markdown: text from a suite stays text."""

from __future__ import annotations

import pytest

from cm.report import writing

HOSTILE = (
    "<script>x</script>",
    "<img src=x onerror=y>",
    "[text](javascript:x)",
    "![picture](https://x)",
    "a | b ~~c~~",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_text_of_a_suite_is_no_markup(text, tmp_path):
    frame = writing.table([{"FID": 2.0, text: text}], [text])
    writing.save(frame, tmp_path / "t", text)
    markdown = (tmp_path / "t.md").read_text()
    for mark in ("<", "~"):
        assert markdown.count(mark) == markdown.count(f"\\{mark}")
    assert "](" not in markdown
    assert markdown.splitlines()[0].replace("\\", "") == text


def test_plain_captions_are_not_changed(tmp_path):
    caption = "FID [low, high] of N = 18 (the paper's 50,000 samples), x_t and mu."
    writing.save(writing.table([{"FID": 2.0}], []), tmp_path / "t", caption)
    assert (tmp_path / "t.md").read_text().splitlines()[0] == caption
