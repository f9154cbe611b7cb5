"""Contracts of every registered objective and distance, and a distillation whose answer is known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from cm import build, config, registry
from cm.checkpoints import native
from cm.diffusion.noise import KarrasNoise
from cm.diffusion.perceptual import FeatureDistance, PerceptualDistance
from cm.errors import UserError
from cm.methods.base import Batch, Networks

NOISE = KarrasNoise()
STEP = (3, 10)


class Linear(torch.nn.Module):
    """A denoiser with weights: a 1x1 convolution and a gate on time; without a time it gives ten logits."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.head = torch.nn.Conv2d(3, 3, 1), torch.nn.Linear(3, 10)

    def forward(self, x, t=None, labels=None, s=None):
        if t is None:
            return self.head(self.mix(x).mean((2, 3)))
        return self.mix(x) / (1 + t.to(x.dtype).reshape(-1, 1, 1, 1))


def objective_of(method: str, **settings):
    """The objective with these settings, a perceptual distance with a stand-in for its network."""
    objective = config.make_component("method", {"name": method, **settings}, "test")
    if not objective.needs_perceptual_network:
        return objective
    metric = FeatureDistance(lambda x: [x, x.mean((2, 3), keepdim=True)])
    return dataclasses.replace(objective, distance=PerceptualDistance(metric))


def loss_of(objective, nets, x, labels, seed=0):
    nets = dataclasses.replace(nets, own=objective.build_own())
    return objective.loss(nets, Batch(x, labels, NOISE, *STEP, seed * len(x) + np.arange(len(x))))


@pytest.mark.parametrize("method", registry.names("method"))
def test_a_loss_has_gradients_in_the_student_only(method):
    nets = Networks(Linear(), Linear(), Linear())
    x, labels = torch.randn(5, 3, 8, 8).clamp(-1, 1), torch.arange(5)
    loss = loss_of(objective_of(method), nets, x, labels)
    assert loss.shape == (5,)
    assert loss.isfinite().all()
    loss.mean().backward()
    gradients = [p.grad for p in nets.student.mix.parameters()]
    assert all(g is not None and g.isfinite().all() and g.abs().sum() > 0 for g in gradients)
    assert all(p.grad is None for net in (nets.target, nets.teacher) for p in net.parameters())


@pytest.mark.parametrize("method", registry.names("method"))
def test_randomness_is_the_generators(method):
    nets, x, labels = Networks(Linear(), Linear(), Linear()), torch.randn(4, 3, 8, 8), torch.arange(4)
    objective = objective_of(method)
    first, again, other = (loss_of(objective, nets, x, labels, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("method", ["edm", "ect", "ct", "cd", "ict"])
def test_times_of_a_loss_are_drawn_from_its_distribution(method):
    """On the grid the nearest interval is that around the only time of the distribution."""
    curriculum = {} if method in ("edm", "ect") else {"curriculum": {"name": "fixed", "steps": 18, "target_mu": 0.0}}
    times = {"name": "lognormal", "p_mean": float(np.log(3.0)), "p_std": 1e-6}
    objective, seen = objective_of(method, times=times, **curriculum), []

    def student(x, t, labels):
        seen.extend(t.tolist())
        return x

    x = torch.randn(4, 3, 8, 8)
    loss_of(objective, Networks(student, Linear(), Linear()), x, torch.arange(4))
    grid = NOISE.times(18)
    assert seen == pytest.approx([3.0 if not curriculum else grid[grid > 3.0].min()] * 4, rel=1e-4)


@pytest.mark.parametrize("name", registry.names("distance"))
def test_a_distance_is_zero_for_equal_images_and_knows_each_image(name):
    distance = config.make_component("distance", name, "test")
    if getattr(distance, "perceptual", False):
        distance = PerceptualDistance(FeatureDistance(lambda x: [x, torch.nn.functional.avg_pool2d(x, 2)]))
    a, b = torch.rand(3, 3, 40, 40) * 2 - 1, torch.rand(3, 3, 40, 40) * 2 - 1
    assert torch.equal(distance(a, a), torch.zeros(3))
    assert (distance(a, b) > 0).all()
    torch.testing.assert_close(distance(a, b)[1:2], distance(a[1:2], b[1:2]))


class Table(torch.nn.Module):
    """f(x, t) = x (c_skip + c_out c_in g(t)), a weight g for each time: room for the exact answer on Gaussian data."""

    def __init__(self, times) -> None:
        super().__init__()
        self.times, self.g = times, torch.nn.Parameter(torch.zeros(len(times), dtype=torch.float64))

    def forward(self, x, t, labels=None):
        skip, out, scale, _ = registry.get("preconditioning", "boundary")(t, sigma_data=0.5, sigma_min=0.002)
        index = (t[:, None] - self.times).abs().argmin(1)
        return x * (skip + out * scale * self.g[index]).reshape(-1, 1, 1, 1)


def gaussian(x, t, labels=None):
    return x * (0.25 / (t.reshape(-1, 1, 1, 1) ** 2 + 0.25))


@pytest.mark.parametrize(("solver", "bound"), [("heun", 0.06), ("euler", 0.2)])
def test_distillation_of_an_analytic_teacher_finds_the_analytic_consistency_function(solver, bound):
    """For data N(0, 1/4), f(x, t) = x sqrt((eps^2 + 1/4) / (t^2 + 1/4)), up to the error of the solver's steps."""
    times = torch.from_numpy(NOISE.times(18))
    student, objective = Table(times), objective_of("cd", distance="l2", solver=solver)
    optimiser = torch.optim.Adam(student.parameters(), lr=0.02)
    for k in range(1500):
        for group in optimiser.param_groups:
            group["lr"] = 0.02 * (1 - k / 1500)
        x = torch.randn(256, 1, 1, 1, dtype=torch.float64) / 2
        loss = loss_of(objective, Networks(student, student, gaussian), x, None, seed=k).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    ones = torch.ones(17, 1, 1, 1, dtype=torch.float64)
    factors = registry.get("solver", solver)(gaussian, ones, times[:-1], times[1:]).flatten()
    fixed_point = torch.cat([factors.flip(0).cumprod(0).flip(0), torch.ones(1)])
    got = student(torch.ones(18, 1, 1, 1, dtype=torch.float64), times).flatten()
    assert (got / fixed_point - 1).abs().max() < 0.01
    exact = ((0.002**2 + 0.25) / (times**2 + 0.25)).sqrt()
    assert (got / exact - 1).abs().max() < bound


def test_lpips_is_computed_in_float32_under_autocast():
    conv = torch.nn.Conv2d(1, 4, 3)
    distance = PerceptualDistance(lambda a, b: (conv(a) - conv(b)).square().flatten(1).mean(1))
    a, b = torch.randn(2, 3, 1, 8, 8)
    want = distance(a, b)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(distance(a, b), want)
        assert (distance(a.bfloat16(), b) - want).abs().max() < 0.1 * want.max()
        assert distance(a.bfloat16(), b).dtype == torch.float32


@pytest.mark.parametrize(
    ("variant", "size", "pooling"),
    [("default", 224, "max"), ("pooling~average", 224, "average"), ("size~64", 64, "max"), ("size~null", None, "max")],
)
def test_pretrained_lpips_has_its_size_and_pooling(tmp_path, monkeypatch, variant, size, pooling):
    made = []
    monkeypatch.setattr(build.pretrained, "load_lpips", lambda path, **how: made.append((path, how)))
    path = tmp_path / "lpips.safetensors"
    native.save(path, {"lin0": torch.zeros(1)}, {"weights": "lpips-vgg16"})
    run = config.Experiments().run(f"cifar10/cd/{variant}/seed0")
    assert build.build_objective(run, path).distance.size == size
    assert made == [(path, {"pooling": pooling, "precision": "float32", "device": "cpu"})]


@pytest.fixture
def lpips_file(tmp_path, monkeypatch):
    """A file that says that it holds LPIPS by VGG16, and a stand-in for the network that is in it."""
    monkeypatch.setattr(build.pretrained, "load_lpips", lambda path, **how: FeatureDistance(lambda x: [x]))
    native.save(tmp_path / "lpips.safetensors", {"lin0": torch.zeros(1)}, {"weights": "lpips-vgg16"})
    return tmp_path / "lpips.safetensors"


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("cifar10/cd/size~8/seed0", "with size 8 compares images of 8 pixels, but lpips-vgg16 needs at least 16: set"),
        ("digits/cd/distance~lpips,size~null/seed0", "with size null compares images of 8 pixels, but lpips-vgg16"),
        (
            "cifar10/cd/distance.precision~float16/seed0",
            "float16, which needs the loss scaling of a training in float16",
        ),
    ],
)
def test_a_distance_that_cannot_work_is_refused_before_training(run, message, lpips_file):
    folder = config.Experiments("tests/micro/experiments" if run.startswith("digits") else config.EXPERIMENTS)
    with pytest.raises(UserError, match=f"^{run}: distance 'lpips' .*{message}") as caught:
        build.build_objective(folder.run(run), lpips_file)
    assert "\n" not in str(caught.value)


def test_a_distance_in_float16_is_for_a_training_in_float16(lpips_file):
    run = config.Experiments().run("imagenet64/cd/distance.precision~float16/seed0")
    assert run.training.precision == "float16"
    assert build.build_objective(run, lpips_file).distance.size == 224


@pytest.mark.parametrize(("dataset", "compiled"), [("cifar10_reduced", 1), ("cifar10", 0)])
def test_the_network_of_a_distance_is_compiled_if_those_of_the_training_are(dataset, compiled, lpips_file, monkeypatch):
    calls = []
    monkeypatch.setattr(torch, "compile", lambda metric, mode, backend: calls.append((mode, backend)) or metric)
    run = config.Experiments().run(f"{dataset}/cd/default/seed0")
    assert run.training.compile == bool(compiled)
    build.build_objective(run, lpips_file)
    assert calls == [(None, "inductor")] * compiled


class Watched(Linear):
    """Notes, of each call, its role, whether autograd is enabled, and how many tensors it saved."""

    def __init__(self, role, notes):
        super().__init__()
        self.role, self.notes = role, notes

    def forward(self, x, t=None, labels=None, s=None):
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(1) or tensor, lambda tensor: tensor):
            result = super().forward(x, t, labels)
        self.notes.append((self.role, torch.is_grad_enabled(), len(saved)))
        return result


@pytest.mark.parametrize("method", ["cd", "ct", "ict", "ect", "meanflow", "tcm", "pd", "sct", "scd"])
def test_autograd_keeps_one_pass_of_the_student_and_nothing_of_teacher_and_target(method):
    notes = []
    nets = Networks(*(Watched(role, notes) for role in ("student", "target", "teacher")))
    loss_of(objective_of(method), nets, torch.randn(2, 3, 8, 8), None)
    recorded = [note for note in notes if note[1]]
    assert [role for role, *_ in recorded] == ["student"] and recorded[0][2] > 0
    others = [note for note in notes if not note[1]]
    assert others and all(saved == 0 for *_, saved in others)
