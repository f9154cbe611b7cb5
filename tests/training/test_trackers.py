"""Trackers: they get the numbers of metrics.jsonl, change no bit of the weights, and never end a training."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import subprocess
import sys
import types

import pytest
from conftest import plan_of

from cm import registry
from cm.cli import main
from cm.config.measurements import read_measurements
from cm.errors import UserError
from cm.training import trackers
from cm.training.trackers import TrackedRun, Tracker, select_trackers
from cm.training.trainer import train
from cm.utils import files

RUN = "digits/ct/default/seed0"
SERVICES = ("wandb", "trackio")


class FakeService(types.ModuleType):
    """A package as W&B, which remembers what it was told."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = importlib.machinery.ModuleSpec(name, None)
        self.starts, self.lines, self.finished = [], [], 0

    def init(self, **settings):
        self.starts.append(settings)

    def log(self, values, step):
        self.lines.append((step, values))

    def finish(self):
        self.finished += 1


@pytest.fixture(params=SERVICES)
def service(request, monkeypatch):
    fake = FakeService(request.param)
    monkeypatch.setitem(sys.modules, request.param, fake)
    return fake


@pytest.fixture
def failing(monkeypatch):
    """A tracker that fails in its third line."""

    class Failing(Tracker):
        package = "json"

        def __init__(self, run: TrackedRun) -> None:
            self.lines = 0

        def log(self, step, values):
            self.lines += 1
            if self.lines == 3:
                raise ConnectionError("no\nnetwork")

        def close(self):
            raise ConnectionError("still none")

    registry.names("tracker")
    monkeypatch.setitem(registry._components["tracker"], "failing", Failing)
    return "failing"


def models(folder) -> dict[str, str]:
    return {path.name: files.sha256(path.read_bytes()) for path in folder.glob("*.safetensors")}


def events(folder) -> dict[str, list[tuple[int, float]]]:
    """The numbers of each tag that TensorBoard would show."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_trackers_change_no_bit_of_the_weights(place, tmp_path, service, failing):
    pytest.importorskip("tensorboard")
    names = ("tensorboard", service.__name__, failing)
    train(plan_of(place, RUN, tmp_path / "with", trackers=names, log_steps=1))
    train(plan_of(place, RUN, tmp_path / "without", log_steps=12))
    assert models(tmp_path / "with") == models(tmp_path / "without") != {}


def test_tensorboard_shows_each_step_once_after_a_kill(place, tmp_path):
    """The events of steps after the last state are there twice, and the first ones are not shown."""
    pytest.importorskip("tensorboard")
    copies = plan_of(place, RUN, tmp_path, stop_at=8, trackers=("tensorboard",), save_steps=5, save_seconds=1e9)
    copies.keep = []
    train(copies)
    for name in ("state", "state.previous"):
        (tmp_path / "partial" / f"{name}.safetensors").rename(tmp_path / f"{name}.kept")
    (tmp_path / "state.previous.kept").rename(tmp_path / "partial" / "state.safetensors")
    plan = plan_of(place, RUN, tmp_path, trackers=("tensorboard",))
    plan.keep = [100]
    train(plan)
    expected = read_measurements(tmp_path / "metrics.jsonl")
    shown = events(tmp_path)
    assert [step for step, _ in shown["loss"]] == [line.step for line in expected] == list(range(1, 13))
    for tag in ("loss", "gradient_norm", "rate", "N", "mu"):
        assert [value for _, value in shown[tag]] == pytest.approx([line.values[tag] for line in expected])


def test_a_service_gets_every_line_and_finds_its_run_again(place, tmp_path, service, monkeypatch):
    monkeypatch.setenv(f"{service.__name__.upper()}_PROJECT", "mine")
    for stop in (7, None):
        train(plan_of(place, RUN, tmp_path, stop_at=stop, trackers=(service.__name__,)))
    expected = [(line.step, line.values) for line in read_measurements(tmp_path / "metrics.jsonl")]
    assert service.lines == expected and len(expected) == 12
    first, second = service.starts
    assert first == second and first["project"] == "mine" and first["resume"] == "allow"
    assert first["config"]["run"] == RUN and first["name"].startswith(RUN)
    assert service.finished == 2
    train(plan_of(place, RUN, tmp_path / "anew", stop_at=7, trackers=(service.__name__,)))
    identity = ("id", "name")
    assert [service.starts[2].get(key) for key in identity] != [first.get(key) for key in identity]


def test_a_tracker_that_fails_is_left_out_and_the_training_goes_on(place, tmp_path, capsys, failing):
    train(plan_of(place, RUN, tmp_path, trackers=(failing,)))
    said = capsys.readouterr().out
    assert said.count("tracker 'failing' failed and is not used any more: ConnectionError: no network") == 1
    assert len(read_measurements(tmp_path / "metrics.jsonl")) == 12
    assert (tmp_path / "100.safetensors").exists()


def test_a_tracker_that_cannot_be_opened_stops_a_training_before_its_first_step(place, tmp_path, service):
    def refuse(**settings):
        raise PermissionError("not logged in")

    service.init = refuse
    with pytest.raises(
        UserError, match=f"tracker '{service.__name__}' cannot be opened in .*: PermissionError: not logged"
    ):
        train(plan_of(place, RUN, tmp_path, trackers=(service.__name__,)))
    assert not (tmp_path / "metrics.jsonl").read_bytes() and not (tmp_path / "partial").exists()


# ---- which trackers a training has ----------------------------------------------------------------------------------


@pytest.mark.parametrize("installed", [True, False])
def test_tensorboard_is_there_by_default_where_it_is_installed(monkeypatch, installed):
    monkeypatch.setattr(trackers, "_is_installed", lambda name: installed)
    assert select_trackers(()) == (("tensorboard",) if installed else ())
    assert select_trackers(("none",)) == ()


@pytest.mark.parametrize("name", registry.names("tracker"))
def test_a_tracker_that_is_asked_for_must_be_installed(monkeypatch, name):
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(UserError, match=rf"^tracker '{name}' needs the package {name}: install the extra '{name}'$"):
        select_trackers((name,))


def train_with(place, out, *options: str) -> int:
    arguments = ["train", "--run", RUN, "--experiments", str(place / "experiments"), "--data", str(place / "data")]
    return main([*arguments, "--out", str(out / "100.safetensors"), "--device", "cpu", *options])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tracker", "tensorbord"], "unknown tracker 'tensorbord'; known: tensorboard, trackio, wandb"),
        (["--tracker", "none", "--tracker", "wandb"], "'none' stands alone"),
        (["--log-steps", "0"], "log_steps must be at least 1, not 0"),
    ],
)
def test_a_mistake_is_refused_in_one_line_before_anything_is_written(place, tmp_path, capsys, options, message):
    assert train_with(place, tmp_path, *options) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_variable_names_trackers_too(place, tmp_path, monkeypatch, service):
    monkeypatch.setenv("CM_TRACKERS", service.__name__)
    assert train_with(place, tmp_path, "--log-steps", "6") == 0
    assert [step for step, _ in service.lines] == [6, 12]
    assert not (tmp_path / "tensorboard").exists()


@pytest.mark.parametrize("name", registry.names("tracker"))
def test_the_package_of_a_tracker_is_an_extra(name):
    import tomllib
    from pathlib import Path

    extras = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    (requirement,) = extras["optional-dependencies"][registry.get("tracker", name).package]
    assert requirement.startswith(name)


def test_choosing_trackers_imports_none_of_them():
    code = "from cm.training.trackers import select_trackers; select_trackers(()); import sys; "
    code += "assert not {'torch', 'tensorboard', 'wandb', 'trackio'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
