"""Samples do not depend on the devices; an error of a device is one line."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest
import torch
from conftest import plan_of
from nets import TINY, denoiser

from cm import build, registry
from cm.config import parse_sampler
from cm.diffusion import sampling
from cm.diffusion.noise import KarrasNoise
from cm.errors import UserError

SAMPLERS = {  # one of each kind
    "onestep": "onestep",
    "multistep": "multistep,times~5.0+0.5",
    "ode": "ode,solver~heun,steps~3",
    "stochastic": "stochastic,churn~9.0,high~50.0,inflation~1.0,low~0.1,steps~3",
    "ancestral": "ancestral,steps~3",
    "flowmap": "flowmap,steps~3",
}


def random_model(net, scalings: str):
    """A network with random weights, for which no output is zero."""
    torch.manual_seed(0)
    module = denoiser(net.build(), scalings).eval().requires_grad_(False)
    for parameter in module.parameters():
        parameter.normal_(0, 0.2)
    return module


@pytest.fixture(scope="module")
def model():
    return random_model(TINY, "edm")


def sample(model, name: str, **settings) -> np.ndarray:
    how = sampling.SamplingSettings(KarrasNoise(), (1, 8, 8), **{"count": 10, "seed": 3, "batch": 4, **settings})
    return sampling.images(model, parse_sampler(SAMPLERS[name]), how)


# `search` samples as `multistep` does, once its time points are known.
@pytest.mark.parametrize("name", [name for name in registry.names("sampler") if name != "search"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_several_devices_give_the_samples_of_one(model, name, precision):
    """Bitwise: they share the same batches, of which the last is smaller."""
    if name == "flowmap":
        model = random_model(dataclasses.replace(TINY, two_times=True), "meanflow")
    one = sample(model, name, precision=precision)
    for devices in (("cpu",), ("cpu",) * 2, ("cpu",) * 4):
        assert sample(model, name, precision=precision, devices=devices).tobytes() == one.tobytes()
    assert len(np.unique(one)) > 50


def test_each_device_has_a_copy_of_the_model_and_a_thread(model, monkeypatch):
    calls = []
    forward = type(model).forward

    def record(self, *inputs):
        calls.append((id(self), threading.get_ident(), len(inputs[0])))
        return forward(self, *inputs)

    monkeypatch.setattr(type(model), "forward", record)
    sample(model, "onestep", count=14, devices=("cpu",) * 3)
    assert len({module for module, _, _ in calls}) == len({thread for _, thread, _ in calls}) == 3
    assert len({call[:2] for call in calls}) == 3
    assert sorted(size for *_, size in calls) == [2, 4, 4, 4]
    calls.clear()
    sample(model, "onestep", count=4, devices=("cpu",) * 3)
    assert calls == [(id(model), threading.get_ident(), 4)], "one batch needs one device"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory.\nTried"),
            "device 'cpu' has too little free memory for such a batch",
        ),
        (torch.AcceleratorError("CUDA error: uncorrectable ECC\nCompile"), "device 'cpu' failed: CUDA error: uncorr"),
    ],
)
@pytest.mark.parametrize("devices", [("cpu",), ("cpu", "cpu")])
def test_an_error_of_a_device_is_one_line_and_stops_the_others(model, monkeypatch, error, message, devices):
    """The first device goes through the whole of its batch, 599 evaluations, only if nothing stops it."""
    failed, calls, threads = threading.Event(), [], threading.active_count()
    forward = type(model).forward

    def fail(self, *inputs):
        calls.append(self)
        if len(inputs[0]) == 3:
            failed.set()
            raise error
        if len(devices) > 1:
            assert failed.wait(10)
        return forward(self, *inputs)

    monkeypatch.setattr(type(model), "forward", fail)
    how = sampling.SamplingSettings(KarrasNoise(), (1, 8, 8), count=7, seed=0, batch=4, devices=devices)
    steps = 300 if len(devices) > 1 else 2
    with pytest.raises(UserError, match=message) as caught:
        sampling.images(model, parse_sampler(f"ode,solver~heun,steps~{steps}"), how)
    assert "\n" not in str(caught.value)
    assert len(calls) < 300
    assert threading.active_count() == threads


def test_training_and_sampling_ask_first(place, monkeypatch):
    asked: list[str] = []

    def refuse(devices, precision):
        raise UserError(f"{precision} on {', '.join(devices)}")

    monkeypatch.setattr(build, "check_precision", refuse)
    with pytest.raises(UserError, match="bfloat16 on cpu"):
        plan_of(place, "digits/ct/precision~bfloat16/seed0")
    monkeypatch.setattr(build, "check_precision", lambda _, precision: asked.append(precision))
    plan_of(place, "digits/cd/distance.precision~bfloat16/seed0")
    assert asked == ["float32", "bfloat16"]
    monkeypatch.setattr(sampling, "check_precision", refuse)
    model, description = build.load_model(place / "models/digits/edm/default/seed0/100.safetensors")
    with pytest.raises(UserError, match="float16 on cpu"):
        build.sample_images(model, description, None, count=1, seed=0, precision="float16")
