"""Figures of quality against evaluations, and of searched time points, from made-up results."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from faked import DEMO, PROTOCOL, FakeCounter, demo, fake

from cm import config, registry, report
from cm.config import load_suite
from cm.config.layout import Layout
from cm.errors import UserError
from cm.report import published, quality, scores, searches


@pytest.fixture(scope="module")
def suite():
    return load_suite(DEMO)


@pytest.fixture
def root(suite, tmp_path) -> Path:
    return fake(suite, tmp_path / "results")


def lines(axes) -> dict:
    return {line.get_label(): line for line in axes.get_lines()}


def text(figure) -> str:
    return " ".join(figure.get_supxlabel().split())


def test_every_method_is_a_line_over_its_evaluations(suite, root):
    figure = quality.quality(suite, suite.find("quality"), root, FakeCounter(lambda run: 5 * 10**9))
    (axes,) = figure.axes
    found = lines(axes)
    assert list(found["PD"].get_xdata()) == list(found["CD"].get_xdata()) == [1, 2, 4, 8]
    assert list(found["EDM, Heun"].get_xdata()) == [5, 9, 17, 35]
    assert list(found["CD, searched times"].get_xdata()) == [2, 3]
    assert list(axes.get_xticks()) == [1, 2, 4, 8, 16, 32, 64]
    (above,) = axes.child_axes
    assert above.get_xlabel() == "GFLOPs per sample"
    assert list(above.xaxis.get_major_locator().locs) == [5.0 * tick for tick in axes.get_xticks()]
    assert axes.get_ylabel() == "FD, digits, classifier features"


def test_networks_of_different_cost_share_no_axis_of_flops(suite, root):
    figure = quality.quality(
        suite, suite.find("quality"), root, FakeCounter(lambda run: 10**9 * (2 if run.method == "pd" else 1))
    )
    assert not figure.axes[0].child_axes
    assert "GFLOPs of one evaluation (a multiply-add counts as two): EDM, Heun 1, PD 2, CD 1" in text(figure)
    assert not quality.quality(suite, suite.find("quality"), root).axes[0].child_axes


def test_published_samplers_are_marked_as_other_implementations(suite, root, monkeypatch):
    """They stand on the axis only where data and extractor are those of the paper."""
    artefact = suite.find("samplers_evaluations")
    names = {row["method"] for row in published.read_rows(artefact)}
    assert names == {"DDIM", "DPM-Solver-2", "DPM-Solver-fast", "3-DEIS"}
    assert not [label for label in lines(quality.quality(suite, artefact, root).axes[0]) if "published" in label]

    score = scores.load(suite, artefact, root)[0]
    inception = type(score)(**{**vars(score), "extractor": {"name": "inception"}})
    monkeypatch.setattr(suite.experiments, "data", lambda dataset: config.Data("cifar10"))
    numbers, notes = quality._published(suite, artefact, inception)
    assert numbers["DDIM"] == {50: 4.67, 20: 6.84, 10: 8.23}
    assert notes[-1] == "They come from other implementations and other networks than the measured ones."


def test_the_table_of_samplers_has_the_published_rows_below(suite, root, tmp_path):
    report.draw(suite, "samplers", root, tmp_path)
    table = (tmp_path / "tables/samplers.md").read_text()
    assert [name for name in ("DDIM", "3-DEIS", "EDM, DPM-Solver++(2M)") if f"| {name} " in table] != []
    assert table.count("| DDIM ") == 3 and "Rectified Flow" not in table
    assert "from other implementations and other networks" in table


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("{table: table1, dataset: cifar10, group: x}", "unknown group 'x'"),
        ("{table: table1, dataset: cifar10, grup: x}", "unknown key 'grup'"),
        ("{table: table2, dataset: lsun_cat, group: flow}", "table2 has no published numbers of flow of lsun_cat"),
    ],
)
def test_unknown_published_rows_are_refused(tmp_path, wanted, message):
    def change(text):
        return text.replace("{table: table1, dataset: cifar10, group: diffusion + samplers}", wanted)

    with pytest.raises(UserError, match=message):
        demo(tmp_path / "suite.yaml", change)


def test_a_search_shows_every_evaluation_and_the_chosen_times(suite, root):
    figure = searches.time_search(suite, suite.find("time_points"), root)
    (axes,) = figure.axes
    labels = axes.get_legend_handles_labels()[1]
    assert [label for label in labels if label.startswith("C")] == [f"C{m}, point {n}" for m in "DT" for n in (1, 2)]
    path = Path(Layout(str(root)).search("digits/cd/default/seed0", 100, "search,points~18,steps~3"))
    result = json.loads(path.read_text())
    drawn = [sorted(line.get_xdata()) for line in axes.get_lines() if len(line.get_xdata()) > 1]
    for search in result["searches"]:
        assert sorted(one["time"] for one in search["evaluations"]) in drawn
    rings = [line.get_xdata()[0] for line in axes.get_lines() if line.get_markersize() == 13]
    assert rings == result["times"] * 2
    assert f"CD, point 2: the chosen time {result['times'][1]:g} is an end of the interval." in text(figure)


def test_a_search_reports_what_contradicts_a_single_minimum(suite, root):
    path = Path(Layout(str(root)).search("digits/cd/default/seed0", 100, "search,points~18,steps~3"))
    result = json.loads(path.read_text())
    result["searches"][0]["violations"] = [
        {"nearer": 5.0, "farther": 9.0, "drop": 0.25, "within_intervals": False},
        {"nearer": 9.0, "farther": 19.0, "drop": 0.125, "within_intervals": True},
    ]
    path.write_text(json.dumps(result))
    note = "contradict a single minimum; the largest contradiction, 0.25 between t = 5 and 9, is beyond the intervals."
    assert note in text(searches.time_search(suite, suite.find("time_points"), root))


def test_a_missing_search_is_one_line(suite, root):
    path = Path(Layout(str(root)).search("digits/cd/default/seed0", 100, "search,points~18,steps~3"))
    path.unlink()
    with pytest.raises(UserError, match=f"^no result of a search {re.escape(str(path))}: `cm search` writes it$"):
        searches.time_search(suite, suite.find("time_points"), root)


def test_a_sampler_without_a_search_is_refused_when_the_suite_is_read(tmp_path):
    def change(text):
        return text.replace('{method: ct, sampler: "search,points~18,steps~3", label: CT}', "{method: ct, label: CT}")

    with pytest.raises(UserError, match="artefact time_points: ct has the sampler 'the default', which has no search"):
        demo(tmp_path / "suite.yaml", change)


def test_a_search_that_ended_early_is_drawn_once(suite, root):
    """Its samples are those of the search with fewer steps."""
    cell = next(c for c in suite.cells(suite.find("quality")) if c.sampler.endswith("search,points~18,steps~3"))
    path = scores.score_path(cell, root)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"nfe": 2}))
    found = lines(quality.quality(suite, suite.find("quality"), root).axes[0])
    assert list(found["CD, searched times"].get_xdata()) == [2]


def test_the_kinds_are_registered():
    assert registry.get("artefact", "time_search").needs == "searches"
    assert PROTOCOL["name"] == "offline"
