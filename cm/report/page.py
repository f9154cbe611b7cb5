"""The report of a suite as one HTML page that needs no network: everything that it shows is part of the file.

The page runs only its own script and loads only what it contains: its content security policy names the digests of the
script and of the style, so that text from a caption or a score could not run even if it were not escaped.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cm import __version__
from cm.report.page_artefacts import Section, collect_sections
from cm.report.page_summary import Fact, summarize
from cm.report.verdicts import VERDICTS

if TYPE_CHECKING:
    from cm.config import Suite
    from cm.config.layout import Layout

HERE = Path(__file__).parent


def write_page(suite: Suite, path: Path, layout: Layout, out: Path, workflow_report: str = "") -> None:
    """Write the page of a suite that was read from the file `path`.

    `workflow_report`: the address of Snakemake's own report, as seen from the page. Raises UserError for a file of the
    suite that is damaged; for those that do not exist, the page says so.
    """
    from cm.utils.files import replace_file

    text = render(
        suite=suite.name,
        facts=summarize(suite, path, Path(layout.results)),
        sections=collect_sections(suite, layout),
        workflow_report=workflow_report,
    )
    with replace_file(out) as temporary:
        temporary.write_text(text, encoding="utf-8")


def render(*, suite: str, facts: Sequence[Fact], sections: Sequence[Section], workflow_report: str) -> str:
    """The HTML of a page. All values are escaped."""
    import jinja2
    from markupsafe import Markup

    from cm.utils import provenance

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return environment.get_template("page.html").render(
        suite=suite,
        facts=facts,
        sections=sections,
        workflow_report=workflow_report,
        cards=list(itertools.chain.from_iterable(section.cards for section in sections)),
        version=__version__,
        commit=provenance.commit(),
        style=Markup(style),
        script=Markup(script),
        style_digest=_digest(style),
        script_digest=_digest(script),
        verdicts=VERDICTS,
    )


def _digest(text: str) -> str:
    """The digest of a style or a script, as a content security policy names it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
