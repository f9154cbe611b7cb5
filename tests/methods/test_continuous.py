"""Continuous-time consistency models: golden vectors, closed forms, limits of discrete losses, attention, dropout."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from goldens import assert_golden, load
from nets import FAMILIES, Tiny, denoiser

from cm import config, registry
from cm.diffusion.distances import PseudoHuber, degree_of, l2, limit
from cm.diffusion.forward import jvp
from cm.diffusion.noise import KarrasNoise
from cm.diffusion.perceptual import FeatureDistance, PerceptualDistance
from cm.errors import UserError
from cm.methods.base import Batch, Networks
from cm.methods.continuous import ContinuousDistillation, ContinuousTraining

NOISE, FILE = KarrasNoise(), "jcm_continuous_loss.npz"
TYPES = {"f32": torch.float32, "f64": torch.float64}


class StandIn:
    """What the golden files have in the place of LPIPS, d = mean (a - b)^2 (1 + a / 2 + b^2 / 4), and its limit."""

    def limit(self, a, v):
        a, v = 2 * a - 1, 2 * v  # the golden file's is of images in [-1, 1]
        return (v.square() * (1 + a / 2 + a.square() / 4)).mean((1, 2, 3))


def images(array: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(array).to(dtype).permute(0, 3, 1, 2)


def batch_of(x: torch.Tensor, seeds=None) -> Batch:
    return Batch(x, None, NOISE, 0, 1, np.arange(len(x)) if seeds is None else seeds)


@pytest.mark.parametrize("bits", TYPES)
@pytest.mark.parametrize(
    ("name", "method", "distance", "stop_gradient", "factor"),
    [
        ("l1", ContinuousDistillation, "l1", False, 1.0),
        ("l2", ContinuousDistillation, "l2-norm", False, 1.0),  # the official code takes the root of the sum
        ("l2_ct_stop", ContinuousTraining, "l2", True, 3 * 16 * 16 / 2),  # and the sum, without the 2 of the Hessian
        ("lpips_stub_stop", ContinuousDistillation, "lpips", True, 1.0),
    ],
)
def test_losses_and_gradients_of_the_official_code(name, method, distance, stop_gradient, factor, bits):
    data, dtype = load(FILE), TYPES[bits]
    d = PerceptualDistance(StandIn(), 224) if distance == "lpips" else registry.get("distance", distance)
    student = Tiny(data["online_W"], data["online_b"], "boundary", "jcm", dtype)
    nets = Networks(student, None, Tiny(data["teacher_W"], data["teacher_b"], "edm", "jcm", dtype))
    x, z = images(data["image"], dtype), images(data["noise"], dtype)
    t = NOISE.time(1 - torch.from_numpy(data["u"]).to(dtype))
    loss = factor * method(distance=d, stop_gradient=stop_gradient).loss_at(nets, batch_of(x), z=z, t=t)
    loss.mean().backward()
    assert_golden(FILE, f"t_{bits}", t)
    assert_golden(FILE, f"loss_{name}_{bits}", loss)
    assert_golden(FILE, f"gradW_{name}_{bits}", student.gradient())
    assert_golden(FILE, f"gradb_{name}_{bits}", student.bias.grad)
    assert nets.teacher.weight.grad is None


METHODS = {"cd-inf": "heun", "ct-inf": "euler"}
DISTANCES = registry.names("distance")


def distance_of(name: str):
    if name == "pseudo-huber":
        return PseudoHuber(c=1.0)  # so that h is small against c
    if name != "lpips":
        return config.make_component("distance", name, "test")
    return PerceptualDistance(FeatureDistance(lambda x: [x.sin(), torch.nn.functional.avg_pool2d(x, 2).square()]))


def analytic(x, t, labels=None):
    """The consistency function of data N(0, 1/4)."""
    return x * ((0.002**2 + 0.25) / (t.reshape(-1, 1, 1, 1) ** 2 + 0.25)).sqrt()


def teacher(x, t, labels=None):
    """The denoiser of data N(0, 1/4)."""
    return x * (0.25 / (t.reshape(-1, 1, 1, 1) ** 2 + 0.25))


class Power(torch.nn.Module):
    """f(x, t) = x ((t^2 + 1/4) / (eps^2 + 1/4))^-gamma, which is the exact answer at gamma = 1/2."""

    def __init__(self, gamma: float) -> None:
        super().__init__()
        self.gamma = torch.nn.Parameter(torch.tensor(gamma, dtype=torch.float64))

    def forward(self, x, t, labels=None):
        return x * ((t**2 + 0.25) / (0.002**2 + 0.25)).pow(-self.gamma).reshape(-1, 1, 1, 1)


def gaussian_batch(count: int, seed: int, shape=(3, 8, 8)) -> Batch:
    x = torch.randn(count, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) / 2
    return batch_of(x, seed * count + np.arange(count))


@pytest.mark.parametrize("distance", DISTANCES)
def test_the_analytic_consistency_function_has_no_loss(distance):
    objective, batch = ContinuousDistillation(distance=distance_of(distance), stop_gradient=False), gaussian_batch(6, 0)
    other = objective.loss(Networks(lambda x, t, labels: 1.5 * analytic(x, t) + x, teacher=teacher), batch)
    assert (objective.loss(Networks(analytic, teacher=teacher), batch) < 1e-10 * other).all()
    assert (other > 0).all()


def test_the_loss_on_gaussian_data_is_that_of_the_closed_form():
    """f = x a(t) with a = ((t^2 + 1/4) / c)^-gamma has g = x_t a (1 - 2 gamma) t / (t^2 + 1/4)."""
    batch, z, student = gaussian_batch(4, 3), gaussian_batch(4, 4).x, Power(0.2)
    t = torch.tensor([0.01, 0.3, 2.0, 60.0], dtype=torch.float64)
    x_t = batch.x + t.reshape(-1, 1, 1, 1) * z
    f = student(x_t, t)
    g = f * (0.6 * t / (t**2 + 0.25)).reshape(-1, 1, 1, 1)
    nets = Networks(student, teacher=teacher)
    plain, stopped = (
        ContinuousDistillation(distance=l2, stop_gradient=stop).loss_at(nets, batch, z=z, t=t) for stop in (False, True)
    )
    torch.testing.assert_close(plain, NOISE.speed(t) * g.square().mean((1, 2, 3)))
    torch.testing.assert_close(stopped, 2 * (f * g).mean((1, 2, 3)))


def test_the_expected_gradients_of_training_and_distillation_agree():
    """E[z | x_t] is the teacher's direction, so the gradients agree but for the noise of 120,000 draws."""
    t, gradients = torch.full((3,), 0.7, dtype=torch.float64), []
    batch = gaussian_batch(3, 5, (1, 200, 200))
    z = torch.randn(batch.x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for cls in (ContinuousDistillation, ContinuousTraining):
        student = Power(0.2)
        cls(distance=l2).loss_at(Networks(student, teacher=teacher), batch, z=z, t=t).mean().backward()
        gradients.append(float(student.gamma.grad))
    assert gradients[1] == pytest.approx(gradients[0], rel=0.02)


@pytest.mark.parametrize("gamma", [0.3, 0.7])
@pytest.mark.parametrize(("method", "stop_gradient"), [("cd-inf", True), ("cd-inf", False), ("ct-inf", True)])
def test_training_on_gaussian_data_finds_the_analytic_consistency_function(method, stop_gradient, gamma):
    """CT without stop-gradient is left out: there ||g||^2 contains the variance of z and has another minimum."""
    objective = config.make_component("method", {"name": method, "distance": "l2", "stop_gradient": stop_gradient}, "")
    student = Power(gamma)
    optimiser = torch.optim.Adam(student.parameters(), lr=0.02)
    for k in range(150):
        optimiser.param_groups[0]["lr"] = 0.02 * (1 - k / 150)
        optimiser.zero_grad()
        objective.loss(Networks(student, teacher=teacher), gaussian_batch(16, k, (1, 16, 16))).mean().backward()
        optimiser.step()
    assert student.gamma.item() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("distance", DISTANCES)
def test_the_loss_is_the_limit_of_the_discrete_loss(distance, method):
    """(N - 1)^p times the discrete loss, and (N - 1)^(p - 1) times its gradient with a fixed target, for large N."""
    d, intervals = distance_of(distance), 200_000
    degree, batch, u = degree_of(d), gaussian_batch(5, 1), torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    student, z = torch.nn.Conv2d(3, 3, 3, padding=1).double(), gaussian_batch(5, 2).x
    nets = Networks(lambda x, t, labels: student(x) * (1 + t.log().sin().reshape(-1, 1, 1, 1)), teacher=teacher)
    t, s = NOISE.time(u), NOISE.time(u + 1 / intervals)
    discrete = config.make_component("method", {"name": method.removesuffix("-inf"), "solver": METHODS[method]}, "")
    x_t = batch.x + t.reshape(-1, 1, 1, 1) * z
    x_s = discrete.neighbour(nets, batch, x_t, t, s)
    f, target = nets.student(x_t, t, None), nets.student(x_s, s, None).detach()
    loss = d(f, target) / NOISE.speed(t)
    cls = type(config.make_component("method", method, ""))
    value = cls(distance=d, stop_gradient=False).loss_at(nets, batch, z=z, t=t)
    torch.testing.assert_close(value, intervals**degree * loss, rtol=2e-3, atol=0)
    (want,) = torch.autograd.grad(intervals ** (degree - 1) * loss.sum(), student.weight)
    (got,) = torch.autograd.grad(
        cls(distance=d, stop_gradient=True).loss_at(nets, batch, z=z, t=t).sum(), student.weight
    )
    torch.testing.assert_close(got, want, rtol=5e-3, atol=5e-4 * want.abs().max().item())


def test_a_distance_without_a_forward_derivative_is_refused_in_one_line(monkeypatch):
    monkeypatch.setitem(registry.components("distance"), "unknown", lambda a, b: (a - b).abs().sum((1, 2, 3)))
    monkeypatch.setattr(registry.components("distance")["unknown"], "__qualname__", "unknown")
    with pytest.raises(UserError) as caught:
        config.make_component("method", {"name": "ct-inf", "distance": "unknown"}, "here")
    known = "known: l1, l2, l2-32, l2-norm, linf, lpips, pseudo-huber"
    assert str(caught.value) == f"here: distance 'unknown' has no forward derivative, which the loss needs; {known}"


@pytest.mark.parametrize("name", DISTANCES)
def test_a_limit_is_that_of_the_distance_for_each_image(name):
    distance, h = distance_of(name), 1e-5
    a, v = (gaussian_batch(3, seed).x for seed in (6, 7))
    want = distance(a + h * v, a) / h ** degree_of(distance)
    torch.testing.assert_close(limit(distance, a, v), want, rtol=1e-3, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_network_is_differentiated_forward_with_the_dropout_of_its_value(family):
    """Against differences of the network itself, with attention and dropout."""
    torch.manual_seed(0)
    network = denoiser(dataclasses.replace(FAMILIES[family], dropout=0.4).build(), "boundary").double().train()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x, v, seeds = gaussian_batch(3, 8, (1, 8, 8)).x, gaussian_batch(3, 9, (1, 8, 8)).x, torch.arange(3)
    t, one, h = torch.tensor([0.1, 1.0, 5.0], dtype=torch.float64), torch.ones(3, dtype=torch.float64), 1e-6

    def f(x, t):
        return network(x, t, dropout_seeds=seeds)

    value, derivative = jvp(f, (x, t), (v, one))
    torch.testing.assert_close(value, f(x, t))
    differences = (f(x + h * v, t + h) - f(x - h * v, t - h)) / (2 * h)
    torch.testing.assert_close(derivative, differences, rtol=1e-5, atol=1e-6 * differences.abs().max().item())
    gradients = torch.autograd.grad(derivative.square().sum(), list(network.parameters()), allow_unused=True)
    assert sum(g is not None and bool(g.abs().sum() > 0) for g in gradients) > 10


def test_attention_is_fused_except_where_a_network_is_differentiated_forward(monkeypatch):
    fused, attention = [], torch.nn.functional.scaled_dot_product_attention

    def watched(*qkv):
        fused.append(torch.backends.cuda.flash_sdp_enabled())
        return attention(*qkv)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    network, x, t = denoiser(FAMILIES["song"].build(), "boundary"), torch.randn(2, 1, 8, 8), torch.ones(2)
    for call in (lambda: network(x, t), lambda: jvp(network, (x, t), (x, t)), lambda: network(x, t)):
        call()
    each = len(fused) // 3
    assert fused == [True] * each + [False] * each + [True] * each != []


def test_a_network_under_autocast_is_differentiated_in_float32():
    network = denoiser(FAMILIES["song"].build(), "boundary")
    x, t = torch.randn(2, 1, 8, 8), torch.ones(2)
    want = jvp(network, (x, t), (x, t))
    with torch.autocast("cpu", torch.bfloat16):
        got = jvp(network, (x, t), (x, t))
    assert all(map(torch.equal, got, want))


def test_checkpointing_is_refused_before_anything_is_computed():
    with pytest.raises(UserError, match="ct-inf checkpointing~true, training: ct-inf differentiates forward"):
        config.Experiments().run("digits/ct-inf/checkpointing~true/seed0")
