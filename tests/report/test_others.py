"""Tables that show the results of others: marked, never averaged with ours, and refused if they do not compare."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from faked import FD, demo, fake, read_rows
from refusals import refusal

import cm
from cm import config, report
from cm.report import result_files

ARTEFACT = """
  shared:
    kind: comparison
    caption: Ours and those of another group.
    options: {{others: [{file}]}}
    entries: [{{method: cd, samplers: [onestep], label: CD}}]
"""


def load(folder: Path, file: object) -> config.Suite:
    """The demo suite with an artefact that shows a file of others."""
    artefact = ARTEFACT.format(file=file)
    return demo(folder / "s.yaml", lambda text: text.replace("\nablations:", f"{artefact}\nablations:"))


@pytest.fixture
def theirs(tmp_path) -> Path:
    """The table of another group, which ran CD of the same suite with FD larger by 10."""
    suite = demo(tmp_path / "t.yaml", lambda text: text)
    results = fake(suite, tmp_path / "theirs", lambda cell: 12.0 + cell.run.seed)
    frame = cm.results(results, origin="lab A")
    path = tmp_path / "lab_a.csv"
    chosen = frame[(frame.method == "cd") & (frame.variant == "default") & (frame.sampler == "onestep")]
    result_files.write(chosen, path)
    return path


def alter(path: Path, **changes: str) -> None:
    """Change a column of a table."""
    frame = cm.results(path, mixed=True)
    for name, value in changes.items():
        frame[name] = value
    result_files.write(frame, path)


@pytest.fixture
def ours(theirs, tmp_path) -> tuple[config.Suite, Path]:
    suite = load(tmp_path, theirs)
    return suite, fake(suite, tmp_path / "results")


def test_their_rows_are_marked_and_ours_stay_as_they_are(ours, theirs, tmp_path):
    suite, results = ours
    report.draw(suite, "shared", results, tmp_path)
    rows = {row["Method"]: row for row in read_rows(tmp_path / "tables/shared.csv")}
    assert list(rows)[2:] == ["CD", "CD, onestep (a)"]
    assert float(rows["CD"][FD]) == pytest.approx(3.8) and rows["CD"]["seeds"] == "3"
    assert float(rows["CD, onestep (a)"][FD]) == pytest.approx(13.0) and rows["CD, onestep (a)"]["seeds"] == "3"
    text = (tmp_path / "tables/shared.md").read_text()
    assert f"(a) Results of others, not averaged with ours: lab A, from {theirs}, commit abc123." in text


def test_every_origin_has_a_mark_of_its_own(ours, theirs, tmp_path):
    suite, results = ours
    frame = cm.results(theirs)
    frame.loc[frame.seed > 0, "origin"] = "lab B"
    result_files.write(frame, theirs)
    report.draw(suite, "shared", results, tmp_path)
    rows = {row["Method"]: row for row in read_rows(tmp_path / "tables/shared.csv")}
    assert (rows["CD, onestep (a)"]["seeds"], rows["CD, onestep (b)"]["seeds"]) == ("1", "2")


def test_a_metric_that_they_do_not_state_is_unavailable(ours, theirs, tmp_path):
    suite, results = ours
    result_files.write(cm.results(theirs).drop(columns="recall"), theirs)
    report.draw(suite, "shared", results, tmp_path)
    row = next(row for row in read_rows(tmp_path / "tables/shared.csv") if row["Method"].endswith("(a)"))
    assert row["recall, digits, classifier features"] == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"protocol": "clean", "resizer": "clean", "protocol_digest": "0"},
            "its scores are by protocol clean, resizer clean; expected protocol offline, resizer none",
        ),
        ({"protocol_digest": ""}, "its scores are by protocol offline, protocol_digest none; expected"),
        ({"samples": 10}, "10 samples, not 2000 as in "),
        ({"dataset": "cifar10"}, "has no scores of digits that it could show"),
        ({"progress": 50}, "has no scores of digits that it could show"),
    ],
)
def test_what_does_not_compare_is_refused(ours, theirs, tmp_path, changes, message):
    suite, results = ours
    alter(theirs, **changes)
    line = refusal(report.draw, suite, "shared", results, tmp_path)
    assert line.startswith(f"artefact shared: {theirs} ") and message in line
    assert not (tmp_path / "tables").exists()


def test_one_seed_twice_is_refused(ours, theirs, tmp_path):
    suite, results = ours
    alter(theirs, seed=0)
    assert refusal(report.draw, suite, "shared", results, tmp_path).endswith(
        "has two scores of CD, onestep, seed 0, NFE 1"
    )


def test_published_numbers_are_no_results_of_others(ours, theirs, tmp_path):
    suite, results = ours
    frame = cm.published("table1")
    frame["dataset"] = "digits"
    result_files.write(frame, theirs)
    assert "its scores are by protocol none" in refusal(report.draw, suite, "shared", results, tmp_path)


@pytest.mark.parametrize(
    ("file", "message"),
    [("a.json", "artefact shared, others: a.json must end in .csv or .parquet"), ("{a: 1}", "others")],
)
def test_other_files_are_refused_when_the_suite_is_read(tmp_path, file, message):
    assert message in refusal(load, tmp_path, file)


def test_a_missing_file_is_one_line(ours, theirs, tmp_path):
    suite, results = ours
    theirs.unlink()
    assert refusal(report.draw, suite, "shared", results, tmp_path) == f"no file {theirs}"


def test_hostile_words_are_escaped(ours, theirs, tmp_path):
    suite, results = ours
    alter(theirs, origin="a | b ~ $x$", method="<b>")
    report.draw(suite, "shared", results, tmp_path)
    text = (tmp_path / "tables/shared.md").read_text()
    assert "a \\| b \\~ $x$" in text and "\\<B>, onestep (a)" in text
    assert "\\$x\\$" in (tmp_path / "tables/shared.tex").read_text()
    assert json.dumps(read_rows(tmp_path / "tables/shared.csv"))
