"""Values of settings: bounds for every number, and one line for what no run, no network and no suite can be."""

from __future__ import annotations

import dataclasses
import shutil
import types
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import pytest
import yaml
from refusals import outcome, refusal
from setting_sections import SECTIONS

from cm import config, registry
from cm.config import Experiments, check, make_component
from cm.config.checking import hints_of
from cm.config.settings import Bound

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "config" / "experiments"
COMPONENTS = {
    f"{kind} {name}": found
    for kind in registry.HOMES
    for name, found in registry.components(kind).items()
    if isinstance(found, type) and dataclasses.is_dataclass(found)
}
SETTINGS = [
    pytest.param(cls, setting, id=f"{name} {setting}")
    for name, cls in {**{cls.__name__: cls for cls in SECTIONS}, **COMPONENTS}.items()
    for setting in hints_of(cls)
]
ABSURD = [10**30, -(10**30), 2**63, 10**400, 1e308, -1e308, float("inf"), float("-inf"), float("nan")]
WRONG = [None, "x", "", [], {}, [[]], [{}], {"name": []}, {"name": {"name": "x"}}, {1: 2}, [None], True, object, b"x"]


def numbers(hint: Any, marks: tuple[Any, ...] = ()) -> list[tuple[type, tuple[Any, ...]]]:
    """Every number in a type hint, with its marks."""
    if hint in (int, float):
        return [(hint, marks)]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return numbers(arguments[0], arguments[1:])
    if origin in (Union, types.UnionType, tuple, dict):
        return [number for argument in arguments for number in numbers(argument)]
    return []


@pytest.mark.parametrize(("cls", "setting"), SETTINGS)
def test_every_number_has_bounds_on_both_sides(cls, setting):
    for kind, marks in numbers(hints_of(cls)[setting]):
        words = {mark.word.split()[-1] for mark in marks if isinstance(mark, Bound)}
        assert words & {"least", "above"} and words & {"most", "below"}, kind


@pytest.mark.parametrize(("cls", "setting"), SETTINGS)
def test_no_value_of_a_setting_is_a_traceback(cls, setting):
    for value in [*ABSURD, *WRONG]:
        line = outcome(check, cls, {setting: value}, "here")
        assert line or value in ("x", "", [], {}, None, True) or not numbers(hints_of(cls)[setting])


@pytest.mark.parametrize("kind", registry.HOMES)
@pytest.mark.parametrize("value", [*WRONG, {}, {"name": None}, {"name": "x", 1: 2}, {"nome": "x"}], ids=str)
def test_what_is_no_component_is_refused(kind, value):
    assert refusal(make_component, kind, value, "here").startswith("here")


ABSURD_RUNS = [
    "cd/total_steps~1" + "0" * 30,
    "cd/batch~1" + "0" * 12,
    "cd/blocks~10000000",
    "cd/resolution~1048576",
    "cd/resolution~1099511627776",
    "cd/channels~1000000",
    "cd/channels~16384,multipliers~64+64",
    "cd/blocks~100,channels~16384",
    "cd/channels~5,noise_channels~1",
    "cd/image_channels~1000000",
    "cd/multipliers~" + "+".join(["1"] * 80),
    "cd/multipliers~0",
    "cd/multipliers~65",
    "cd/multipliers~none",
    "cd/attention~0",
    "cd/attention~-8",
    "cd/resample_filter~none",
    "cd/resample_filter~1+1" + "0" * 20,
    "cd/steps~1000000000",
    "cd/lr~1.0e+30",
    "cd/lr~-1.0",
    "cd/sigma_max~1.0e+30",
    "cd/sigma_min~0.0",
    "cd/rho~1.0e-05",
    "cd/rho~1.0e+05",
    "cd/ema_decay~1.0",
    "ct/s1~10000000000",
    "ect/q~1.0e+300",
    "edm/p_mean~1.0e+10",
    "pd/steps~1" + "0" * 20,
    "classifier/features~1000000000",
    "classifier/channels~12",
    "classifier/channels~16384,features~65536",
]


@pytest.mark.parametrize("run", ABSURD_RUNS, ids=lambda run: run[:40])
def test_an_absurd_size_is_refused_before_anything_is_built(run):
    assert refusal(Experiments(EXPERIMENTS).run, f"digits/{run}/seed0")


def changed(folder: Path, **documents: dict) -> Experiments:
    """The digits with other entries in some of their files."""
    shutil.rmtree(folder / "digits", ignore_errors=True)
    shutil.copytree(EXPERIMENTS / "digits", folder / "digits")
    for name, entries in documents.items():
        path = folder / "digits" / f"{name}.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | entries))
    return Experiments(folder)


@pytest.mark.parametrize(
    ("documents", "run", "message"),
    [
        ({"cd": {"teacher": "cd"}}, "cd/default", "digits/cd/default/seed0 is not a diffusion model"),
        ({"cd": {"teacher": "ct"}}, "cd/default", "digits/ct/default/seed0 is not a diffusion model"),
        ({"cd": {"teacher": "classifier"}}, "cd/distance~l2", "is not a diffusion model and cannot be a teacher"),
        ({"cd": {"teacher": "ect"}}, "cd/distance~l2", "is not a diffusion model"),
        ({"cd": {"teacher": "tcm"}}, "cd/distance~l2", "is not a diffusion model"),
        ({"tcm": {"teacher": "edm"}}, "tcm/default", "is not a model of easy consistency tuning (ect)"),
        ({"tcm": {"teacher": "ct"}}, "tcm/default", "is not a model of easy consistency tuning (ect)"),
        ({"tcm": {"teacher": "tcm"}}, "tcm/default", "is not a model of easy consistency tuning (ect)"),
        ({"pd": {"teacher": "pd"}}, "pd/default", "its teachers form a circle: digits/pd/default/seed0 <- "),
        ({"pd": {"teacher": "pd/steps~8"}}, "pd/default", "its teachers form a circle"),
        ({"pd": {"teacher": "pd", "chain": 1}}, "pd/default", "its teachers form a circle"),
        ({"pd": {"teacher": "pd/steps~4"}}, "pd/steps~8", "its teachers form a circle"),
        ({"base": {"perceptual": "digits/edm/default/seed0"}}, "cd/default", "is not a classifier and has no features"),
        ({"base": {"perceptual": "digits/cd/default/seed0"}}, "cd/default", "is not a classifier and has no features"),
        ({"base": {"perceptual": "nonesuch"}}, "cd/default", "unknown weights 'nonesuch'"),
        ({"base": {"perceptual": "a/b"}}, "cd/default", "is not of the form"),
        ({"cd": {"teacher": "edm/"}}, "cd/default", ""),
        ({"cd": {"teacher": "edm/a/b"}}, "cd/default", "is not of the form"),
        ({"cd": {"teacher": ""}}, "cd/default", "is not of the form"),
    ],
    ids=str,
)
def test_circles_and_what_is_no_teacher_or_classifier_are_refused(tmp_path, documents, run, message):
    experiments = changed(tmp_path, **documents)
    line = outcome(lambda: experiments.inputs(experiments.run(f"digits/{run}/seed0")))
    assert message in line and bool(line) == bool(message)


def write_suite(folder: Path, **document: object) -> Path:
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump({"experiments": str(folder / "experiments"), "dataset": "digits", **document}))
    return path


@pytest.fixture
def place(tmp_path):
    """A folder with experiment files and protocols of its own."""
    shutil.copytree(EXPERIMENTS / "digits", tmp_path / "experiments" / "digits")
    shutil.copytree(ROOT / "config/protocols", tmp_path / "protocols")
    return tmp_path


@pytest.mark.parametrize("run", ["edm/default", "cd/default", "pd/default"])
def test_an_extractor_that_is_no_classifier_is_refused(place, run):
    path = place / "protocols/offline.yaml"
    path.write_text(path.read_text().replace("digits/classifier/default/seed0", f"digits/{run}/seed0"))
    suite = write_suite(place, artefacts={"a": {"kind": "curves", "caption": "c", "entries": [{"method": "edm"}]}})
    assert "is not a classifier and has no features" in refusal(config.load_suite, suite)


TEN = list(range(2, 12))
GRIDS = [
    {"vary": dict.fromkeys(("steps", "batch", "total_steps", "warmup", "blocks", "s0", "s1", "a", "b", "c"), TEN)},
    {"vary": {"steps": list(range(2, 10_000)), "batch": [1, 2]}},
    {"variants": [{"steps": steps} for steps in range(2, 5_000)], "samplers": ["onestep", "multistep,times~0.8", "x"]},
]


@pytest.mark.parametrize("grid", GRIDS, ids=["10^10 runs", "two settings", "samplers"])
def test_a_grid_of_too_many_runs_is_refused(place, grid):
    artefact = {"kind": "curves", "caption": "c", "entries": [{"method": "cd", **grid}]}
    assert "more than 10000" in refusal(config.load_suite, write_suite(place, artefacts={"a": artefact}))


BAD_ENTRIES = [
    {"vary": {"steps": [[1]]}},
    {"vary": {"steps": [{}]}},
    {"vary": {"steps": [{"name": []}]}},
    {"vary": {"steps": [None]}},
    {"vary": {"solver": [[1]]}},
    {"vary": {"solver": [{}]}},
    {"vary": {"solver": [{"name": []}]}},
    {"vary": {"solver": [3]}},
    {"vary": {"solver": [None]}},
    {"vary": {"curriculum": [{"name": "fixed", "steps": {}}]}},
    {"vary": {"curriculum": [{"name": "fixed", 3: 4}]}},
    {"vary": {"attention": [[[4]]]}},
    {"vary": {"attention": ["a+b"]}},
    {"vary": {1: [2]}},
    {"vary": {"": [2]}},
    {"vary": {".": [2]}},
    {"vary": {"distance.": [2]}},
    {"vary": {"network": [2]}},
    {"vary": {"name": ["cd"]}},
    {"settings": {1: 2}},
    {"settings": {"lr": "{lr}"}},
    {"settings": {"lr": {"name": "x"}}},
    {"variants": [{1: 2}]},
    {"variants": []},
    {"variants": 3},
    {"samplers": [["onestep"]]},
    {"label": 3},
    {"label": ["a"]},
    {"dataset": ["digits"]},
    {"method": ["cd"]},
    {"method": None},
]


@pytest.mark.parametrize("entry", BAD_ENTRIES, ids=str)
def test_an_entry_of_odd_values_works_or_is_refused(place, entry):
    artefact = {"kind": "curves", "caption": "c", "entries": [{"method": "cd", **entry}]}
    line = outcome(config.load_suite, write_suite(place, artefacts={"a": artefact}))
    assert line or entry == {"variants": []} or entry == {"vary": {"name": ["cd"]}}


@pytest.mark.parametrize(
    "change",
    [
        *({"seeds": seeds} for seeds in (["0"], [True], [1.5], [10**30], [-1], {}, None, [[0]], 4001)),
        *({"progress": progress} for progress in ([], [0], [101], ["100"], [[100]], {}, None, [50.0])),
        *({"options": options} for options in ({"columns": "x"}, {"columns": 0}, {"columns": 10**9}, {1: 2}, [], 3)),
        *({"published": published} for published in ({"table": ["t"]}, {"table": 1}, {1: "a"}, [], "table1")),
        *({"kind": kind} for kind in ([], {}, None, 3, "nonesuch", ["samples"])),
        *({"caption": caption} for caption in ([], {}, None, 3)),
        {"protocol": ["offline"]},
        {"protocol": 3},
        {"paper": "yes please"},
        {"entries": {}},
        {"entries": [3]},
        {"entries": [[]]},
    ],
    ids=str,
)
def test_an_artefact_of_odd_values_is_refused(place, change):
    artefact = {"kind": "samples", "caption": "c", "entries": [{"method": "cd"}], **change}
    line = outcome(config.load_suite, write_suite(place, artefacts={"a": artefact}))
    assert line or change in ({"seeds": None}, {"progress": None}, {"progress": []})


ODD = [None, 3, "x", [], ["x"], {}, {"name": []}, {"name": "x"}, {1: 2}, {"x": {"y": {"z": 1}}}, True, 1.5, [[{}]]]
PLACES = [
    "network",
    "noise",
    "objective",
    "training",
    "evaluation",
    "data",
    "released",
    "when",
    "teacher",
    "perceptual",
]


@pytest.mark.parametrize("section", [*PLACES, "sampler", "chain"])
@pytest.mark.parametrize("file", ["base", "cd"])
def test_a_section_of_odd_values_works_or_is_refused(tmp_path, file, section):
    for value in ODD:
        for inner in (value, {"name": value}, {"x": value}, {"lr": value}, {"distance": value, "curriculum": value}):
            experiments = changed(tmp_path, **{file: {section: inner}})
            outcome(lambda known=experiments: known.inputs(known.run("digits/cd/default/seed0")))
            outcome(lambda known=experiments: known.run("digits/cd/distance~l2/seed0"))
            outcome(experiments.data, "digits")


SOUND = [("quantization", None), ("metrics", []), ("samples", 3)]


@pytest.mark.parametrize("value", ODD, ids=str)
@pytest.mark.parametrize(
    "key", ["extractor", "metrics", "resizer", "quantization", "reference", "samples", "precision"]
)
def test_a_protocol_of_odd_values_works_or_is_refused(place, key, value):
    path = place / "protocols/offline.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {key: value}))
    suite = write_suite(place, artefacts={"a": {"kind": "curves", "caption": "c", "entries": [{"method": "edm"}]}})
    assert outcome(config.load_suite, suite) or (key, value) in [
        ("quantization", None),
        ("metrics", []),
        ("samples", 3),
    ]
