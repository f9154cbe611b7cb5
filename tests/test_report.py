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
from pathlib import Path

import numpy as np
import pytest

from cm import config, registry, report
from cm.errors import UserError
from cm.report import figures, scores, tables

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "config" / "suites" / "demo.yaml"
FID = "FID, digits, classifier features"
EXTRACTOR = {"name": "digits/classifier/default/seed0", "sha256": "e" * 64}


def content(fid: float, **more) -> dict:
    """A score file with that FID, and the other metrics as functions of it."""
    return {
        "metrics": {"fid": fid, "inception_score": 10 - fid / 10, "precision": 0.9, "recall": 0.5},
        "images": 2000,
        "extractor": EXTRACTOR,
        "reference": {"split": "train", "images": 898, "sha256": "r" * 64},
        "seconds": {"sampling": 1.5, "scoring": 0.4},
        "versions": {"cm": "0.1.0", "torch": "2.15.0"},
        "commit": "abc123",
        **more,
    }


def write(path: Path, value: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def fid_of(cell: config.Cell) -> float:
    """Some FID, of which the mean over seeds 0, 1, 2 is that of seed 1."""
    nfe = config.sampler(cell.sampler).evaluations
    return (2 + len(cell.run.variant) / 10 + 100 / cell.progress) / math.sqrt(nfe) + 0.1 * cell.run.seed


def fake(suite: config.Suite, root: Path, fid=fid_of) -> Path:
    """Scores, previews and benchmarks of every cell of a suite."""
    write(root / "scores/digits/real/test.json", content(0.31, images=899, sampler=None))
    noise = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1), np.uint8)
    for artefact in (*suite.artefacts.values(), *suite.ablations.values()):
        for cell in suite.cells(artefact):
            nfe = config.sampler(cell.sampler).evaluations
            write(scores.score_path(cell, root), content(fid(cell), run=cell.run.name, sampler=cell.sampler, nfe=nfe))
            image = root / "samples" / f"{cell.path}.npy"
            image.parent.mkdir(parents=True, exist_ok=True)
            np.save(image, noise)
            benchmark = root / "benchmarks/train" / f"{cell.run.name}.tsv"
            benchmark.parent.mkdir(parents=True, exist_ok=True)
            benchmark.write_text(f"s\th:m:s\tmax_rss\n{10.0 + cell.run.seed}\t0:00:10\t321.5\n")
    return root


def demo(path: Path, change) -> config.Suite:
    """The demo suite, its text changed."""
    text = f"{change(DEMO.read_text())}\nexperiments: {ROOT / 'config' / 'experiments'}\n"
    path.write_text(text)
    return config.load_suite(path)


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


def read(made: Path, name: str) -> list[dict[str, str]]:
    with open(made / "reports/tables" / f"{name}.csv", newline="") as file:
        return list(csv.DictReader(file))


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


def test_a_kind_tells_the_workflow_what_it_needs():
    kinds = registry.known("artefact")
    assert {name: kind.needs for name, kind in kinds.items() if kind.needs != "scores"} == {
        "recipes": "nothing",
        "runs": "nothing",
        "samples": "samples",
        "timings": "benchmarks",
    }
    assert [name for name, kind in kinds.items() if kind.floor] == ["comparison"]


def test_means_and_deviations_over_seeds(made):
    rows = {(row["Method"], row["NFE"]): row for row in read(made, "table1")}
    values = [(2 + 0.7 + 1) / math.sqrt(2) + 0.1 * seed for seed in (0, 1, 2)]
    cd = rows["CD", "2"]
    assert float(cd[FID]) == pytest.approx(sum(values) / 3, rel=1e-12)
    assert float(cd[f"{FID}, std"]) == pytest.approx(statistics.stdev(values), rel=1e-12)
    assert float(cd[f"{FID}, std"]) == pytest.approx(0.1)
    assert float(cd["IS, digits, classifier features"]) == pytest.approx(10 - sum(values) / 30, rel=1e-12)
    assert (cd["seeds"], cd["images"]) == ("3", "2000")


def test_the_floor_comes_first_and_is_never_the_best(made):
    first = read(made, "table1")[0]
    assert first["Method"] == "real images (test)"
    assert (first[FID], first["images"], first["NFE"], first["seeds"]) == ("0.31", "899", "", "")
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
    assert found["real images (test)", ""] == ""
    assert [row["Method"] for row in rows if not row[FID]][:3] == ["DDIM"] * 3
    assert len(rows) == 1 + 36
    assert "published recall, CIFAR-10, Inception" not in rows[0]
    assert rows[-1]["group in the paper"] == "direct generation"


def test_fid_is_never_alone(made):
    for path in (made / "reports/tables").glob("*.csv"):
        heads = path.read_text().splitlines()[0]
        for head in csv.reader([heads]).__next__():
            measured = re.search(r"\b(FID|IS|precision|recall)\b", head)
            assert not measured or re.search(r"digits, classifier features|CIFAR-10, Inception", head), head


def test_figures_name_the_extractor(suite, made):
    for name in ("fig3a", "fig4"):
        kind = registry.get("artefact", suite.find(name).kind)
        assert kind(suite, suite.find(name), made / "results").axes[0].get_ylabel() == FID


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
    ]
    assert [row["variant"] for row in rows] == ["solver~euler,steps~9", "solver~euler", "steps~9", "default"]
    assert float(rows[3][FID]) == pytest.approx(3.7 + 0.1)


def test_an_ablation_figure_draws_lines_over_numbers_and_points_over_words(suite, made):
    found = scores.load(suite, suite.find("ablation_solver"), made / "results")
    axes = figures.ablation(found).axes[0]
    lines = {container.get_label() for container in axes.containers}
    assert lines == {"solver euler", "solver heun"}
    assert axes.get_lines()[-1].get_label() == "default"
    assert list(axes.get_lines()[-1].get_xdata()) == [18]


def test_recipes_leave_no_setting_out(suite, made):
    rows = {row["key"]: row for row in read(made, "table3")}
    run = config.load("digits/ct/default/seed0", suite.experiments)
    for section, settings in run.describe().items():
        for key in settings:
            assert rows[f"{section}.{key}"]["CT"] != "", (section, key)
    assert rows["training.lr"]["CT"] == str(run.settings["lr"])
    assert rows["network.dropout"]["CT"] == "0.0"
    assert rows["training.clip"]["CT"] == "none"
    assert rows["objective.s1"]["CD"] == ""
    assert rows["objective.s1"]["setting"] == "s1"
    assert rows["inputs.teacher"]["CD"] == "digits/edm/default"
    assert rows["inputs.teacher"]["PD, steps 2"].startswith("digits/pd/steps~4")
    assert list(rows)[:2] == ["objective.name", "run.variant"]


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
    run = config.load("digits/edm/default/seed0", ROOT / "config/experiments")
    seen = run.settings["iterations"] * run.settings["batch"]
    assert float(edm["training images per second"]) == pytest.approx(seen / 11)
    assert float(edm["sampling seconds"]) == 1.5


def test_timings_without_scores(suite, own):
    for path in (own / "scores").rglob("*.json"):
        path.unlink()
    table = tables.timings(suite, suite.find("timings"), own)
    assert set(table["sampling seconds"]) == {None}


def test_frame_has_a_row_per_cell(suite, made):
    table = scores.frame(suite, suite.find("ablation_solver"), made / "results")
    assert len(table) == 2 * 2 * 3
    assert table.iloc[0][["solver", "steps", "seed", "nfe", "extractor"]].tolist() == [
        "euler",
        9,
        0,
        1,
        "digits/classifier/default/seed0",
    ]
    assert scores.notes(table) == []


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
        ({"images": 50}, "different images"),
        ({"metrics": {"fid": math.nan}}, "fid is nan, not a finite number"),
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


def test_a_floor_of_another_extractor_is_refused(suite, own, tmp_path):
    write(own / "scores/digits/real/test.json", content(0.3, extractor={"name": "inception", "sha256": "f"}))
    with pytest.raises(UserError, match="the floor: scores of different extractor"):
        report.draw(suite, "table1", own, tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_damaged_score_is_told_in_one_line(suite, own, text):
    path = one(suite, "fig3a", own)
    path.write_text(text)
    with pytest.raises(UserError, match=re.escape(str(path))) as error:
        scores.load(suite, suite.find("fig3a"), own)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "what"), [("fig3a", "scores"), ("fig5", "samples"), ("timings", "benchmarks")])
def test_a_missing_file_is_told_in_one_line(suite, own, tmp_path, name, what):
    shutil.rmtree(own / what)
    with pytest.raises(UserError, match=rf"^no {what.removesuffix('s')}s? .*{what}.*snakemake") as error:
        report.draw(suite, name, own, tmp_path)
    assert "\n" not in str(error.value)


def test_mixed_commits_are_told_in_a_footnote(suite, own, tmp_path):
    path = one(suite, "table1", own)
    write(path, {**json.loads(path.read_text()), "commit": "def456"})
    report.draw(suite, "table1", own, tmp_path)
    for suffix in ("md", "tex"):
        assert "different commits" in (tmp_path / f"tables/table1.{suffix}").read_text()


def test_two_runs_under_one_label_are_refused(suite, own, tmp_path):
    clash = demo(tmp_path / "s.yaml", lambda text: text.replace("[l1, l2, lpips]}", "[l1, l2, lpips]}, label: CD"))
    with pytest.raises(UserError, match=r"'CD' stands for .*labels of their own"):
        report.draw(clash, "fig3a", own, tmp_path)


def test_importing_the_report_is_cheap():
    check = (
        "import cm.report.tables, sys; assert not {'torch', 'numpy', 'pandas', 'matplotlib', 'yaml'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=True)
