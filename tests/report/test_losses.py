"""The figure of losses: its lines, the stages of a chain, and runs without measurements."""

from __future__ import annotations

from pathlib import Path

import pytest

from cm import config, report
from cm.config.layout import Layout
from cm.config.measurements import Measurement
from cm.errors import UserError
from cm.report.losses import POINTS, losses

ROOT = Path(__file__).parents[2]
LABELS = ["EDM", "PD", "CD", "CT", "iCT", "ECT"]


@pytest.fixture(scope="module")
def suite():
    return config.load_suite(ROOT / "config" / "suites" / "demo.yaml")


def measure(root: Path, run: config.Run, interval: int, loss: float = 2.0, norm: float | None = 3.0) -> None:
    """Measurements of a run whose loss is `loss` + step and whose gradient has one norm."""
    path = Path(Layout(str(root)).metrics(run.name))
    path.parent.mkdir(parents=True, exist_ok=True)
    steps = range(interval, run.training.total_steps + 1, interval)
    lines = [Measurement(step, loss + step, norm, 1e-3, None, None, 1.0, 1, 1.0).to_line() for step in steps]
    path.write_bytes(b"".join(lines))


def rows(figure) -> list[tuple]:
    """The two panels of each label."""
    return list(zip(figure.axes[::2], figure.axes[1::2], strict=True))


@pytest.fixture
def drawn(suite, tmp_path):
    """The figure in which every run but those of iCT has measurements."""
    for run in suite.required_runs():
        if run.method != "ict":
            measure(tmp_path, run, 2)
    return losses(suite, suite.find("losses"), tmp_path)


def lines_of(panel) -> list:
    return [line for line in panel.lines if line.get_linestyle() == "-"]


def test_each_label_has_a_row_with_a_line_for_each_seed(drawn):
    assert [loss.get_title(loc="left") for loss, _ in rows(drawn)] == LABELS
    assert {panel.get_ylabel() for panel in drawn.axes} == {"loss", "gradient norm"}
    counts = {loss.get_title(loc="left"): len(lines_of(loss)) for loss, _ in rows(drawn)}
    assert (counts["EDM"], counts["CT"]) == (3, 3)


def test_a_point_is_the_mean_of_a_part_of_the_training(suite, drawn):
    total = suite.experiments.run("digits/edm/default/seed0").training.total_steps
    x, y = lines_of(rows(drawn)[0][0])[0].get_data()
    assert len(x) == POINTS and total / POINTS == 13
    assert list(x[:2]) == [7.0, 20.0]  # of the steps 2, 4, ... 12, and 14, 16, ... 26
    assert list(y) == [step + 2.0 for step in x]


def test_the_stages_of_a_chain_follow_one_another(suite, drawn):
    panel = rows(drawn)[LABELS.index("PD")][0]
    run = suite.experiments.run("digits/pd/default/seed0")
    stages = suite.experiments.run("digits/pd/steps~8/seed0").links.chain.bit_length()
    assert len(lines_of(panel)) == 3 * stages
    starts = sorted({line.get_xdata()[0] for line in panel.lines if line.get_linestyle() == ":"})
    assert starts == [run.training.total_steps * stage for stage in range(1, stages)]
    ends = [line.get_xdata()[-1] for line in lines_of(panel)[:stages]]
    assert all(start < end for start, end in zip([0, *starts], ends, strict=True))


def test_runs_without_measurements_are_named_in_a_footnote(drawn):
    note = drawn.get_supxlabel()
    assert "No metrics.jsonl, so not shown: digits/ict/default/seed0, digits/ict/default/seed1" in note.replace(
        "\n", " "
    )
    assert "digits/edm" not in note
    panel = rows(drawn)[LABELS.index("iCT")][0]
    assert [text.get_text() for text in panel.texts] == ["no measurements"]


def test_losses_below_zero_have_a_linear_axis(suite, tmp_path):
    run = suite.experiments.run("digits/ct/default/seed0")
    measure(tmp_path, run, 10, loss=-500.0, norm=None)
    loss, norm = rows(losses(suite, suite.find("losses"), tmp_path))[LABELS.index("CT")]
    assert loss.get_yscale() == "linear" and len(lines_of(loss)) == 3
    assert [text.get_text() for text in norm.texts] == ["no measurements"]


def test_a_figure_without_any_measurements_is_drawn(suite, tmp_path):
    report.draw(suite, "losses", tmp_path, tmp_path / "reports")
    assert (tmp_path / "reports" / "figures" / "losses.svg").exists()


def test_a_damaged_file_is_an_error_of_one_line(suite, tmp_path):
    path = Path(Layout(str(tmp_path)).metrics("digits/edm/default/seed0"))
    path.parent.mkdir(parents=True)
    path.write_text("{}\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 1: 'step' is missing"):
        losses(suite, suite.find("losses"), tmp_path)
