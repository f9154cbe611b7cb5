"""Model files, pretrained weights and states whose description or tensors are those of no such file: one line."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from conftest import plan_of
from foreign import TINY, description
from refusals import outcome, refusal
from safetensors.torch import save_file

from cm import build
from cm.checkpoints import export_checkpoint, native
from cm.checkpoints.fitting import fit_weights
from cm.evaluation import pretrained
from cm.training.state import TrainingState

ABSENT = object()
NET = dataclasses.replace(TINY, multipliers=[1], attention=[])  # few tensors, since each file is read many times
NETWORK, NOISE = description(NET)["network"], description(NET)["noise"]
VALUES = [None, True, 3, -1, 1.5, "", "x", "a/b", [], ["x"], {}, {"x": 1}, {"name": []}, {"name": "x"}, 10**30]
ODD = [*VALUES, ABSENT]
ENTRIES = ["run", "progress", "commit", "network", "noise", "preconditioning", "objective", "training", "version"]
CHANGES = {f"{entry} {index}": {entry: value} for entry in ENTRIES for index, value in enumerate(ODD)}
CHANGES |= {
    f"network {key} {index}": {"network": {**NETWORK, key: value}}
    for key in NETWORK
    for index, value in enumerate([*VALUES, [1] * 50, 10**7, -(10**7), 1e308])
}
CHANGES |= {
    f"noise {key} {value}": {"noise": {**NOISE, key: value}}
    for key in NOISE
    for value in (None, "x", -1.0, 0.0, 1e308, 1e-308, float("inf"), float("nan"), [1.0], 10**400)
}
CHANGES |= {f"run {name!a}": {"run": name} for name in ("../x/y/seed0", "a/b/c/seed\u0661", "a b/c/d/seed0", "a/b/c")}
CHANGES |= {f"weights {value}": {"weights": value} for value in (None, [], {}, 3, "x", "inception", "lpips-vgg16")}
READERS = {
    "load": build.load_model,
    "read": build.read_model,
    "classifier": lambda path: build.load_classifier(path, (1, 8, 8)),
    "extractor": pretrained.load_extractor,
    "lpips": pretrained.load_lpips,
    "digest": pretrained.digest,
}


def sound() -> dict:
    return {**description(NET), "progress": 100, "commit": "abc"}


def changed(changes: dict) -> dict:
    return {key: value for key, value in (sound() | changes).items() if value is not ABSENT}


@pytest.fixture(scope="module")
def tensors():
    return {f"network.{name}": tensor for name, tensor in NET.build().state_dict().items()}


def test_the_file_that_the_tests_change_is_a_model(tensors, tmp_path):
    native.save(tmp_path / "a.safetensors", tensors, sound())
    assert outcome(build.load_model, tmp_path / "a.safetensors") == ""


@pytest.mark.parametrize("name", CHANGES)
def test_a_description_of_odd_values_works_or_is_refused(tensors, tmp_path, name):
    path = tmp_path / "a.safetensors"
    native.save(path, tensors, changed(CHANGES[name]))
    for kind, reader in READERS.items():
        line = outcome(reader, path)
        assert not line or str(path) in line, (kind, line)


@pytest.mark.parametrize(
    "name", [name for name in CHANGES if name.split()[0] in ("run", "progress", "noise", "weights")]
)
def test_a_description_of_another_type_is_refused(tensors, tmp_path, name):
    path = tmp_path / "a.safetensors"
    native.save(path, tensors, changed(CHANGES[name]))
    sizes = {"progress 2", "noise name None", "noise rho 1.0"}
    assert outcome(build.read_model, path) or name in sizes, name


@pytest.mark.parametrize(
    "value", [*ODD, float("inf")], ids=lambda value: "object" if type(value) is object else str(value)
)
@pytest.mark.parametrize("entry", ["objective", "run", "noise", "preconditioning"])
def test_an_export_of_odd_values_works_or_is_refused(tensors, tmp_path, entry, value):
    path = tmp_path / "a.safetensors"
    native.save(path, tensors, changed({entry: value}))
    outcome(lambda: export_checkpoint(*build.read_model(path), tmp_path / "out", "diffusers"))
    inner = {"name": "cd"} if value is ABSENT else {"name": "cd", "curriculum": value, "steps": value}
    native.save(path, tensors, changed({"objective": inner}))
    outcome(lambda: export_checkpoint(*build.read_model(path), tmp_path / "other", "diffusers"))


TEXTS = [
    "",
    "{",
    "[]",
    "3",
    "null",
    '"x"',
    "NaN",
    "[" * 100_000,
    '{"a":' * 100_000,
    "9" * 5000,
    '{"network": NaN}',
    "\ud800x",
]


@pytest.mark.parametrize("text", [text for text in TEXTS if text.isprintable() or not text], ids=lambda text: text[:9])
def test_a_description_that_is_no_object_is_refused(tmp_path, text):
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.zeros(1)}, path, metadata={"description": text})
    for name, reader in READERS.items():
        assert str(path) in (refusal(reader, path) if name != "digest" else outcome(reader, path) or str(path))


def test_a_file_without_a_description_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    for metadata in (None, {"format": "pt"}, {"Description": "{}"}):
        save_file({"a": torch.zeros(1)}, path, metadata=metadata)
        for reader in READERS.values():
            assert str(path) in refusal(reader, path)


TENSORS = {
    "nan": lambda tensor: tensor.fill_(torch.nan),
    "inf": lambda tensor: tensor.fill_(torch.inf),
    "-inf": lambda tensor: tensor.fill_(-torch.inf),
    "int64": lambda tensor: tensor.long(),
    "uint8": lambda tensor: tensor.byte(),
    "bool": lambda tensor: tensor.bool(),
    "complex": lambda tensor: tensor.to(torch.complex64),
    "float8": lambda tensor: tensor.to(torch.float8_e4m3fn),
    "half nan": lambda tensor: tensor.fill_(torch.nan).half(),
    "bfloat16 inf": lambda tensor: tensor.fill_(torch.inf).bfloat16(),
    "empty": lambda tensor: tensor[:0],
    "flat": lambda tensor: tensor.reshape(-1, 1, 1, 1, 1),
}


@pytest.mark.parametrize("kind", TENSORS)
def test_a_tensor_that_is_no_weight_is_refused(tensors, tmp_path, kind):
    path, name = tmp_path / "a.safetensors", "network.enc.16x16_block0.conv0.weight"
    native.save(path, {**tensors, name: TENSORS[kind](tensors[name].clone())}, sound())
    line = refusal(build.load_model, path)
    assert name in line and str(path) in line


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_weights_of_any_floating_point_type_are_read(tensors, tmp_path, dtype):
    path = tmp_path / "a.safetensors"
    native.save(path, {name: tensor.to(dtype) for name, tensor in tensors.items()}, sound())
    assert outcome(build.load_model, path) == ""


def test_a_checkpoint_of_another_project_with_a_number_that_is_not_finite_is_refused():
    weights = NET.build().state_dict()
    weights["dec.16x16_block0.conv0.weight"][0, 0, 0, 0] = torch.inf
    assert refusal(fit_weights, weights, NET, "a.pt").startswith("a.pt is damaged: dec.16x16_block0.conv0.weight has")


def test_a_description_of_a_huge_network_takes_no_memory(tensors, tmp_path):
    path = tmp_path / "a.safetensors"
    network = {**NETWORK, "channels": 1024, "multipliers": [4, 4]}
    native.save(path, tensors, sound() | {"network": network})
    assert "holds another network" in refusal(build.load_model, path)


# ---- states ----

STATES = {
    f"{entry} {index}": {entry: value}
    for entry in ("step", "of", "scaler", "seconds")
    for index, value in enumerate(ODD)
}
STATES |= {f"run {index}": {"of": {"run": value}} for index, value in enumerate(VALUES)}
STATES |= {f"scaler scale {index}": {"scaler": {"scale": value}} for index, value in enumerate(VALUES)}
STATES |= {f"wall {index}": {"seconds": {"wall": value, "processor": 1.0}} for index, value in enumerate(ODD[:12])}


@pytest.fixture(scope="module")
def saved(place, tmp_path_factory):
    """A plan, and the tensors and the description of its first state."""
    plan = plan_of(place, "digits/edm/default/seed5", out=tmp_path_factory.mktemp("state"))
    plan.partial.mkdir()
    state = TrainingState(plan)
    state.save()
    return plan, *native.load(state.path)


@pytest.mark.parametrize("name", STATES)
def test_a_state_of_odd_values_is_used_set_aside_or_refused(saved, name):
    plan, tensors, about = saved
    state = TrainingState(plan)
    about = {key: value for key, value in (about | STATES[name]).items() if value is not ABSENT}
    native.save(state.path, tensors, about)
    outcome(state.resume)
    assert state.step == (about["step"] if state.step else 0)


@pytest.mark.parametrize(
    "change", [lambda tensor: tensor.reshape(-1), lambda tensor: tensor[:1], lambda tensor: tensor.long()]
)
def test_a_state_of_other_tensors_is_set_aside(saved, change, capsys):
    plan, tensors, about = saved
    state = TrainingState(plan)
    name = next(name for name in tensors if tensors[name].ndim > 1 and len(tensors[name]) > 1)
    native.save(state.path, {**tensors, name: change(tensors[name]).contiguous()}, {**about, "step": 5})
    assert outcome(state.resume) == ""
    assert state.step == 0 and "other settings or inputs" in capsys.readouterr().out


def test_a_loss_scale_that_this_training_does_not_have_is_not_taken(saved):
    plan, tensors, about = saved
    state = TrainingState(plan)
    native.save(state.path, tensors, {**about, "step": 5, "scaler": {"scale": 2.0}})
    state.resume()
    assert state.step == 5 and state.scaler.state_dict() == {}


def test_the_state_that_the_tests_change_is_one(saved):
    plan, tensors, about = saved
    state = TrainingState(plan)
    native.save(state.path, tensors, {**about, "step": 5})
    state.resume()
    assert state.step == 5
