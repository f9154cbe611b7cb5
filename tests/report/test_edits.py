"""Figures and the table of edits, and grids of samples, from made-up results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from faked import FD, ROOT, edit_content, fake, read_rows, write

from cm import config, report
from cm.config.layout import Layout
from cm.errors import UserError
from cm.report import panels
from cm.report.edit_score_file import read_edit_score

SUITE = """
dataset: digits
seeds: [0, 1]
experiments: EXPERIMENTS
artefacts:
  table:
    kind: editing
    caption: A table.
    entries:
      - {method: cd, edits: [denoising, "inpainting,mask~half"], label: CD}
      - {method: edm, edits: ["inpainting,mask~half"], label: EDM}
  pictures:
    kind: edits
    caption: Pictures.
    options: {images: 2}
    entries: [{method: cd, edits: ["inpainting,mask~half", "stroke,median~3", "interpolation,points~4"], label: CD}]
  levels:
    kind: edits
    caption: Levels.
    options: {images: 3}
    entries: [{method: cd, edits: [denoising, "denoising,sigma~1.0"], label: CD}]
  grid:
    kind: grids
    caption: A grid.
    options: {columns: 3, rows: 2}
    entries: [{method: edm, label: EDM}, {method: cd, samplers: [onestep, "multistep,times~0.8"], label: CD}]
"""


def load(folder: Path, change=lambda text: text) -> config.Suite:
    path = folder / "suite.yaml"
    path.write_text(change(SUITE).replace("EXPERIMENTS", str(ROOT / "config/experiments")))
    return config.load_suite(path)


@pytest.fixture
def suite(tmp_path):
    return load(tmp_path)


@pytest.fixture
def root(suite, tmp_path):
    return fake(suite, tmp_path / "results")


def test_the_table_has_models_and_baselines_of_each_edit(suite, root, tmp_path):
    report.draw(suite, "table", root, tmp_path)
    rows = read_rows(tmp_path / "tables/table.csv")
    half = "inpainting,mask~half"
    found = [(row["edit"], row["method"]) for row in rows]
    assert found == [("denoising", "CD"), ("denoising", "baseline"), (half, "CD"), (half, "EDM"), (half, "baseline")]
    assert (rows[0]["PSNR"], rows[0]["NFE"], rows[0]["images"]) == ("10.5", "1", "898")
    assert (rows[1]["PSNR"], rows[1]["NFE"], rows[1]["known, RMS error"]) == ("5.0", "", "")
    assert (rows[2]["NFE"], rows[2]["perceptual distance"], rows[2][FD]) == ("39", "1.5", "9.0")
    text = (tmp_path / "tables/table.md").read_text()
    assert "10.5 ± 0.7" in text and "The images are the first 898 of digits/test." in text


def test_images_of_the_training_split_are_said_to_be_so(suite, root, tmp_path):
    for path in root.glob("edits/**/score.json"):
        write(path, edit_content("denoising", 10.0, source="digits/train"))
    report.draw(suite, "table", root, tmp_path)
    assert "of digits/train, which are not held out." in (tmp_path / "tables/table.md").read_text()


@pytest.mark.parametrize("name", ["pictures", "levels", "grid"])
def test_figures_are_drawn(suite, root, tmp_path, name):
    report.draw(suite, name, root, tmp_path)
    assert (tmp_path / f"figures/{name}.png").stat().st_size > 1000


def captured(monkeypatch, suite, name, root, out):
    found = []
    draw = panels.draw
    monkeypatch.setattr(panels, "draw", lambda parts, notes: found.extend(parts) or draw(parts, notes))
    report.draw(suite, name, root, out)
    return found


def test_panels_have_what_was_given_the_results_and_the_original(suite, root, tmp_path, monkeypatch):
    inpainting, stroke, interpolation = captured(monkeypatch, suite, "pictures", root, tmp_path)
    assert inpainting.columns == ["masked", "inpainted", "original"]
    assert stroke.columns == ["strokes", "generated", "", "", ""]
    assert interpolation.columns == ["0", "0.33", "0.67", "1"]
    assert [len(panel.rows) for panel in (inpainting, stroke, interpolation)] == [2, 2, 2]


def test_levels_of_noise_stand_side_by_side_with_the_denoised_images_below(suite, root, tmp_path, monkeypatch):
    (panel,) = captured(monkeypatch, suite, "levels", root, tmp_path)
    assert panel.columns == ["original", "0.5", "1"]
    assert len(panel.rows) == 6
    pictures = np.load(Layout(str(root)).edit_preview("digits/cd/default/seed0", 100, "denoising")).reshape(
        16, 3, 8, 8, 1
    )
    assert np.array_equal(panel.rows[0][1], pictures[0, 0]) and np.array_equal(panel.rows[1][1], pictures[0, 1])
    assert np.array_equal(panel.rows[2][0], pictures[1, 2]) and (panel.rows[1][0] == 255).all()


def test_grids_show_the_first_samples_in_order(suite, root, tmp_path, monkeypatch):
    found = captured(monkeypatch, suite, "grid", root, tmp_path)
    assert [panel.title for panel in found] == ["EDM, 18 steps", "CD, one step", "CD, two steps"]
    preview = np.load(Layout(str(root)).preview("digits/cd/default/seed0", 100, "onestep"))
    assert np.array_equal(np.concatenate(found[1].rows), preview[:6])


def test_samples_of_a_conditional_model_have_their_classes(tmp_path, monkeypatch):
    change = "entries: [{dataset: imagenet64, method: cd, label: CD}]"
    start = SUITE.index("    entries: [{method: edm, label: EDM}, {method: cd, samplers")
    suite = load(tmp_path, lambda text: f"{text[:start]}    {change}\n")
    root = fake(suite, tmp_path / "results")
    with pytest.raises(UserError, match="with the classes of the samples"):
        report.draw(suite, "grid", root, tmp_path)
    path = Path(Layout(str(root)).preview("imagenet64/cd/default/seed0", 100, "onestep", ".json"))
    write(path, {"labels": list(range(64))})
    (panel,) = captured(monkeypatch, suite, "grid", root, tmp_path)
    assert panel.labels == [["class 0", "class 1", "class 2"], ["class 3", "class 4", "class 5"]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": {}}, "its methods do not have 'model'"),
        ({"images": 0}, "images must be a whole number of at least 1"),
        ({"methods": {"model": {"psnr": 1.0}}}, "method 'model' must have psnr, ssim"),
        ({"protocol": 3}, "protocol must be an object"),
    ],
)
def test_damaged_scores_are_refused(tmp_path, change, message):
    write(tmp_path / "score.json", edit_content("denoising", 10.0, **change))
    with pytest.raises(UserError) as error:
        read_edit_score(tmp_path / "score.json")
    assert message in str(error.value)


def test_a_number_that_is_not_finite_is_refused(tmp_path):
    write(tmp_path / "score.json", edit_content("denoising", float("nan")))
    with pytest.raises(UserError, match="psnr of method 'model' is nan, not a finite number"):
        read_edit_score(tmp_path / "score.json")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("edits: [denoising, ", "samplers: [onestep, ", "needs 'edits:' in its entries"),
        ("{method: edm, label: EDM}", "{method: edm, edits: [denoising]}", "shows no edits: it takes samplers"),
        ("mask~half", "mask~absent", "unknown mask 'absent'"),
        ("edits: [denoising, ", "edits: [colorization, ", "colorization needs images of 3 channels, not 1"),
        ("edits: [denoising, ", "edits: [superresolution, ", "blocks of patch 8 do not tile images of 8x8"),
    ],
)
def test_bad_suites_are_refused(tmp_path, old, new, message):
    with pytest.raises(UserError) as error:
        load(tmp_path, lambda text: text.replace(old, new))
    assert message in str(error.value)
