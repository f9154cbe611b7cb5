"""Every path of results/ is built and parsed in one module."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cm.config.layout import Layout, check_layout
from cm.errors import UserError

ROOT = Path(__file__).parents[2]
RUN = "digits/cd/solver~euler,steps~9/seed0"
SAMPLES = {"run": RUN, "progress": "50", "sampler": "multistep,times~2.0+0.8"}
PARTS = {**SAMPLES, "protocol": "offline"}


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        (Layout().score(RUN, 50, PARTS["sampler"], "offline"), PARTS),
        (Layout().samples(RUN, 50, PARTS["sampler"]), SAMPLES),
        (
            Layout().preview(RUN, 50, PARTS["sampler"], ".png"),
            SAMPLES,
        ),
        (Layout().model(RUN, 50), {"run": RUN, "progress": "50"}),
        (Layout().features("digits", "offline"), {}),
        ("reports/tables/table1.csv", {}),
        ("--cores", {}),
    ],
)
def test_building_and_parsing_are_inverses(path, parts):
    assert Layout().parse(path) == parts


def test_without_arguments_paths_are_patterns_of_the_workflow():
    assert Layout().score() == "results/scores/{run}/{progress}/{sampler}/{protocol}.json"
    assert Layout().score().format(**PARTS) == Layout().score(**PARTS)
    assert Layout(results="elsewhere").model(progress=100) == "elsewhere/models/{run}/100.safetensors"


@pytest.mark.parametrize(
    "old",
    [
        "images/digits/ct/default/seed0/100/onestep.npy",
        "scores/digits/ct/default/seed0/100/onestep.json",
        "scores/digits/real/test.json",
    ],
)
def test_results_of_the_old_layout_are_refused_in_one_line(tmp_path, old):
    layout = Layout(results=str(tmp_path / "results"))
    check_layout(layout)
    path = tmp_path / "results" / old
    path.parent.mkdir(parents=True)
    path.touch()
    with pytest.raises(UserError, match="was written by an earlier version") as caught:
        check_layout(layout)
    assert "\n" not in str(caught.value)
    assert path.exists()


def test_results_of_this_layout_are_not_refused(tmp_path):
    layout = Layout(results=str(tmp_path))
    for path in (
        layout.score(**PARTS),
        layout.baseline("digits", "test", "offline"),
        layout.samples(RUN, 50, "onestep"),
    ):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).touch()
    check_layout(layout)


def test_no_other_module_builds_paths_of_results():
    for path in (*ROOT.glob("cm/**/*.py"), *ROOT.glob("workflow/**/*.smk")):
        if path.name != "layout.py":
            found = re.findall(r"^[^#]*[=(,] *f?[\"']results/[\w{]", path.read_text(), re.MULTILINE)
            assert not found, f"{path} builds a path below results/"
