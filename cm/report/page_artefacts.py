"""The tables and figures of a suite as cards of the page, in sections by kind; those that are not drawn say so."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cm import registry, report
from cm.report.page_tables import Table, read_table
from cm.report.pictures import name_samples

if TYPE_CHECKING:
    from cm.config import Artefact, Cell, Suite
    from cm.config.layout import Layout

SAMPLES = "Samples"
# The kinds of each section, in the order of the page. A kind that no section names is in the last one.
SECTIONS = {
    "Verdicts": ("claims",),
    "Measured beside published": ("comparison",),
    "Quality against sampling cost": ("sampling_steps", "quality", "compute", "time_search"),
    SAMPLES: ("samples", "grids", "memorization"),
    "Editing": ("edits", "editing"),
    "Course of training": ("curves", "losses"),
    "Ablations and differences": ("ablation", "differences"),
    "Cost": ("costs", "timings"),
    "Hyper-parameters": ("recipes", "runs"),
}
REST = "Further tables and figures"
TABLE_FILES = {".csv": "CSV", ".md": "Markdown", ".tex": "LaTeX"}
FIGURE_FILES = {".svg": "SVG", ".png": "PNG"}
FORMS = {**TABLE_FILES, **FIGURE_FILES}
MEDIA_TYPES = {
    ".csv": "text/csv",
    ".md": "text/markdown",
    ".tex": "application/x-tex",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
PAPER = "Song et al. 2023"
IN_THE_PAPER = re.compile(r"(table|fig)(\d+[a-z]?)(?:_(.+))?")


@dataclass(frozen=True)
class File:
    """A file that is part of the page: its name, that of its format, and its contents as a data URI."""

    name: str
    form: str
    uri: str


@dataclass(frozen=True)
class Card:
    """An artefact on the page.

    `source`: where the paper has it, empty for one that it does not have. `picture`: the data URI of the figure, empty
    without one. `missing`: files that do not exist. `words`: what the search box finds it by besides its text.
    """

    name: str
    title: str
    source: str
    caption: str
    table: Table | None
    picture: str
    files: Sequence[File]
    missing: Sequence[str]
    words: str


@dataclass(frozen=True)
class Preview:
    """The first samples of a model through a sampler: a title, the run and sampler, and the picture as a data URI."""

    title: str
    run: str
    picture: str


@dataclass(frozen=True)
class Section:
    """A heading of the page, and the artefacts and previews below it."""

    title: str
    cards: Sequence[Card]
    previews: Sequence[Preview] = ()

    @property
    def anchor(self) -> str:
        """The part of an address that leads to this section."""
        return "section-" + re.sub(r"\W+", "-", self.title.lower())


def collect_sections(suite: Suite, layout: Layout) -> list[Section]:
    """Every artefact of a suite as a card, by section, and previews; sections without any of them are left out."""
    cards: dict[str, list[Card]] = {title: [] for title in (*SECTIONS, REST)}
    for artefact in suite.all_artefacts.values():
        cards[find_section(artefact.kind)].append(read_card(suite, artefact, layout))
    previews = {SAMPLES: collect_previews(suite, layout)}
    sections = [Section(title, found, previews.get(title, ())) for title, found in cards.items()]
    return [section for section in sections if section.cards or section.previews]


def find_section(kind: str) -> str:
    """The title of the section in which the artefacts of a kind stand."""
    return next((title for title, kinds in SECTIONS.items() if kind in kinds), REST)


def read_card(suite: Suite, artefact: Artefact, layout: Layout) -> Card:
    """The card of an artefact, with what has been drawn of it. Raises UserError for a table that is damaged."""
    paths = _list_files(artefact, layout)
    found = [path for path in paths if path.exists()]
    texts = [path for path in found if path.suffix == ".md"]
    return Card(
        name=artefact.name,
        title=make_title(artefact.name),
        source=_find_source(artefact),
        caption=report.caption(artefact),
        table=read_table(texts[0]) if texts else None,
        picture=_show([path for path in found if path.suffix in FIGURE_FILES]),
        files=[File(path.name, FORMS[path.suffix], embed(path)) for path in found],
        missing=[str(path) for path in paths if path not in found],
        words=_list_words(suite, artefact),
    )


def _list_files(artefact: Artefact, layout: Layout) -> list[Path]:
    """The files that drawing an artefact writes."""
    form = registry.get("artefact", artefact.kind).form
    tables = [layout.table(artefact.name, suffix) for suffix in TABLE_FILES]
    figures = [layout.figure(artefact.name, suffix) for suffix in FIGURE_FILES]
    return [Path(path) for path in {"table": tables, "figure": figures, "both": tables + figures}[form]]


def _show(paths: Sequence[Path]) -> str:
    """The figure as a data URI: the drawing, or, if it is made of pixels, the smaller picture; empty without either."""
    drawings = [path for path in paths if path.suffix == ".svg" and b"<image" not in path.read_bytes()]
    shown = drawings or [path for path in paths if path.suffix == ".png"] or paths
    return embed(shown[0]) if shown else ""


def embed(path: Path) -> str:
    """A file as a data URI. Raises UserError for a file that is missing or not a regular one."""
    from cm.utils import files

    files.check_regular(path)
    return f"data:{MEDIA_TYPES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def make_title(name: str) -> str:
    """`Figure 3a` for `fig3a`, `Table 1, cifar10` for `table1_cifar10`, `Training samples` for `training_samples`."""
    found = IN_THE_PAPER.fullmatch(name)
    if not found:
        return name[:1].upper() + name[1:].replace("_", " ")
    title = f"{'Table' if found[1] == 'table' else 'Figure'} {found[2]}"
    return f"{title}, {found[3].replace('_', ' ')}" if found[3] else title


def _find_source(artefact: Artefact) -> str:
    found = IN_THE_PAPER.fullmatch(artefact.name) if artefact.paper else None
    return f"{PAPER}, {make_title(found[1] + found[2])}" if found else ""


def _list_words(suite: Suite, artefact: Artefact) -> str:
    """The kind of an artefact, its labels, runs and samplers, each once."""
    words = {artefact.name: None, artefact.kind: None}
    for cell in suite.cells(artefact):
        words |= dict.fromkeys([cell.label, cell.run.identity.without_seed, cell.sampler, cell.edit])
    return " ".join(filter(None, words))


def collect_previews(suite: Suite, layout: Layout) -> list[Preview]:
    """The previews that exist of the rows of all tables of scores, of the first seed of each table."""
    cells: dict[tuple[str, str, str], Cell] = {}
    for artefact in suite.all_artefacts.values():
        if artefact.kind == "comparison":
            cells |= {cell.samples: cell for cell in suite.cells(artefact) if cell.run.seed == artefact.seeds[0]}
    found = {Path(layout.preview(*samples, suffix=".png")): cell for samples, cell in cells.items()}
    return [
        Preview(name_samples(cell), f"{cell.run.name}, {cell.sampler}", embed(path))
        for path, cell in found.items()
        if path.exists()
    ]
