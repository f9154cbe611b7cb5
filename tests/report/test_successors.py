"""Artefacts that are not in the paper say so, and whose published numbers they show."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from faked import demo, fake, read_rows

from cm import config, report
from cm.errors import UserError
from cm.report import figures, published

ENTRIES = """
    seeds: [0]
    entries: [{method: ct, samplers: [onestep], label: iCT}]
"""
SUITE = f"""
  outside:
    kind: comparison
    caption: Successors of the paper.
    paper: false
    published: {{table: successors, dataset: cifar10}}{ENTRIES}
  outside_curves:
    kind: curves
    caption: Successors over training.
    paper: false{ENTRIES}
  outside_samples:
    kind: samples
    caption: Samples of successors.
    paper: false{ENTRIES}
"""
NOT_IN_THE_PAPER = "Not in the paper (Song et al. 2023)."


def load(folder: Path, artefacts: str) -> config.Suite:
    """The demo suite with further artefacts."""
    return demo(folder / "s.yaml", lambda text: text.replace("\nablations:", f"{artefacts}\nablations:"))


@pytest.fixture
def rows(monkeypatch, tmp_path) -> None:
    """Published numbers of the paper and of its successors."""
    with open(published.FILE, newline="") as file:
        known = [row for row in csv.DictReader(file) if row["table"] != "successors"]
    added = {"table": "successors", "dataset": "cifar10", "group": "consistency training", "nfe": 1, "fid": "2.83"}
    added |= {"method": "iCT", "note": "Song and Dhariwal 2023"}
    path = tmp_path / "published.csv"
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(known[0]))
        writer.writeheader()
        writer.writerows([*known, added])
    monkeypatch.setattr(published, "FILE", path)


@pytest.fixture
def suite(rows, tmp_path) -> config.Suite:
    return load(tmp_path, SUITE)


@pytest.fixture
def results(suite, tmp_path):
    return fake(suite, tmp_path / "results")


def test_a_table_says_that_it_is_not_in_the_paper_and_whose_numbers_it_shows(suite, results, tmp_path):
    report.draw(suite, "outside", results, tmp_path)
    text = (tmp_path / "tables/outside.md").read_text()
    assert text.startswith(f"Successors of the paper. {NOT_IN_THE_PAPER}\n")
    note = "Published numbers are those of the successors' papers as listed, for other data and another extractor."
    assert note in text
    row = next(row for row in read_rows(tmp_path / "tables/outside.csv") if row["Method"] == "iCT")
    assert row["published FID, CIFAR-10, Inception"] == "2.83"
    assert row["source of the published numbers"] == "Song and Dhariwal 2023"
    assert row["group"] == "consistency training"
    assert not any("in the paper" in heading for heading in row)


def test_figures_say_that_they_are_not_in_the_paper(suite, results, tmp_path):
    for name in ("outside_curves", "outside_samples"):
        report.draw(suite, name, results, tmp_path)
        assert f"{suite.find(name).caption} {NOT_IN_THE_PAPER}" in (tmp_path / f"figures/{name}.svg").read_text()
    assert NOT_IN_THE_PAPER in figures.curves(suite, suite.find("outside_curves"), results).get_supxlabel()


def test_artefacts_of_the_paper_say_nothing_of_it(suite, results, tmp_path):
    assert report.caption(suite.find("fig3a")) == suite.find("fig3a").caption
    report.draw(suite, "table1", results, tmp_path)
    text = (tmp_path / "tables/table1.md").read_text()
    assert "Not in the paper" not in text
    assert "Published numbers are those of the paper (Song et al. 2023), for other data and another extractor." in text


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("{table: table9, dataset: cifar10}", "unknown table 'table9'; known: successors, table1, table2"),
        ("{table: successors, dataset: imagenet64}", "successors has no published numbers of imagenet64"),
    ],
)
def test_unknown_published_numbers_are_refused(rows, tmp_path, wanted, message):
    artefacts = SUITE.replace("{table: successors, dataset: cifar10}", wanted)
    with pytest.raises(UserError, match=f"^artefact outside.*: {message}"):
        load(tmp_path, artefacts)
