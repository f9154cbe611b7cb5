"""The figure of quality against training compute, from made-up results."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from faked import DEMO, demo, fake

from cm import report
from cm.config import load_suite
from cm.cost import costs
from cm.errors import UserError
from cm.report import compute, published

CURVES = """
  compute_curves:
    kind: compute
    caption: Compute over training.
    paper: false
    progress: [50, 100]
    seeds: [0]
    entries:
      - {method: cd, samplers: [onestep, "multistep,times~0.5853"], label: CD}
      - {method: pd, vary: {steps: [1, 2]}, label: PD}
"""


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suite")
    return demo(folder / "s.yaml", lambda text: text.replace("\nablations:", f"{CURVES}\nablations:"))


@pytest.fixture(scope="module")
def root(suite, tmp_path_factory) -> Path:
    return fake(suite, tmp_path_factory.mktemp("results") / "results")


class Counter:
    """Trainings of 1,000 FLOPs for a teacher or a classifier, 100 for PD of two steps, 10 for any other."""

    def of_training(self, run, experiments) -> float:
        total = {"edm": 1000, "classifier": 1000}.get(run.method, 100 if run.settings.get("steps") == 2 else 10)
        return total / (run.training.total_steps * run.training.batch)


class Nothing:
    def of_training(self, run, experiments) -> int:
        return 0


def text(figure) -> str:
    return " ".join(figure.get_supxlabel().split())


def test_a_model_stands_at_the_compute_of_its_training_and_of_those_it_starts_from(suite, root):
    """The teachers of PD of one step are those of 2, 4 and 8 steps and EDM; CD has EDM and a classifier."""
    figure = compute.compute(suite, suite.find("compute_curves"), root, Counter())
    places = [[round(x, 6) for x in one.lines[0].get_xdata()] for one in figure.axes[0].containers]
    assert places == [[2005, 2010], [2005, 2010], [1125, 1130], [1070, 1120]]
    assert figure.axes[0].get_xlabel() == "FLOPs of training, with those of the trainings it starts from"
    assert figure.axes[0].get_xscale() == figure.axes[0].get_yscale() == "log"
    thin = [line for line in figure.axes[0].get_lines() if line.get_linewidth() == 0.8 and line.get_linestyle() == "-"]
    assert [[round(x, 6) for x in line.get_xdata()] for line in thin] == [[10, 2010], [10, 1130]]
    assert compute.FLOPS in text(figure) and compute.ALONE in text(figure)


def test_each_number_of_evaluations_has_a_marker(suite, root):
    figure = compute.compute(suite, suite.find("successors_compute"), root, Counter())
    handles, labels = figure.axes[0].get_legend_handles_labels()
    assert {"EDM", "CD", "CT", "iCT", "ECT", "TCM", "sCD", "sCT", "MeanFlow", "NFE 1", "NFE 2", "NFE 35"} <= set(labels)
    markers = {label: handle.get_marker() for label, handle in zip(labels, handles, strict=True) if "NFE" in label}
    assert len(set(markers.values())) == 3
    own = [one.lines[0].get_marker() for one in figure.axes[0].containers]
    assert own == [markers["NFE 35"], *[markers["NFE 1"], markers["NFE 2"]] * 8]


def test_labels_of_one_colour_differ_in_their_marks(suite, root):
    figure = compute.compute(suite, suite.find("successors_compute"), root, Counter())
    _, labels = figure.axes[0].get_legend_handles_labels()
    marks = {}
    for container in figure.axes[0].containers:
        line = container.lines[0]
        marks.setdefault(container.get_label(), (line.get_color(), line.get_markerfacecolor()))
    named = [marks[label] for label in labels if label in marks]
    assert len(named) > len({colour for colour, _ in named}) and len(named) == len(set(named))


def test_without_torch_the_axis_has_images(suite, root):
    figure = compute.compute(suite, suite.find("successors_compute"), root)
    assert figure.axes[0].get_xlabel().startswith("images of training")
    assert compute.FLOPS not in text(figure)
    edm = suite.experiments.run("digits/edm/default/seed0").training
    assert list(figure.axes[0].containers[0].lines[0].get_xdata()) == [edm.total_steps * edm.batch]


def test_published_weights_have_no_compute(suite, root):
    artefact = suite.find("compute_curves")
    with pytest.raises(UserError, match=r"^artefact compute_curves: digits/cd/default/seed0 has published weights"):
        compute.compute(suite, artefact, root, Nothing())
    released = load_suite(DEMO.parent / "successors.yaml")
    (note,) = compute._name_published(released, released.find("successors_compute_cifar10"))
    assert note == "Not counted: the training of the published weights that ECT, TCM start from."


def test_training_flops_are_those_of_describe(suite):
    experiments = suite.experiments
    run = experiments.run("digits/tcm/default/seed0")
    parts = {part.role: part.total for part in costs.training_parts(run, experiments)}
    assert parts.keys() == {"student", "target", "teacher"}
    assert parts["student"] == 3 * parts["target"] == 3 * parts["teacher"]
    assert costs.training_flops(run, experiments) == sum(parts.values())


def test_the_command_counts_the_trainings(suite, root, tmp_path):
    report.draw(suite, "successors_compute", root, tmp_path, Counter())
    svg = (tmp_path / "figures/successors_compute.svg").read_text()
    assert "FLOPs of training" in re.sub(r"\s+", " ", svg)


@pytest.mark.parametrize(
    ("dataset", "method", "number"),
    [("cifar10", "ECT", "2.92"), ("cifar10", "MeanFlow", "2.82"), ("imagenet64", "ECT, EDM2-S", "4.05")],
)
def test_fastgens_numbers_are_a_column_of_their_own(dataset, method, number):
    suite = load_suite(DEMO.parent / "successors.yaml")
    rows = published.published(suite.find(f"successors_{dataset}"))
    title = next(title for title in rows[method, 1] if title.startswith("FID by FastGen"))
    assert rows[method, 1][title] == number
    assert "FastGen README" in str(rows[method, 1]["source of the published numbers"])
    assert rows["CD", 1][title] is None
