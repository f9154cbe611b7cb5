"""The table of costs: sums and means that are known, and FLOPs only where something counts them."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
from faked import HARDWARE, FakeCounter, demo, fake, read_rows

from cm import config, report
from cm.config.layout import Layout
from cm.errors import UserError

PER_EVALUATION = 1_000_000


@pytest.fixture(scope="module")
def suite(tmp_path_factory) -> config.Suite:
    return demo(tmp_path_factory.mktemp("suite") / "s.yaml", lambda text: text)


@pytest.fixture
def results(suite, tmp_path) -> Path:
    return fake(suite, tmp_path / "results")


def draw(suite, results, counter=None) -> dict[str, dict[str, str]]:
    """The rows of the table by the name of the run."""
    report.draw(suite, "costs", results, results.parent, counter)
    return {row["run"]: row for row in read_rows(results.parent / "tables/costs.csv")}


def test_every_training_has_a_row_with_its_measured_time(suite, results):
    rows = draw(suite, results)
    assert set(rows) == {run.identity.without_seed for run in suite.all_runs()}
    row = rows["digits/edm/default"]
    assert (row["seeds"], row["images"], row["hardware"]) == ("3", str(1300 * 64), HARDWARE)
    assert [float(row[name]) for name in ("seconds", "seconds, std", "core seconds")] == [11.0, 1.0, 20.0]
    assert float(row["images per second"]) == pytest.approx(1300 * 64 / 11)
    assert "GPU hours" not in row


def test_flops_and_gpu_hours_are_those_of_all_images(suite, results):
    row = draw(suite, results, FakeCounter(lambda run: PER_EVALUATION))["digits/edm/default"]
    total = 1300 * 64 * 3 * PER_EVALUATION
    assert float(row["GFLOPs of the training"]) == pytest.approx(total / 1e9)
    assert float(row["GFLOPs per evaluation"]) == PER_EVALUATION / 1e9
    assert float(row["GPU hours"]) == pytest.approx(total / 1e14 / 3600)
    (line,) = re.findall(r"^\| digits/edm/default .*$", (results.parent / "tables/costs.md").read_text(), re.MULTILINE)
    assert f" {total / 1e14 / 3600:.2e} " in line, "a small number keeps its digits"


def test_the_sum_is_that_of_all_trainings(suite, results):
    draw(suite, results)
    runs = suite.all_runs()
    wall, processor = math.fsum(10.0 + run.seed for run in runs), 20.0 * len(runs)
    sentence = f"All {len(runs)} trainings together took {wall / 3600:.3g} hours"
    text = (results.parent / "tables/costs.md").read_text()
    assert sentence in text and f"{processor / 3600:.3g} core hours" in text


def test_a_training_that_left_no_seconds_is_one_line(suite, results):
    path = Path(Layout(str(results)).seconds("digits/edm/default/seed1"))
    path.unlink()
    with pytest.raises(UserError, match=rf"^no file {re.escape(str(path))}: `cm train` writes it"):
        draw(suite, results)


def test_hardware_that_is_no_text_is_one_line(suite, results):
    path = Path(Layout(str(results)).seconds("digits/edm/default/seed1"))
    path.write_text(json.dumps({"wall": 1.0, "processor": 1.0, "hardware": ["<script>"]}))
    with pytest.raises(UserError, match="'hardware' must be text"):
        draw(suite, results)
