"""Differences between paired runs, figures of nearest training images, and scores of several blocks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from faked import FD, NEAREST, content, demo, fake, read_rows, write

from cm import report
from cm.errors import UserError
from cm.report import memorization, scores
from cm.report.inference import mean_interval

ENTRIES = """
    entries:
      - {method: ct, vary: {mu_exponent: [paper, code]}, label: exponent}
      - {method: cd, vary: {steps: [18, 9, 36]}, label: N}
"""
SUITE = f"""
dataset: digits
seeds: [0, 1, 2]
artefacts:
  changes:
    kind: differences
    paper: false
    caption: Changes.
{ENTRIES}
"""
EFFECTS = {"mu_exponent~code": (0.3, 0.5, 0.7), "steps~9": (-0.1, 0.0, 0.1), "steps~36": (1.0, 1.0, 1.0)}


def fid(cell) -> float:
    """Far apart between seeds, with an effect of the settings that is not."""
    return 5.0 + 3 * cell.run.seed + EFFECTS.get(cell.run.variant, (0.0,) * 3)[cell.run.seed]


@pytest.fixture
def suite(tmp_path):
    return demo(tmp_path / "suite.yaml", lambda _: SUITE)


def test_differences_are_of_the_same_seeds(suite, tmp_path):
    report.draw(suite, "changes", fake(suite, tmp_path / "results", fid), tmp_path)
    rows = read_rows(tmp_path / "tables/changes.csv")
    assert [(row["difference"], row["reference"], row["changed"]) for row in rows] == [
        ("exponent", "mu_exponent paper", "mu_exponent code"),
        ("N", "steps 18", "steps 9"),
        ("N", "steps 18", "steps 36"),
    ]
    for row, effects in zip(rows, EFFECTS.values(), strict=True):
        half = 4.302653 * np.std(effects, ddof=1) / math.sqrt(3)  # Student's t with 2 degrees of freedom
        assert float(row["change"]) == pytest.approx(np.mean(effects), abs=1e-9)
        assert float(row["change, low"]) == pytest.approx(np.mean(effects) - half, abs=1e-6)
        assert float(row["change, high"]) == pytest.approx(np.mean(effects) + half, abs=1e-6)
        assert float(row["change (%)"]) == pytest.approx(100 * np.mean(effects) / 8.0, abs=1e-9)
        assert float(row[f"{FD}, reference"]) == pytest.approx(8.0)
        assert row["seeds"] == "3"
    text = (tmp_path / "tables/changes.md").read_text()
    assert "95 % interval of the mean difference between runs of the same seed" in text
    assert "0.500 [0.003, 0.997]" in text
    assert (tmp_path / "figures/changes.svg").stat().st_size > 1000


def test_a_single_seed_has_no_interval(tmp_path):
    suite = demo(tmp_path / "suite.yaml", lambda _: SUITE.replace("[0, 1, 2]", "[0]"))
    report.draw(suite, "changes", fake(suite, tmp_path / "results", fid), tmp_path)
    (first, *_) = read_rows(tmp_path / "tables/changes.csv")
    assert "change, low" not in first
    assert "interval" not in (tmp_path / "tables/changes.md").read_text()
    assert mean_interval([1.0]) is None


@pytest.mark.parametrize("label", ["label: N}", "}"])
def test_differences_need_labels_of_their_own(tmp_path, label):
    with pytest.raises(UserError, match="artefact changes: each entry needs a label of its own"):
        demo(tmp_path / "suite.yaml", lambda _: SUITE.replace("label: exponent}", label))


def test_a_difference_needs_two_settings(tmp_path):
    suite = demo(tmp_path / "suite.yaml", lambda _: SUITE.replace("[paper, code]", "[code]"))
    with pytest.raises(UserError, match="artefact changes: 'exponent' has one setting, so nothing to compare it with"):
        report.draw(suite, "changes", fake(suite, tmp_path / "results", fid), tmp_path)


# ---- nearest training images ----------------------------------------------------------------------------------------

PAIRS = """
dataset: digits
artefacts:
  pairs: {kind: memorization, caption: Pairs., paper: false, options: {columns: 3}, entries: [{method: cd, label: CD}]}
  table: {kind: comparison, caption: Scores., paper: false, entries: [{method: cd, label: CD}]}
"""


@pytest.fixture
def pairs(tmp_path):
    suite = demo(tmp_path / "suite.yaml", lambda _: PAIRS)
    return suite, fake(suite, tmp_path / "results")


def test_the_samples_most_like_copies_come_first(pairs, tmp_path):
    suite, root = pairs
    (cell,) = suite.cells(suite.find("pairs"))
    score = scores.read(cell, root)
    assert memorization._choose(score, 3).tolist() == [32, 31, 33]
    report.draw(suite, "pairs", root, tmp_path)
    assert "0.50 to 1.00" in (tmp_path / "figures/pairs.svg").read_text() or (tmp_path / "figures/pairs.png").is_file()


@pytest.mark.parametrize(
    ("nearest", "message"),
    [
        ({}, "has no nearest images: score it by a protocol with the metric authenticity"),
        ({**NEAREST, "places": [900] * 64}, "has 64 images, but"),
        ({**NEAREST, "places": [0]}, "its places, distances and spacings are not of equally many samples"),
        ({**NEAREST, "places": [-1] * 64}, "must be at least 0"),
        ({**NEAREST, "distances": ["x"] * 64}, "distances"),
        ({"places": [0]}, "distances"),
    ],
)
def test_bad_nearest_images_are_refused(pairs, tmp_path, nearest, message):
    suite, root = pairs
    (cell,) = suite.cells(suite.find("pairs"))
    about = {"run": cell.run.name, "sampler": cell.sampler, "nfe": 1, "nearest": nearest}
    write(scores.score_path(cell, root), content(2.0, **about))
    with pytest.raises(UserError, match=message):
        report.draw(suite, "pairs", root, tmp_path)


# ---- blocks ---------------------------------------------------------------------------------------------------------


def blocks_of(fids) -> list[dict]:
    return [content(value)["metrics"] for value in fids]


def test_the_minimum_over_blocks_stands_beside_mean_and_deviation(pairs, tmp_path):
    suite, root = pairs
    (cell,) = suite.cells(suite.find("table"))
    about = {"run": cell.run.name, "sampler": cell.sampler, "nfe": 1, "uncertainty": {}}
    write(scores.score_path(cell, root), content(2.0, **about, blocks=blocks_of((2.1, 1.7, 2.2))))
    report.draw(suite, "table", root, tmp_path)
    row = read_rows(tmp_path / "tables/table.csv")[-1]
    assert float(row[FD]) == pytest.approx(2.0)
    assert float(row[f"{FD}, std"]) == pytest.approx(np.std((2.1, 1.7, 2.2), ddof=1))
    assert float(row[f"{FD}, minimum of 3 blocks"]) == 1.7
    text = (tmp_path / "tables/table.md").read_text()
    assert "which EDM reports (Karras et al. 2022)" in text
    assert "± is the standard deviation over blocks" in text


@pytest.mark.parametrize("block", [{"fid": 1.0}, {**content(1.0)["metrics"], "fid": -1.0}])
def test_bad_blocks_are_refused(pairs, tmp_path, block):
    suite, root = pairs
    (cell,) = suite.cells(suite.find("table"))
    about = {"run": cell.run.name, "sampler": cell.sampler, "nfe": 1}
    write(scores.score_path(cell, root), content(2.0, **about, blocks=[block]))
    with pytest.raises(UserError, match=r"a block has the metrics|must be at least 0"):
        report.draw(suite, "table", root, tmp_path)
