"""Verdicts on made-up scores with known answers: orders, similar runs, published numbers, and what decides nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from faked import DEMO, ROOT, fake, read_rows, write
from scipy import stats

from cm import report
from cm.cli import main
from cm.config import load_suite
from cm.errors import UserError
from cm.report import claims, scores

SUITE = """
dataset: digits
seeds: [0, 1, 2]
artefacts:
  table: {kind: comparison, caption: Scores., entries: [{method: ct}, {method: cd, vary: {steps: [18, 9]}}]}
  claims: {kind: claims, caption: Verdicts., paper: false}
"""
CT, CD, NINE = {"method": "ct"}, {"method": "cd"}, {"method": "cd", "settings": {"steps": 9}}
WORDS = {"statement": "A statement.", "source": "Table 1", "suites": ["mine"]}
BETTER = {**WORDS, "runs": CD, "relation": "better", "reference": CT}
SIMILAR = {**BETTER, "relation": "similar", "margin": 0.1}
NUMBER = {"table": "table1", "dataset": "cifar10", "method": "CD", "nfe": 1}  # FID 3.55
EQUAL = {**WORDS, "runs": CD, "relation": "equal", "published": NUMBER}


@pytest.fixture
def made(tmp_path):
    """A function that makes a suite with claims, and scores by the method and the variant of a run, and the seed."""

    def make(claims, values, text=SUITE):
        (tmp_path / "suites").mkdir(exist_ok=True)
        (tmp_path / "suites/mine.yaml").write_text(text)
        (tmp_path / "claims.yaml").write_text(yaml.safe_dump({"claims": claims}, sort_keys=False))
        for name in ("experiments", "protocols"):
            if not (tmp_path / name).exists():
                (tmp_path / name).symlink_to(ROOT / "config" / name)
        suite = load_suite(tmp_path / "suites/mine.yaml")

        def fid(cell):
            return values[cell.run.method, cell.run.variant][cell.run.seed]

        return suite, fake(suite, tmp_path / "results", fid)

    return make


def scores_of(cd, ct=(5.0, 5.0, 5.0), nine=(5.0, 5.0, 5.0)):
    return {("cd", "default"): cd, ("ct", "default"): ct, ("cd", "steps~9"): nine}


def judge(suite, root, **more):
    return claims.judge(suite, suite.find("claims"), root, **more)


APART = (5.0, 8.0, 11.0)  # far apart between seeds


@pytest.mark.parametrize(
    ("claim", "cd", "word", "reason"),
    [
        (BETTER, (4.0, 7.1, 9.9), "holds", "the interval excludes 0"),
        (BETTER, (6.0, 9.1, 11.9), "fails", "the interval excludes 0, in the other direction"),
        (BETTER, (5.5, 7.6, 11.0), "undecided", "the interval contains 0"),
        ({**BETTER, "metrics": ["inception_score"]}, (4.0, 7.1, 9.9), "holds", "the interval excludes 0"),
        ({**BETTER, "metrics": ["inception_score"]}, (6.0, 9.1, 11.9), "fails", "in the other direction"),
        (SIMILAR, (5.1, 8.1, 11.05), "holds", "the difference is within the margin"),
        (SIMILAR, (3.0, 6.1, 8.9), "fails", "the difference is beyond the margin"),
        (SIMILAR, (5.1, 8.9, 10.5), "undecided", "the interval reaches beyond the margin"),
        (EQUAL, (3.50, 3.60, 3.62), "holds", "the interval holds the published number"),
        (EQUAL, (4.00, 4.02, 4.01), "fails", "worse than published"),
        (EQUAL, (3.00, 3.02, 3.01), "fails", "better than published"),
        (EQUAL, (3.00, 3.60, 4.20), "undecided", "the interval is wider than 10% of the published number"),
        (EQUAL, (3.5520, 3.5521, 3.5522), "holds", "the interval holds the published number"),  # as exact as printed
        ({**EQUAL, "relation": "better"}, (3.0, 3.02, 3.01), "holds", "the interval excludes 0"),
    ],
)
def test_verdicts_on_known_differences(made, claim, cd, word, reason):
    (verdict,) = judge(*made({"c": claim}, scores_of(cd, ct=APART)))
    assert verdict.word == word and reason in verdict.reason
    assert verdict.measurement.interval is not None and verdict.p_value is not None


def test_pairing_by_seed_decides_what_the_means_do_not(made):
    cd = (4.0, 7.1, 9.9)
    (verdict,) = judge(*made({"c": BETTER}, scores_of(cd, ct=APART)))
    assert verdict.p_value == pytest.approx(stats.ttest_rel(cd, APART).pvalue)
    assert stats.ttest_ind(cd, APART, equal_var=False).pvalue > 0.5
    assert verdict.word == "holds"


def test_similar_is_the_test_of_two_one_sided_tests(made):
    cd, margin = (5.1, 8.2, 11.0), 0.1 * 8.0
    (verdict,) = judge(*made({"c": SIMILAR}, scores_of(cd, ct=APART)))
    differences = [new - old for new, old in zip(cd, APART, strict=True)]
    above = stats.ttest_1samp(differences, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(differences, margin, alternative="less").pvalue
    assert verdict.p_value == pytest.approx(2 * max(above, below))


def test_claims_that_are_tested_together_are_corrected(made):
    values = scores_of((4.0, 7.1, 9.9), ct=APART, nine=(5.2, 8.4, 10.9))
    alone = judge(*made({"a": BETTER}, values))
    margins = {f"n{index}": {**SIMILAR, "runs": NINE, "margin": 0.01 + 0.001 * index} for index in range(20)}
    many = judge(*made({"a": BETTER, **margins}, values))
    assert alone[0].word == "holds" and alone[0].adjusted == alone[0].p_value
    assert many[0].p_value == alone[0].p_value and many[0].adjusted == pytest.approx(21 * alone[0].p_value)
    assert many[0].word == "undecided" and "Holm" in many[0].reason


def test_the_same_hypothesis_in_two_places_of_the_paper_is_one_test(made):
    found = judge(*made({"a": BETTER, "b": {**BETTER, "source": "Figure 4"}}, scores_of((4.0, 7.1, 9.9), ct=APART)))
    assert [verdict.adjusted for verdict in found] == [found[0].p_value] * 2


def test_one_seed_decides_nothing(made):
    (verdict,) = judge(*made({"c": BETTER}, scores_of((1.0,), ct=(9.0,)), SUITE.replace("[0, 1, 2]", "[0]")))
    assert (verdict.word, verdict.reason) == ("undecided", "one seed says nothing about other trainings")
    assert verdict.p_value is verdict.adjusted is verdict.measurement.interval is None


def change_scores(root, **change):
    for path in (root / "scores").rglob("seed*/*/*/*.json"):
        write(path, {**json.loads(path.read_text()), **change})


def test_fewer_samples_than_the_protocol_asks_for_decide_nothing(made):
    suite, root = made({"c": BETTER}, scores_of((1.0, 1.1, 1.2), ct=APART))
    change_scores(root, samples=1999)
    (verdict,) = judge(suite, root)
    assert verdict.word == "undecided" and verdict.reason == "1999 samples are fewer than the 2000 of the protocol"


def test_an_unavailable_metric_decides_nothing(made):
    suite, root = made({"c": {**BETTER, "metrics": ["fid", "recall"]}}, scores_of((1.0, 1.1, 1.2), ct=APART))
    metrics = {"fid": 1.0, "inception_score": 1.0, "precision": 0.5, "recall": None}
    change_scores(root, metrics=metrics, unavailable={"recall": "too few images"})
    _, verdict = judge(suite, root)
    assert verdict.word == "undecided" and verdict.reason == "the metric is unavailable: too few images"
    report.draw(suite, "claims", root, root / "out")


def test_scores_of_different_protocols_are_refused(made):
    suite, root = made({"c": BETTER}, scores_of((1.0, 1.1, 1.2), ct=APART))
    path = scores.score_path(suite.comparisons(suite.find("claims"))[0].runs[0], root)
    score = json.loads(path.read_text())
    write(path, {**score, "reference": {**score["reference"], "sha256": "x" * 64}})
    with pytest.raises(UserError, match="claim c: scores of different reference cannot stand in one artefact"):
        judge(suite, root)


def test_a_number_that_is_not_published_is_refused_when_the_suite_is_read(made):
    with pytest.raises(UserError, match=r"claim c: no precision is published of table1 cifar10 CD 1"):
        made({"c": {**EQUAL, "metrics": ["precision"]}}, {})
    with pytest.raises(UserError, match="claim c, published: unknown nfe '3'"):
        made({"c": {**EQUAL, "published": {**NUMBER, "nfe": 3}}}, {})


def test_claims_have_entries_in_their_own_file_only(made):
    with pytest.raises(UserError, match="artefact claims: claims take no entries"):
        made({"c": BETTER}, {}, SUITE.replace("paper: false", "entries: [{method: cd}]"))


# ---- table, figure, command -----------------------------------------------------------------------------------------

THREE = {"holds": BETTER, "fails": {**BETTER, "runs": CT, "reference": CD}, "equals": EQUAL}
VALUES = scores_of((3.50, 3.60, 3.62), ct=(5.0, 5.1, 5.2))


def test_the_table_and_the_figure_state_uncertainty_and_correction(made, tmp_path):
    suite, root = made(THREE, VALUES)
    report.draw(suite, "claims", root, tmp_path)
    rows = {row["claim"]: row for row in read_rows(tmp_path / "tables/claims.csv")}
    assert [row["verdict"] for row in rows.values()] == ["holds", "fails", "holds"]
    for row in rows.values():
        assert row["suite"] == "mine" and row["data"] == "digits" and row["seeds"] == "3" and row["reason"]
        assert float(row["difference, low"]) < float(row["difference"]) < float(row["difference, high"])
        assert float(row["measured, low"]) < float(row["measured"]) < float(row["measured, high"])
    assert rows["equals"]["reference"] == "published 3.55" and float(rows["equals"]["reference value"]) == 3.55
    text = (tmp_path / "tables/claims.md").read_text()
    assert "adjusted by Holm's method over the 3 tests of this table" in text
    assert "between runs of the same seed" in text and "Protocol offline" in text
    for path in ("tables/claims.tex", "figures/claims.svg", "figures/claims.png"):
        assert (tmp_path / path).stat().st_size > 1000


def test_the_command_judges_by_the_scores_that_exist(made, capsys):
    suite, root = made(THREE, VALUES)
    path = scores.score_path(suite.comparisons(suite.find("claims"))[0].runs[2], root)
    path.unlink()
    with pytest.raises(UserError, match="no score"):
        judge(suite, root)
    arguments = ["claims", "--suite", str(root.parent / "suites/mine.yaml"), "--results", str(root)]
    assert main(arguments) == 0
    assert [verdict.measurement.name for verdict in judge(suite, root, existing_only=True)] == list(THREE)
    assert {len(verdict.measurement.runs) for verdict in judge(suite, root, existing_only=True)} == {2}
    out = capsys.readouterr().out
    assert all(f"| {name} " in out for name in THREE)


def test_the_report_has_the_sections_of_the_template(made, capsys):
    _, root = made(THREE, VALUES)
    arguments = ["claims", "--report", "--suite", str(root.parent / "suites/mine.yaml"), "--results", str(root)]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    sections = ("Scope of reproducibility", "Methodology", "Results", "What was easy", "What was difficult")
    assert all(f" {section}\n" in out for section in sections)
    assert "**Results.** Verdicts on 3 claims and metrics: 2 hold, 1 fails, 0 are undecided." in out
    assert "| digits     | cd         |" in out and "9 of 9 scores exist" in out
    assert "- `holds`: A statement. (Table 1)" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "dmeo"], "config/suites: unknown suite 'dmeo'; known: demo, "),
        (["--suite", "released"], "suite released has no artefact of the kind 'claims'"),
    ],
)
def test_a_mistake_at_the_command_line_is_one_line(arguments, message, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert main(["claims", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_the_command_needs_no_torch(tmp_path):
    check = "import sys; from cm.cli import main; assert main(sys.argv[1:]) == 0; assert 'torch' not in sys.modules"
    arguments = ["claims", "--report", "--suite", str(DEMO), "--results", str(tmp_path)]
    done = subprocess.run([sys.executable, "-c", check, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "no scores of both sides yet" in done.stdout and Path(DEMO).exists()
