"""Tables and figures from made-up score files: right numbers, honest headings, one-line errors, equal bytes twice."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from faked import EXTRACTOR, FD, HALVES, IS, NO_LOGITS, PROTOCOL, ROOT, content, demo, fake, read_rows, write

from cm import config, registry, report
from cm.config import Experiments
from cm.errors import UserError
from cm.report import figures, scores, tables
from cm.report.writing import format_setting

BIASED = "than the 2000 of the protocol, so that FD is biased upwards"


@pytest.fixture(scope="module")
def suite(tmp_path_factory) -> config.Suite:
    """The demo suite with all seeds in Figure 4, and an ablation over two samplers."""
    lr = "  lr: {method: cd, vary: {lr: [5.0e-4, 1.0e-3]}, samplers: [onestep, 'multistep,times~0.8']}\n"
    path = tmp_path_factory.mktemp("suite") / "all.yaml"
    return demo(
        path, lambda text: re.sub(r"(  fig4:.*?)    seeds: \[0\]\n", r"\1", text, count=1, flags=re.DOTALL) + lr
    )


@pytest.fixture(scope="module")
def made(suite, tmp_path_factory) -> Path:
    """A folder with made-up `results`, and `reports` with every artefact drawn from them."""
    folder = tmp_path_factory.mktemp("made")
    fake(suite, folder / "results")
    for name in (*suite.artefacts, *suite.ablations):
        report.draw(suite, name, folder / "results", folder / "reports")
    return folder


@pytest.fixture
def own(suite, tmp_path) -> Path:
    """Made-up `results` of a test's own."""
    return fake(suite, tmp_path / "results")


def alter(root: Path, change: Callable[[dict], dict]) -> None:
    """Change every score file."""
    for path in (root / "scores").rglob("*.json"):
        score = json.loads(path.read_text())
        write(path, {**score, **change(score)})


def drawn(suite: config.Suite, name: str, root: Path, out: Path) -> tuple[list[dict[str, str]], str, str]:
    """The rows of the CSV of a table, its Markdown and its LaTeX."""
    report.draw(suite, name, root, out / "reports")
    stem = out / "reports/tables" / name
    return read(out, name), stem.with_suffix(".md").read_text(), stem.with_suffix(".tex").read_text()


def read(made: Path, name: str) -> list[dict[str, str]]:
    return read_rows(made / "reports/tables" / f"{name}.csv")


def test_every_kind_is_drawn_in_its_form(suite, made):
    kinds = set()
    for name, artefact in {**suite.artefacts, **suite.ablations}.items():
        kinds.add(artefact.kind)
        form = registry.get("artefact", artefact.kind).form
        written = {p.suffix for p in (made / "reports").rglob(f"{name}.*")}
        wanted = {"table": {".csv", ".md", ".tex"}, "figure": {".svg", ".png"}}
        assert written == (wanted["table"] | wanted["figure"] if form == "both" else wanted[form]), name
    assert kinds == set(registry.names("artefact"))
    assert not [path for path in (made / "reports").rglob("*") if path.name.startswith(".")]


def test_a_kind_says_what_it_needs():
    kinds = registry.components("artefact")
    assert {name: kind.needs for name, kind in kinds.items() if kind.needs != "scores"} == {
        "claims": "claims",
        "memorization": "nearest",
        "recipes": "nothing",
        "runs": "nothing",
        "samples": "previews",
        "time_search": "searches",
        "grids": "previews",
        "edits": "edit previews",
        "editing": "edit scores",
        "timings": "seconds",
        "losses": "models",
        "costs": "trainings",
    }
    assert sorted(name for name, kind in kinds.items() if kind.flops) == ["compute", "costs", "quality"]
    assert {name for name, kind in kinds.items() if kind.baseline} == {"comparison", "ablation"}


def test_means_and_deviations_over_seeds(made):
    rows = {(row["Method"], row["NFE"]): row for row in read(made, "table1")}
    values = [(2 + 0.7 + 1) / math.sqrt(2) + 0.1 * seed for seed in (0, 1, 2)]
    cd = rows["CD", "2"]
    assert float(cd[FD]) == pytest.approx(sum(values) / 3, rel=1e-12)
    assert float(cd[f"{FD}, std"]) == pytest.approx(statistics.stdev(values), rel=1e-12)
    assert float(cd[f"{FD}, std"]) == pytest.approx(0.1)
    assert float(cd["IS, digits, classifier features"]) == pytest.approx(10 - sum(values) / 30, rel=1e-12)
    assert (cd["seeds"], cd["samples"]) == ("3", "2000")


def test_the_baselines_come_first_and_are_never_the_best(made):
    first, second = read(made, "table1")[:2]
    assert first["Method"] == "real images (test split)"
    assert (first[FD], first["samples"], first["NFE"], first["seeds"]) == ("0.31", "899", "", "")
    assert second["Method"] == "real images (split halves)"
    assert (second[FD], second["samples"], second["NFE"], second["seeds"]) == ("0.05", "449", "", "")
    assert (second[IS], second["precision, digits, classifier features"]) == ("", "0.85")
    text = (made / "reports/tables/table1.md").read_text()
    assert re.findall(r"\*\*(.+?)\*\*", text) == ["0.725 ± 0.100"]
    assert "\\textbf{0.725 $\\pm$ 0.100}" in (made / "reports/tables/table1.tex").read_text()


def test_published_numbers_stand_beside_the_measured_and_the_rest_below(made):
    rows = read(made, "table1")
    paper = "published FID, CIFAR-10, Inception"
    found = {(row["Method"], row["NFE"]): row[paper] for row in rows}
    assert found["CD", "1"] == "3.55"
    assert found["CD", "2"] == "2.93"
    assert found["EDM", "35"] == "2.04"
    assert found["DDIM", "50"] == "4.67"
    assert found["real images (test split)", ""] == ""
    assert [row["Method"] for row in rows if not row[FD]][:3] == ["DDIM"] * 3
    assert len(rows) == 2 + 36
    assert "published recall, CIFAR-10, Inception" not in rows[0]
    assert rows[-1]["group in the paper"] == "direct generation"


def test_a_metric_is_never_without_its_extractor(made):
    for path in (made / "reports/tables").glob("*.csv"):
        heads = path.read_text().splitlines()[0]
        for head in csv.reader([heads]).__next__():
            measured = re.search(r"\b(FID|FD|IS|precision|recall)\b", head)
            assert not measured or re.search(r"digits, classifier features|CIFAR-10, Inception", head), head


def test_figures_name_the_extractor(suite, made):
    for name in ("fig3a", "fig4"):
        kind = registry.get("artefact", suite.find(name).kind)
        assert kind(suite, suite.find(name), made / "results").axes[0].get_ylabel() == FD


def test_curves_and_steps_show_the_scores(suite, made):
    axes = figures.curves(suite, suite.find("fig3d"), made / "results").axes[0]
    adaptive = axes.get_lines()[0]
    assert adaptive.get_label() == "CT, adaptive N and mu"
    assert list(adaptive.get_xdata()) == [25, 50, 75, 100]
    assert list(adaptive.get_ydata()) == pytest.approx([2.7 + 100 / progress for progress in (25, 50, 75, 100)])
    axes = figures.sampling_steps(suite, suite.find("fig4"), made / "results").axes[0]
    assert {line.get_label() for line in axes.get_lines()} == {"PD, l2", "PD, lpips", "CD, l2", "CD, lpips"}
    assert [list(line.get_xdata()) for line in axes.get_lines()] == [[1, 2, 4, 8]] * 4
    assert len(axes.collections) == 4


def test_an_ablation_has_a_row_per_combination_and_knows_the_default(made):
    rows = read(made, "ablation_solver")
    assert [(row["solver"], row["steps"]) for row in rows] == [
        ("euler", "9"),
        ("euler", "18"),
        ("heun", "9"),
        ("heun", "18"),
        ("", ""),
        ("", ""),
    ]
    variants = ["solver~euler,steps~9", "solver~euler", "steps~9", "default"]
    assert [row["variant"] for row in rows] == [*variants, "real images (test split)", "real images (split halves)"]
    assert float(rows[3][FD]) == pytest.approx(3.7 + 0.1)
    assert [(row[FD], row["samples"], row["seeds"]) for row in rows[4:]] == [("0.31", "899", ""), ("0.05", "449", "")]
    text = (made / "reports/tables/ablation_solver.md").read_text()
    assert re.findall(r"\*\*(.+?)\*\*", text) == ["3.80 ± 0.10"]


def test_an_ablation_figure_draws_lines_over_numbers_and_points_over_words(suite, made):
    found = scores.load(suite, suite.find("ablation_solver"), made / "results")
    axes = figures.ablation(found).axes[0]
    lines = {container.get_label() for container in axes.containers}
    assert lines == {"solver euler", "solver heun"}
    assert axes.get_lines()[-1].get_label() == "default"
    assert list(axes.get_lines()[-1].get_xdata()) == [18]


def test_settings_are_written_in_words():
    values = [None, True, False, "l2", 0.5, {"name": "pseudo-huber", "c": 0.03}, {"name": "lpips", "size": None}]
    words = ["none", "yes", "no", "l2", "0.5", "pseudo-huber, c 0.03", "lpips, size none"]
    assert [format_setting(value) for value in values] == words


def test_an_ablation_over_components_with_settings_has_short_ticks(suite, own, tmp_path):
    entry = "  d: {method: cd, vary: {distance: [l2, {name: lpips, pooling: average}]}}\n"
    other = demo(tmp_path / "s.yaml", lambda text: text + entry)
    fake(other, own)
    rows, _, _ = drawn(other, "ablation_d", own, tmp_path)
    assert [row["distance"] for row in rows[:2]] == ["l2", "lpips, pooling average"]
    axes = figures.ablation(scores.load(other, other.find("ablation_d"), own)).axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["l2", "lpips, pooling average"]


def test_recipes_leave_no_setting_out(suite, made):
    rows = {row["key"]: row for row in read(made, "table3")}
    run = suite.experiments.run("digits/ct/default/seed0")
    for section, settings in run.describe().items():
        for key in settings:
            assert rows[f"{section}.{key}"]["CT"] != "", (section, key)
    assert rows["training.lr"]["CT"] == str(run.settings["lr"])
    assert rows["network.dropout"]["CT"] == "0.0"
    assert rows["training.clip"]["CT"] == "none"
    assert rows["objective.curriculum.s1"]["CD"] == ""
    assert rows["objective.curriculum.s1"]["setting"] == "s1"
    assert rows["inputs.teacher"]["CD"] == "digits/edm/default"
    assert rows["inputs.teacher"]["PD, steps 2"].startswith("digits/pd/steps~4")
    assert list(rows)[:2] == ["objective.name", "run.variant"]


def test_settings_of_components_have_names_of_their_own(made):
    rows = {row["key"]: row for row in read(made, "table3")}
    assert (rows["objective.curriculum"]["setting"], rows["objective.curriculum"]["CD"]) == ("curriculum", "fixed")
    assert (rows["objective.curriculum"]["CT"], rows["objective.curriculum"]["EDM"]) == ("adaptive", "")
    expected = {
        "objective.curriculum.steps": ("N", "18", ""),
        "objective.curriculum.target_mu": ("mu", "0.0", ""),
        "objective.curriculum.mu0": ("mu0", "", "0.2"),
        "objective.curriculum.s0": ("s0", "", "2"),
        "objective.curriculum.mu_exponent": ("exponent of mu", "", "paper"),
        "objective.distance": ("distance d", "lpips", "lpips"),
        "objective.distance.size": ("distance size", "224", "224"),
        "objective.distance.pooling": ("distance pooling", "max", "max"),
    }
    assert {key: (rows[key]["setting"], rows[key]["CD"], rows[key]["CT"]) for key in expected} == expected
    assert (rows["objective.steps"]["setting"], rows["objective.steps"]["PD, steps 4"]) == ("sampling steps", "4")
    titles = [row["setting"] for row in rows.values()]
    assert len(set(titles)) == len(titles)


def test_table_3_begins_as_in_the_paper(made):
    paper = ["learning rate", "batch size", "mu", "mu0", "s0", "s1", "N", "ODE solver", "EMA decay rate"]
    paper += ["training steps", "precision", "dropout probability"]
    titles = [row["setting"] for row in read(made, "table3")]
    assert [title for title in titles if title in paper] == paper


def test_settings_of_components_have_columns_in_the_table_of_runs(made):
    rows = {row["run"]: row for row in read(made, "runs")}
    assert (rows["digits/ct/default"]["curriculum"], rows["digits/cd/default"]["curriculum"]) == ("adaptive", "fixed")
    assert (rows["digits/cd/distance~l1"]["distance size"], rows["digits/cd/default"]["distance size"]) == ("", "224")
    assert (rows["digits/ct/default"]["s1"], rows["digits/ct/default"]["N"]) == ("40", "")
    assert (rows["digits/pd/steps~8"]["sampling steps"], rows["digits/pd/steps~8"]["N"]) == ("8", "")


def test_every_run_of_the_suite_has_a_row(suite, made):
    rows = {row["run"]: row for row in read(made, "runs")}
    cells = [cell for one in (*suite.artefacts.values(), *suite.ablations.values()) for cell in suite.cells(one)]
    assert {cell.run.name.rpartition("/")[0] for cell in cells} < set(rows)
    assert {"digits/classifier/default", "digits/pd/steps~8"} <= set(rows)
    assert (rows["digits/cd/default"]["seeds"], rows["digits/cd/steps~72"]["seeds"]) == ("3", "1")
    assert (rows["digits/cd/steps~72"]["N"], rows["digits/cd/solver~euler"]["ODE solver"]) == ("72", "euler")
    assert rows["digits/pd/steps~8"]["teacher"] == "digits/edm/default"
    assert "precision" not in rows["digits/cd/default"]


def test_timings(made):
    edm = read(made, "timings")[0]
    assert (edm["Method"], float(edm["training seconds"]), edm["seeds"]) == ("EDM", 11.0, "3")
    run = Experiments(ROOT / "config/experiments").run("digits/edm/default/seed0")
    seen = run.settings["total_steps"] * run.settings["batch"]
    assert float(edm["training images per second"]) == pytest.approx(seen / 11)
    assert (float(edm["core seconds"]), float(edm["sampling seconds"])) == (20.0, 1.5)


def test_timings_without_scores(suite, own):
    for path in (own / "scores").rglob("*.json"):
        path.unlink()
    table = tables.timings(suite, suite.find("timings"), own)
    assert set(table["sampling seconds"]) == {None}


def test_a_score_knows_its_cell_and_its_numbers(suite, made):
    found = scores.load(suite, suite.find("ablation_solver"), made / "results")
    assert len(found) == 2 * 2 * 3
    first = found[0]
    assert first.varied == {"solver": "euler", "steps": 9}
    assert (first.seed, first.nfe, first.extractor["name"]) == (0, 1, "digits/classifier/default/seed0")
    assert (first.metrics["fid"], first.interval("fid")) == (first["fid"], (first["fid"] - 0.2, first["fid"] + 0.3))
    assert (first.interval("kid"), first.at_infinity("fid"), first.has_fewer_samples) == (None, None, False)
    assert first.split_halves == HALVES


def test_one_seed_shows_its_interval(suite, own, tmp_path):
    alone = demo(tmp_path / "s.yaml", lambda text: text.replace("seeds: [0, 1, 2]", "seeds: [0]"))
    rows, markdown, latex = drawn(alone, "table1", own, tmp_path)
    value = (2 + 0.7 + 1) / math.sqrt(2)
    cd = next(row for row in rows if (row["Method"], row["NFE"]) == ("CD", "2"))
    heads = list(cd)
    assert heads[heads.index(FD) :][:5] == [FD, f"{FD}, std", f"{FD}, low", f"{FD}, high", IS]
    assert [float(cd[f"{FD}, {end}"]) for end in ("low", "high")] == pytest.approx([value - 0.2, value + 0.3])
    assert f"{value:.2f} [{value - 0.2:.2f}, {value + 0.3:.2f}]" in latex
    assert f"| {value:.2f} [{value - 0.2:.2f}, {value + 0.3:.2f}] |" in re.sub(" +", " ", markdown)
    assert "0.310 [0.300, 0.330]" in markdown
    note = "[ ] is a 95 % bootstrap interval over the samples of one seed."
    assert note in markdown
    assert note.replace("%", "\\%") in latex
    assert "±" not in markdown
    assert f"{IS}, low" not in cd


def test_seeds_show_their_spread_and_only_real_images_an_interval(suite, made):
    rows = {(row["Method"], row["NFE"]): row for row in read(made, "table1")}
    assert rows["real images (test split)", ""][f"{FD}, high"] == "0.33"
    assert {row[f"{FD}, high"] for key, row in rows.items() if key[1]} == {""}
    text = (made / "reports/tables/table1.md").read_text()
    assert (
        "± is the standard deviation over seeds (with n - 1).\n\n[ ] is a 95 % bootstrap interval over the real" in text
    )


@pytest.mark.parametrize(("name", "only"), [("table1", ""), ("ablation_solver", ""), ("table1", "cd/default/seed1")])
def test_an_unavailable_metric_is_a_dash_with_its_reason(suite, own, tmp_path, name, only):
    def without(score: dict) -> dict:
        if only not in score.get("run", ""):
            return {}
        return {"metrics": {**score["metrics"], "inception_score": None}, "unavailable": {"inception_score": NO_LOGITS}}

    alter(own, without)
    rows, markdown, latex = drawn(suite, name, own, tmp_path)
    shown = {row.get("Method") or row["variant"]: bool(row[IS]) for row in rows if row["NFE"] and row[FD]}
    assert not shown["CD" if name == "table1" else "default"]
    assert any(shown.values()) == bool(only)
    assert f"{IS}, std" in rows[0]
    assert all(row[FD] for row in rows[:6])
    if name == "table1":
        cd = next(row for row in rows if (row["Method"], row["NFE"]) == ("CD", "2"))
        assert cd["published IS, CIFAR-10, Inception"] == "9.75"
    for text in (markdown, latex):
        assert text.count(f"Unavailable: IS ({NO_LOGITS}).") == 1


def test_metrics_unavailable_for_one_reason_are_named_together(suite, own, tmp_path):
    reason = "the reference is a mean and a covariance"
    none = ("precision", "recall")
    alter(
        own,
        lambda score: {
            "metrics": {**score["metrics"], **dict.fromkeys(none)},
            "unavailable": dict.fromkeys(none, reason),
        },
    )
    assert f"\n\nUnavailable: precision, recall ({reason}).\n" in drawn(suite, "table1", own, tmp_path)[1]


def test_an_unavailable_metric_is_an_error_with_its_reason(suite, own):
    path = one(suite, "fig3a", own)
    alter(own, lambda score: {"metrics": {**score["metrics"], "fid": None}, "unavailable": {"fid": "nobody looked"}})
    with pytest.raises(UserError, match=re.escape(f"{path} has no fid: nobody looked")):
        scores.load(suite, suite.find("fig3a"), own)[1]["fid"]


def test_no_word_of_intervals_that_are_not_shown(suite, own, tmp_path):
    alter(own, lambda score: {} if score["sampler"] else {"uncertainty": {}})
    assert "[ ]" not in drawn(suite, "table1", own, tmp_path)[1]


def short(score: dict) -> dict:
    """A score of 500 images, of which the best seed of CD in two steps has no extrapolation."""
    if score["sampler"] is None:
        return {}
    fid, name = score["metrics"]["fid"], (score["run"], score["sampler"])
    without = name == ("digits/cd/default/seed1", "multistep,times~0.5853")
    limit = {} if without else {"at_infinity": fid - 0.5}
    return {"samples": 500, "uncertainty": {"fid": {**score["uncertainty"]["fid"], **limit}}}


def test_fewer_images_than_the_protocols_are_marked_and_extrapolated(suite, own, tmp_path):
    alter(own, short)
    rows, markdown, latex = drawn(suite, "table1", own, tmp_path)
    limit = f"{FD} at infinity"
    table = {(row["Method"], row["NFE"]): row for row in rows}
    cd = table["CD", "1"]
    assert list(cd).index(limit) == list(cd).index(f"{FD}, high") + 1
    assert [head for head in cd if head.endswith("infinity")] == [limit]
    assert float(cd[limit]) == pytest.approx(float(cd[FD]) - 0.5)
    assert float(cd[f"{limit}, std"]) == pytest.approx(0.1)
    assert (table["CD", "2"][limit], table["CD", "2"][f"{limit}, std"]) == ("", "")
    assert [row[limit] for row in rows[:2]] == ["0.21", ""]
    assert [row["samples"] for row in rows[:3]] == ["899", "449", "500"]
    plain = re.sub(" +", " ", markdown)
    assert [plain.count(f"| {count}† |") for count in (899, 449, 500)] == [1, 1, 7]
    assert [latex.count(f"{count}$\\dagger$") for count in (899, 449, 500)] == [1, 1, 7]
    assert f"\n† marks fewer samples {BIASED} (Chong and Forsyth 2020); the column at infinity extrap" in markdown
    assert "† " not in latex


def test_fewer_images_without_extrapolation_have_no_column(suite, own, tmp_path):
    alter(own, lambda score: {"samples": 500} if score["sampler"] else {})
    rows, markdown, _ = drawn(suite, "ablation_solver", own, tmp_path)
    assert f"{FD} at infinity" not in rows[0]
    assert f"\n† marks fewer samples {BIASED} (Chong" in markdown


def test_as_many_images_as_the_protocol_asks_have_no_mark(suite, own, tmp_path):
    alter(own, lambda score: {"uncertainty": {"fid": {**score["uncertainty"]["fid"], "at_infinity": 0.1}}})
    text = drawn(suite, "table1", own, tmp_path)[1]
    assert "†" not in text
    assert "at infinity" not in text
    assert "Split halves: one random half of the train split is scored against the other half." in text
    assert (
        "Baselines of fewer real images (899 and 449) than the samples of a model (2000) are not lower bounds" in text
    )


def test_no_word_of_fewer_real_images_where_they_are_not(suite, own, tmp_path):
    alter(
        own,
        lambda score: {
            "samples": 2000,
            "reference": {**score["reference"], "split_halves": {**HALVES, "images": 2000}},
        },
    )
    assert "Baselines of fewer" not in drawn(suite, "table1", own, tmp_path)[1]


@pytest.mark.parametrize("name", ["table1", "ablation_solver"])
def test_imported_statistics_have_no_halves(suite, own, tmp_path, name):
    alter(own, lambda score: {"reference": {"form": "ADM", "sha256": "a" * 64}})
    rows, markdown, _ = drawn(suite, name, own, tmp_path)
    assert "split halves" not in markdown.lower()
    assert sum("real images" in str(row.values()) for row in rows) == 1


@pytest.mark.parametrize(
    "change", [{}, {"quantization": "round", "statistics": "VIRTUAL.npz"}], ids=["plain", "statistics"]
)
def test_tables_and_figures_state_the_protocol(suite, own, tmp_path, change):
    alter(own, lambda score: {"protocol": {**PROTOCOL, **change}})
    given, bits = (" (VIRTUAL.npz)", "rounding") if change else ("", "truncation")
    text = (
        f"Protocol offline: 2000 samples against the train split{given}, features of digits/classifier/default/seed0, "
        f"resizer none, quantized to 8 bits by {bits}."
    )
    assert text in drawn(suite, "table1", own, tmp_path)[1]
    assert text in footnotes_of(figures.curves(suite, suite.find("fig3a"), own))


def footnotes_of(figure) -> str:
    return " ".join(figure.get_supxlabel().split())


def halves_of(fid: float) -> Callable[[dict], dict]:
    """A change of the FD between split halves of the reference."""
    halves = {**HALVES, "metrics": {**HALVES["metrics"], "fid": fid}}
    return lambda score: {"reference": {**score["reference"], "split_halves": halves}}


@pytest.mark.parametrize("name", ["fig3a", "fig4", "ablation_solver"])
@pytest.mark.parametrize(("times", "shown"), [(0.19, False), (0.21, True), (1.2, True)])
def test_figures_show_the_baseline_unless_it_is_far_below(suite, own, name, times, shown):
    lowest = min(score["fid"] for score in scores.load(suite, suite.find(name), own))
    alter(own, halves_of(lowest * times))
    made = registry.get("artefact", suite.find(name).kind)(suite, suite.find(name), own)
    figure = made[1] if isinstance(made, tuple) else made
    lines = [line for line in figure.axes[0].get_lines() if line.get_label() == "split halves"]
    assert [list(line.get_ydata()) for line in lines] == [[lowest * times] * 2] * shown
    assert ("Split halves: one random half" in footnotes_of(figure)) == shown
    if shown:
        assert [text.get_text() for text in figure.legends[0].get_texts()][-1] == "split halves"


def test_an_ablation_figure_has_the_intervals_of_one_seed_as_bars(suite, own, tmp_path):
    alone = demo(tmp_path / "s.yaml", lambda text: text.replace("seeds: [0, 1, 2]", "seeds: [0]"))
    found = scores.load(alone, alone.find("ablation_solver"), own)
    figure = figures.ablation(found)
    assert footnotes_of(figure).startswith("Bars are 95 % bootstrap intervals over the samples of one seed. Protocol")
    bars = figure.axes[0].containers[1][2][0].get_segments()
    assert [list(bar[:, 1]) for bar in bars] == [
        pytest.approx([score["fid"] - 0.2, score["fid"] + 0.3]) for score in found if score.varied["solver"] == "heun"
    ]


def test_an_interval_beside_the_value_gives_a_bar_to_one_side(suite, own, tmp_path):
    alone = demo(tmp_path / "s.yaml", lambda text: text.replace("seeds: [0, 1, 2]", "seeds: [0]"))
    alter(own, lambda score: {"uncertainty": {"fid": {"low": score["metrics"]["fid"] + 0.1, "high": 9.0}}})
    figure = figures.ablation(scores.load(alone, alone.find("ablation_mu"), own))
    container = figure.axes[0].containers[0]
    bars = [list(bar[:, 1]) for bar in container[2][0].get_segments()]
    assert bars == [pytest.approx([y, 9.0]) for y in container[0].get_ydata()]


def test_the_default_settings_stand_once_in_the_legend(suite, own, tmp_path):
    entry = "  two: {method: cd, vary: {lr: [3.0e-3, 1.0e-3]}, samplers: [onestep, 'multistep,times~0.5853']}\n"
    twice = demo(tmp_path / "s.yaml", lambda text: text + entry)
    fake(twice, own)
    figure = figures.ablation(scores.load(twice, twice.find("ablation_two"), own))
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["NFE 1", "NFE 2", "default"]


def test_an_ablation_figure_over_seeds_has_deviations_as_bars(suite, made):
    figure = figures.ablation(scores.load(suite, suite.find("ablation_solver"), made / "results"))
    assert footnotes_of(figure).startswith("Protocol")
    assert footnotes_of(figure).endswith("Bars are one standard deviation over seeds to either side.")
    for container in figure.axes[0].containers:
        middle = container[0].get_ydata()
        bars = container[2][0].get_segments()
        assert [list(bar[:, 1]) for bar in bars] == [pytest.approx([y - 0.1, y + 0.1]) for y in middle]


def test_variants_of_different_settings_have_a_row_each_and_wide_labels_are_wrapped(suite, own, tmp_path):
    artefact = """artefacts:
  variants:
    kind: ablation
    caption: Variants of consistency distillation.
    paper: false
    entries:
      - method: cd
        variants:
          - {}
          - {steps: 9}
          - {solver: euler, distance: {name: lpips, pooling: average}, lr: 1.0e-3, total_steps: 123, ema_decay: 0.5}
"""
    other = demo(tmp_path / "s.yaml", lambda text: text.replace("artefacts:\n", artefact))
    fake(other, own)
    found = scores.load(other, other.find("variants"), own)
    axes = figures.ablation(found).axes[0]
    labels = [tick.get_text() for tick in axes.get_yticklabels()]
    assert [" ".join(label.split()) for label in labels] == [
        "default",
        "steps 9",
        "solver euler, distance lpips, pooling average, lr 0.001, total_steps 123, ema_decay 0.5",
    ]
    assert max(map(len, "\n".join(labels).splitlines())) <= 60
    for container, group in zip(axes.containers, scores.groups(found, figures.place).values(), strict=True):
        mean, deviation = scores.mean_and_deviation([score["fid"] for score in group])
        assert list(container[0].get_xdata()) == pytest.approx([mean])
        assert list(container[2][0].get_segments()[0][:, 0]) == pytest.approx([mean - deviation, mean + deviation])


def test_variants_of_one_setting_beside_the_default_and_samplers_of_equal_nfe_have_rows_of_their_own(
    suite, own, tmp_path
):
    artefact = """artefacts:
  variants:
    kind: ablation
    caption: N in consistency distillation.
    paper: false
    entries:
      - {method: cd, settings: {distance: l2}, variants: [{}, {steps: 9}], samplers: [SAMPLERS]}
"""
    artefact = artefact.replace("SAMPLERS", "'multistep,times~0.5853', 'multistep,times~0.8'")
    other = demo(tmp_path / "s.yaml", lambda text: text.replace("artefacts:\n", artefact))
    fake(other, own)
    axes = figures.ablation(scores.load(other, other.find("variants"), own)).axes[0]
    assert [" ".join(tick.get_text().split()) for tick in axes.get_yticklabels()] == [
        f"{words}, multistep,times~{time}" for words in ("distance~l2", "steps 9") for time in ("0.5853", "0.8")
    ]


def test_a_figure_of_fewer_images_says_so(suite, own):
    alter(own, short)
    notes = footnotes_of(figures.curves(suite, suite.find("fig3a"), own))
    assert notes.startswith(f"There are 500 samples, fewer {BIASED} (Chong")


def test_a_second_drawing_has_the_same_bytes(suite, made, tmp_path):
    for name in ("table1", "fig3b", "fig5", "ablation_solver"):
        report.draw(suite, name, made / "results", tmp_path)
        for path in tmp_path.rglob(f"{name}.*"):
            assert path.read_bytes() == (made / "reports" / path.relative_to(tmp_path)).read_bytes(), path.name


def one(suite, name: str, root: Path) -> Path:
    return scores.score_path(suite.cells(suite.find(name))[1], root)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extractor": {"name": "inception", "sha256": "f" * 64}}, "different extractor"),
        ({"extractor": {**EXTRACTOR, "sha256": "f" * 64}}, "different extractor"),
        ({"reference": {"split": "test", "images": 899, "sha256": "f" * 64}}, "different reference"),
        ({"samples": 50}, "different samples"),
        ({"protocol": {**PROTOCOL, "name": "clean"}}, "different protocol cannot stand in one artefact: offline in "),
        ({"protocol": {**PROTOCOL, "name": "clean"}}, ", clean in "),
        ({"protocol": {**PROTOCOL, "samples": 50}}, ": offline with samples 2000 in "),
        ({"protocol": {**PROTOCOL, "samples": 50}}, ", offline with samples 50 in "),
        ({"protocol": {**PROTOCOL, "neighbours": 3}}, ": offline with neighbours None in "),
        (
            {"protocol": {key: value for key, value in PROTOCOL.items() if key != "resizer"}},
            "protocol has no 'resizer'",
        ),
        ({"metrics": {"fid": math.nan}}, "fid is nan, not a finite number"),
        ({"metrics": {"fid": None}}, "fid is None, not a finite number"),
        ({"uncertainty": {"fid": {"low": 1.0, "high": math.inf}}}, "high of fid is inf, not a finite number"),
        (
            {"reference": {"split_halves": {"images": 9, "metrics": {"fid": math.nan}}}},
            "fid is nan, not a finite number",
        ),
        ({"metrics": {"kid": 1.0}}, "has no fid, only kid"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_scores_that_cannot_be_compared_are_refused(suite, own, tmp_path, change, message):
    path = one(suite, "fig3a", own)
    write(path, {**json.loads(path.read_text()), **change})
    with pytest.raises(UserError, match=re.escape(message)) as error:
        report.draw(suite, "fig3a", own, tmp_path / "reports")
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "reports").rglob("*.*"))


def test_halves_need_not_be_the_same_to_the_last_digit(suite, own, tmp_path):
    path = one(suite, "table1", own)
    write(path, {**json.loads(path.read_text()), **halves_of(0.0500001)(content(0.3))})
    assert drawn(suite, "table1", own, tmp_path)[0][1][FD] == "0.05"


@pytest.mark.parametrize("name", ["table1", "ablation_solver"])
@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("extractor", {"name": "inception", "sha256": "f"}),
        ("reference", {"split": "test", "images": 899, "sha256": "f"}),
        ("protocol", {**PROTOCOL, "name": "clean"}),
    ],
)
def test_a_baseline_of_another_kind_is_refused(suite, own, tmp_path, name, part, value):
    write(own / "scores/digits/real/test/offline.json", content(0.3, **{part: value}))
    with pytest.raises(UserError, match=f"the real-data baseline: scores of different {part}"):
        report.draw(suite, name, own, tmp_path)


def test_a_score_without_the_number_of_evaluations_is_refused(suite, own):
    path = one(suite, "fig3a", own)
    write(path, {**json.loads(path.read_text()), "nfe": None})
    with pytest.raises(UserError, match=re.escape(f"{path} is not a score of samples: it has no 'nfe'")):
        scores.load(suite, suite.find("fig3a"), own)


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_damaged_score_is_reported_in_one_line(suite, own, text):
    path = one(suite, "fig3a", own)
    path.write_text(text)
    with pytest.raises(UserError, match=re.escape(str(path))) as error:
        scores.load(suite, suite.find("fig3a"), own)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "what"), [("fig3a", "scores"), ("fig5", "previews"), ("timings", "models")])
def test_a_missing_file_is_reported_in_one_line(suite, own, tmp_path, name, what):
    shutil.rmtree(own / what)
    with pytest.raises(
        UserError, match=rf"^no (file|{what.removesuffix('s')}s?) .*{what}.*(snakemake|cm train)"
    ) as error:
        report.draw(suite, name, own, tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"wall": 1.0, "processor": "long"}'])
def test_a_damaged_file_of_seconds_is_reported_in_one_line(suite, own, text):
    path = next((own / "models/digits/edm/default").rglob("seconds.json"))
    path.write_text(text)
    with pytest.raises(UserError, match=re.escape(str(path))) as error:
        tables.timings(suite, suite.find("timings"), own)
    assert "\n" not in str(error.value)


def test_mixed_commits_have_a_footnote(suite, own, tmp_path):
    path = one(suite, "table1", own)
    write(path, {**json.loads(path.read_text()), "commit": "def456"})
    report.draw(suite, "table1", own, tmp_path)
    for suffix in ("md", "tex"):
        assert "different commits" in (tmp_path / f"tables/table1.{suffix}").read_text()


def test_a_baseline_of_another_commit_has_a_footnote(suite, own, tmp_path):
    write(own / "scores/digits/real/test/offline.json", content(0.3, commit="def456"))
    assert "different commits of this code are mixed: abc123; def456." in drawn(suite, "table1", own, tmp_path)[1]


def test_two_runs_under_one_label_are_refused(suite, own, tmp_path):
    clash = demo(tmp_path / "s.yaml", lambda text: text.replace("[l1, l2, lpips]}", "[l1, l2, lpips]}, label: CD"))
    with pytest.raises(UserError, match=r"'CD' stands for .*labels of their own"):
        report.draw(clash, "fig3a", own, tmp_path)


def test_importing_the_report_is_cheap():
    check = (
        "import cm.report.tables, sys; assert not {'torch', 'numpy', 'pandas', 'matplotlib', 'yaml'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=True)
