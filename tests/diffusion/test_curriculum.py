"""N(k), mu(k) and the learning rate, against the official code's tables and the paper's values."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from goldens import GOLDEN, assert_golden, load

from cm.config import Training
from cm.diffusion.curriculum import Adaptive, Doubling, Fixed
from cm.errors import UserError
from cm.methods.cd import ConsistencyDistillation
from cm.methods.ct import ConsistencyTraining
from cm.training.optimisers import Optimiser, learning_rate

TABLES = json.loads((GOLDEN / "schedules.json").read_text())
JCM = json.loads((GOLDEN / "jcm_schedules.json").read_text())


@pytest.mark.parametrize("name", ["ct_cifar10", "ct_imagenet64", "ct_lsun"])
def test_adaptive_schedules_of_the_pytorch_code(name):
    given = TABLES[name]["kwargs"]
    s0, s1, mu0 = given["start_scales"], given["end_scales"], given["start_ema"]
    for k, steps, mu in TABLES[name]["rows"]:
        adaptive = Adaptive(s0, s1, mu0, "code")
        assert adaptive.steps_at(k, given["total_steps"]) == steps
        assert adaptive.mu_at(k, given["total_steps"]) == pytest.approx(float(mu), rel=1e-12)


def test_adaptive_schedule_of_the_cifar10_code_up_to_its_float32():
    given = JCM["ct_adaptive"]["config"]
    s0, s1 = given["start_scales"], given["end_scales"]
    ours = [Adaptive(s0, s1).steps_at(k, given["n_iters"]) for k, _, _ in JCM["ct_adaptive"]["rows"]]
    theirs = [steps for _, steps, _ in JCM["ct_adaptive"]["rows"]]
    assert np.abs(np.subtract(ours, theirs)).max() <= 1
    assert np.mean(np.equal(ours, theirs)) > 0.9


@pytest.mark.parametrize(
    ("s0", "s1", "mu0", "share", "steps", "code", "paper"),
    [
        (2, 150, 0.9, 0.0, 2, 0.81, 0.9),
        (2, 150, 0.9, 0.01, 16, 0.98605, 0.98692),
        (2, 150, 0.9, 0.5, 107, 0.99801, 0.99803),
        (2, 150, 0.9, 1.0, 151, 0.99860, 0.99861),
        (2, 200, 0.95, 0.1, 64, 0.99837, 0.99840),
        (2, 200, 0.95, 1.0, 201, 0.99949, 0.99949),
    ],
)
def test_adaptive_schedules_of_the_paper(s0, s1, mu0, share, steps, code, paper):
    step, total_steps = round(share * 800_000), 800_000
    for exponent, mu in (("code", code), ("paper", paper)):
        adaptive = Adaptive(s0, s1, mu0, exponent)
        assert adaptive.steps_at(step, total_steps) == steps
        assert adaptive.mu_at(step, total_steps) == pytest.approx(mu, abs=6e-6)
        assert ConsistencyTraining(curriculum=adaptive).mu_at(step, total_steps) == pytest.approx(mu, abs=6e-6)


@pytest.mark.parametrize("name", ["cifar10", "imagenet64", "short", "tiny"])
def test_doubling_curriculum_of_ict(name):
    table = json.loads((GOLDEN / "ict_schedules.json").read_text())[name]
    curriculum = Doubling(table["s0"], table["s1"])
    assert table["rows"]
    for k, steps in table["rows"]:
        assert (curriculum.steps_at(k, table["K"]), curriculum.mu_at(k, table["K"])) == (steps, 0.0)


@pytest.mark.parametrize("cls", [Adaptive, Doubling])
def test_a_curriculum_that_shrinks_is_refused(cls):
    with pytest.raises(UserError, match="here: s1 4 must be at least s0 8"):
        cls(s0=8, s1=4).check("here")


def test_fixed_schedules_stay():
    cd = ConsistencyDistillation(curriculum=Fixed(40, 0.95))
    for k in (0, 500, 1000):
        assert (Fixed(120, 0.99).steps_at(k, 1000), Fixed(120, 0.99).mu_at(k, 1000)) == (120, 0.99)
        assert (cd.curriculum.steps_at(k, 1000), cd.mu_at(k, 1000)) == (40, 0.95)


def test_learning_rate_rises_and_falls():
    training = Training(total_steps=10, batch=1, lr=1.0, warmup=4, lr_decay="linear")
    assert learning_rate(training, 0) == 0.0
    assert learning_rate(training, 2) == pytest.approx(0.5 * 0.8)
    assert learning_rate(training, 5) == pytest.approx(0.5)
    assert learning_rate(Training(total_steps=10, batch=1, lr=1.0), 9) == 1.0


def test_the_learning_rate_that_falls_with_the_root_of_the_step_is_that_of_ect():
    for table in json.loads((GOLDEN / "ect_schedules.json").read_text())["lr"].values():
        given = table["kwargs"]
        rates = {"lr": given["ref_lr"], "decay_from": given["decay_iter"], "warmup": given.get("rampup_iter", 0)}
        training = Training(total_steps=10, batch=1, lr_decay="inverse-sqrt", **rates)
        for step, want in table["rows"]:
            assert learning_rate(training, step) == pytest.approx(float(want), rel=1e-12)


@pytest.mark.parametrize("bits", ["f32", "f64"])
@pytest.mark.parametrize(
    ("name", "training"),
    [
        ("radam", Training(total_steps=100, batch=1, lr=0.01, optimiser="radam")),
        ("adam_warmup", Training(total_steps=100, batch=1, lr=0.01, optimiser="adam", warmup=5)),
        (
            "adam_linear_decay_clip",
            Training(total_steps=10, batch=1, lr=0.01, optimiser="adam", lr_decay="linear", clip=1.0),
        ),
    ],
)
def test_optimisers_and_rates_of_the_cifar10_code(name, training, bits):
    data, dtype = load("jcm_optimizers.npz"), {"f32": torch.float32, "f64": torch.float64}[bits]
    weight = torch.nn.Parameter(torch.from_numpy(data["w0"].copy()).to(dtype))
    optimiser = Optimiser(training, torch.nn.ParameterList([weight]))
    rows = []
    for k, gradient in enumerate(data["grads"]):
        weight.grad = torch.from_numpy(gradient.copy()).to(dtype)
        if training.clip is not None:
            torch.nn.utils.clip_grad_norm_([weight], training.clip)
        optimiser.step(max(0.0, learning_rate(training, k)))
        rows.append(weight.detach().numpy().copy())
    if bits == "f32":
        assert_golden("jcm_optimizers.npz", f"{name}_{bits}", np.stack(rows))
    else:  # optax computes its bias corrections in float32
        np.testing.assert_allclose(np.stack(rows), data[f"{name}_{bits}"], rtol=0, atol=1e-8)
