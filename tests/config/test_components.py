"""Components with settings of their own: in YAML, in names of variants and samplers, and in errors."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import pytest
import yaml

from cm import registry
from cm.config import Experiments, check, make_component
from cm.config.checking import to_plain
from cm.config.settings import above, at_least, at_most, below, component, default
from cm.errors import UserError

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "config" / "experiments"


@dataclasses.dataclass(frozen=True)
class Eager:
    """A settings dataclass whose module does or does not postpone annotations: its hints are types either way."""

    pair: tuple[int, float] = (1, 2.0)
    many: tuple[Annotated[int, at_least(1)], ...] = ()
    word: Literal["a", "b"] = "a"
    number: Annotated[float, above(0), at_most(2)] | None = None
    share: Annotated[float, below(1.0)] = 0.0
    solver: Annotated[object, component("solver")] = default("solver", "heun")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pair": [1]}, "pair must be 2 values, not [1]"),
        ({"pair": [1, "x"]}, "'pair' must be a number, not 'x'"),
        ({"many": [1, 0]}, "many must be at least 1, not 0"),
        ({"word": "c"}, "unknown word 'c'; known: a, b"),
        ({"number": 0}, "number must be above 0, not 0.0"),
        ({"number": 2.5}, "number must be at most 2, not 2.5"),
        ({"number": True}, "'number' must be a number, not True"),
        ({"share": float("nan")}, "share must be below 1.0, not nan"),
        ({"solver": "rk4"}, "unknown solver 'rk4'"),
        ({"solver": {"name": "heun", "steps": 3}}, "the solver 'heun' has no settings, so no 'steps'"),
        ({"solver": {"steps": 3}}, "needs a 'name'; known: "),
        ({"solver": 3}, "must be the name of a solver, or a mapping of its name and settings, not 3"),
        ({"wird": "a"}, "unknown setting 'wird'; known: many, number, pair, share, solver, word"),
    ],
)
def test_a_bad_value_is_one_line(values, message):
    with pytest.raises(UserError) as caught:
        check(Eager, values, "here")
    assert message in str(caught.value)
    assert str(caught.value).startswith("here")
    assert "\n" not in str(caught.value)


def test_plain_data_and_settings_are_inverses():
    values = {"pair": [3, 4], "many": [5], "word": "b", "number": 1, "solver": "euler"}
    settings = check(Eager, values, "here")
    assert (settings.pair, settings.many, settings.number) == ((3, 4.0), (5,), 1.0)
    assert settings.solver is registry.get("solver", "euler")
    assert check(Eager, to_plain(settings), "here") == settings
    assert to_plain(settings, changed_only=True).keys() == values.keys()
    assert to_plain(Eager(), changed_only=True) == {}


def changed(tmp_path: Path, method: str, objective: dict) -> Experiments:
    """The digits with another `objective:` of a method."""
    for path in (EXPERIMENTS / "digits").glob("*.yaml"):
        document = yaml.safe_load(path.read_text())
        if path.stem == method:
            document["objective"] = {**document["objective"], **objective}
        (tmp_path / "digits").mkdir(exist_ok=True)
        (tmp_path / "digits" / path.name).write_text(yaml.safe_dump(document))
    return Experiments(tmp_path)


@pytest.mark.parametrize(
    ("changes", "variant", "settings"),
    [
        ({"s1": 20}, "s1~20", {"curriculum": "adaptive", "s1": 20}),
        ({"curriculum.s1": 20}, "s1~20", {"s1": 20}),
        ({"curriculum": {"name": "adaptive", "s1": 20}}, "s1~20", {"s1": 20, "mu0": 0.2}),
        ({"curriculum": "adaptive"}, "default", {"s1": 40, "mu0": 0.2}),
        (
            {"target_mu": 0.5, "curriculum": "fixed", "steps": 9},
            "curriculum~fixed,steps~9,target_mu~0.5",
            {"curriculum": "fixed", "steps": 9},
        ),
        ({"size": None}, "size~null", {"distance": "lpips", "size": None}),
        ({"distance": "l2"}, "distance~l2", {"distance": "l2"}),
        ({"distance": {"name": "lpips", "pooling": "average"}}, "pooling~average", {"pooling": "average"}),
    ],
)
def test_settings_of_components_have_one_flat_name_space(changes, variant, settings):
    experiments = Experiments(EXPERIMENTS)
    assert experiments.variant("digits", "ct", changes) == variant
    run = experiments.run(f"digits/ct/{variant}/seed0")
    assert {key: run.settings[key] for key in settings} == settings
    assert experiments.find("digits", "ct", changes, 0) == run


def test_a_component_given_by_name_has_its_own_defaults(tmp_path):
    run = changed(tmp_path, "ct", {"curriculum": "adaptive"}).run("digits/ct/default/seed0")
    assert (run.settings["s1"], run.settings["mu0"]) == (150, 0.9)
    assert "curriculum" not in run.recipe()["objective"]  # it is the default of the method


def test_a_setting_of_another_component_is_unknown():
    with pytest.raises(UserError, match="unknown setting 'steps'"):
        Experiments(EXPERIMENTS).run("digits/ct/steps~9/seed0")
    with pytest.raises(UserError, match="'target_mu' is missing"):
        Experiments(EXPERIMENTS).run("digits/ct/curriculum~fixed,steps~9/seed0")


def test_each_file_is_read_and_each_run_is_made_once(monkeypatch):
    from cm.config import experiments as module

    reads = []
    read = module.read_experiment
    monkeypatch.setattr(module, "read_experiment", lambda path: reads.append(path) or read(path))
    experiments = Experiments(EXPERIMENTS)
    first = experiments.run("digits/cd/default/seed0")
    experiments.inputs(first)
    experiments.find("digits", "cd", {"solver": "euler"}, 1)
    assert experiments.run("digits/cd/default/seed0") is first
    assert len(reads) == len(set(reads)) == 4  # base, cd, edm, classifier


@pytest.mark.parametrize("kind", ["distance", "solver", "weighting"])
def test_names_and_components_are_inverses(kind):
    for name in registry.names(kind):
        assert registry.name(kind, make_component(kind, name, "here")) == name


def test_a_run_may_have_several_protocols(tmp_path):
    experiments = changed(tmp_path, "ct", {})
    base = tmp_path / "digits" / "base.yaml"
    document = yaml.safe_load(base.read_text())
    base.write_text(yaml.safe_dump(document | {"evaluation": {"protocol": ["offline", "dinov2"]}}))
    run = experiments.run("digits/ct/default/seed0")
    assert run.evaluation.protocol == ("offline", "dinov2")
    assert experiments.sample_count(run) == 50_000
    assert experiments.quantization(run) == "truncate"
