"""Improved consistency training and easy consistency tuning against their formulas and the official code of ECT."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from goldens import GOLDEN, assert_golden, load
from nets import Tiny

from cm import registry
from cm.diffusion.distances import PseudoHuber
from cm.diffusion.noise import KarrasNoise
from cm.diffusion.times import LogNormal
from cm.methods.base import Batch, Networks
from cm.methods.ect import EasyConsistencyTuning
from cm.methods.ict import ImprovedConsistencyTraining

NOISE = KarrasNoise()
TYPES = {"f32": torch.float32, "f64": torch.float64}


def batch_of(x: torch.Tensor, step: int = 0) -> Batch:
    return Batch(x, None, NOISE, step, 1, np.arange(len(x)))


def student_of(data: dict, scalings: str, dtype: torch.dtype) -> Tiny:
    """The stored network, used for both evaluations: EDM's noise label, and weights in PyTorch's layout."""
    return Tiny(data["W"], data["b"], scalings, "edm", dtype)


@pytest.mark.parametrize("bits", TYPES)
@pytest.mark.parametrize("steps", [11, 1281])
def test_the_loss_of_ict(steps, bits):
    file, dtype = f"ict_loss_n{steps}.npz", TYPES[bits]
    data = load(file)
    net = student_of(data, "boundary", dtype)
    grid = torch.from_numpy(NOISE.times(steps)).flip(0).to(dtype)
    index = torch.from_numpy(data["index"])
    x, z = (torch.from_numpy(data[name]).to(dtype) for name in ("images", "z"))
    assert_golden(file, f"t_{bits}", grid[index + 1])
    assert_golden(file, f"s_{bits}", grid[index])
    objective = ImprovedConsistencyTraining()
    loss = objective.pair_loss(Networks(net, net), batch_of(x), z=z, t=grid[index + 1], s=grid[index])
    loss.mean().backward()
    assert_golden(file, f"loss_{bits}", loss)
    assert_golden(file, f"gradW_{bits}", net.gradient())
    assert_golden(file, f"gradb_{bits}", net.bias.grad)


ECT_LOSSES = [
    *(("ect_loss_q2.npz", EasyConsistencyTuning(q=2), stage) for stage in (0, 1, 3, 7)),
    ("ect_loss_q256_c.npz", EasyConsistencyTuning(q=256, distance=PseudoHuber(0.06, relative=False)), 0),
    *(("ect_loss_const.npz", EasyConsistencyTuning(q=4, k=0), stage) for stage in (0, 2)),
]


@pytest.mark.parametrize(
    ("file", "objective", "stage"), ECT_LOSSES, ids=[f"{file}-{stage}" for file, _, stage in ECT_LOSSES]
)
@pytest.mark.parametrize("bits", TYPES)
def test_the_loss_of_ect(file, objective, stage, bits):
    """The official code is float32: float64 comes as near to it as its tolerance says."""
    data, dtype = load(file), TYPES[bits]
    net = student_of(data, "edm", dtype)
    x, z, normal = (torch.from_numpy(data[name]).to(dtype) for name in ("images", "eps", "rnd_normal"))
    t = (-1.1 + 2.0 * normal.flatten()).exp()
    s = objective.earlier(t, stage * 25_000)
    assert_golden(file, "t", t)
    assert_golden(file, f"r_stage{stage}", s)
    loss = objective.pair_loss(Networks(net, net), batch_of(x), z=z, t=t, s=s)
    loss.mean().backward()
    assert_golden(file, f"loss_stage{stage}", loss)
    assert_golden(file, f"gradW_stage{stage}", net.gradient())
    assert_golden(file, f"gradb_stage{stage}", net.bias.grad)


@pytest.mark.parametrize("bits", TYPES)
@pytest.mark.parametrize("stage", [0, 1, 3])
def test_the_loss_of_ect_on_imagenet(stage, bits):
    file, dtype = "ect_loss_imgnet.npz", TYPES[bits]
    data = load(file)
    net = student_of(data, "edm", dtype)
    objective = EasyConsistencyTuning(
        q=4, distance=PseudoHuber(0.06, relative=False), weighting=registry.get("weighting", "karras")
    )
    x, z, normal = (torch.from_numpy(data[name]).to(dtype) for name in ("images", "eps", "rnd_normal"))
    t = (-0.8 + 1.6 * normal.flatten()).exp()
    s = objective.earlier(t, stage * 25_000)
    assert_golden(file, f"t_{bits}", t)
    assert_golden(file, f"r_stage{stage}_{bits}", s)
    loss = objective.pair_loss(Networks(net, net), batch_of(x), z=z, t=t, s=s)
    loss.mean().backward()
    assert_golden(file, f"loss_stage{stage}_{bits}", loss)
    assert_golden(file, f"gradW_stage{stage}_{bits}", net.gradient())
    assert_golden(file, f"gradb_stage{stage}_{bits}", net.bias.grad)


@pytest.mark.parametrize("bits", TYPES)
@pytest.mark.parametrize(("q", "stage"), [(2, 0), (2, 1), (2, 3), (2, 7), (256, 0), (4, 0), (4, 2)])
def test_the_mapping_of_ect(q, stage, bits):
    t = torch.from_numpy(load("ect_mapping.npz")["t"]).to(TYPES[bits])
    objective, name = EasyConsistencyTuning(q=q), f"q{q}_k8_b1_stage{stage}_{bits}"
    step = stage * objective.stage_steps
    assert_golden("ect_mapping.npz", f"r_ect_{name}", objective.earlier(t, step))
    assert_golden("ect_mapping.npz", f"r_const_{name}", dataclasses.replace(objective, k=0).earlier(t, step))
    limited = dataclasses.replace(objective, ratio_limit=0.999, s_min=1e-6).earlier(t, step)
    assert_golden("ect_mapping.npz", f"r_clamped_{name}", limited)


@pytest.mark.parametrize("bits", TYPES)
def test_the_weighting_of_ect_on_imagenet(bits):
    data = load("ect_mapping.npz")
    t = torch.from_numpy(data["t"]).to(TYPES[bits])
    got = registry.get("weighting", "karras")(t, t / 2, 0.5)
    assert_golden("ect_mapping.npz", f"weight_snrpk_{bits}", got)


@pytest.mark.parametrize("name", ["fastgen_cm_cifar10", "fastgen_cm_in64", "tcm_stage1_cifar10"])
def test_the_stages_of_ect(name):
    table = json.loads((GOLDEN / "ect_schedules.json").read_text())["ratio"][name]
    given = table["kwargs"]
    stage_steps = given["kimg_per_stage"] * 1000 // given["batch_size"]
    objective = EasyConsistencyTuning(q=given["q"], ratio_limit=given["ratio_limit"], stage_steps=stage_steps)
    assert table["rows"]
    for step, _, ratio in table["rows"]:
        assert objective.ratio_at(step) == pytest.approx(float(ratio), rel=1e-12)


@pytest.mark.parametrize(("scalings", "mode"), [("edm", "train"), ("ect", "eval")])
def test_the_preconditioning_of_ect(scalings, mode):
    """Plain EDM in training; in evaluation the boundary at 0.003."""
    data = load("ect_precond.npz")
    net = student_of(data, scalings, torch.float32)
    got = net(torch.from_numpy(data["x"]), torch.from_numpy(data["sigma"]))
    assert_golden("ect_precond.npz", f"out_{mode}", got)


@pytest.mark.parametrize(("c", "bits"), [("default", "f32"), ("default", "f64"), ("c0.06", "f32"), ("c1e-8", "f64")])
@pytest.mark.parametrize("images", ["a", "b"])
def test_the_pseudo_huber_distance(images, c, bits):
    data, dtype = load("ict_metric.npz"), TYPES[bits]
    distance = PseudoHuber() if c == "default" else PseudoHuber(float(c[1:]), relative=False)
    a, b = (torch.from_numpy(data[f"{images}_{name}"]).to(dtype) for name in "xy")
    a.requires_grad_()
    got = distance(a, b)
    got.sum().backward()
    assert_golden("ict_metric.npz", f"d_{images}_{c}_{bits}", got)
    assert_golden("ict_metric.npz", f"grad_{images}_{c}_{bits}", a.grad)


def test_the_gradient_of_the_norm_at_equal_images_is_zero():
    a = torch.ones(2, 3, 4, 4, requires_grad=True)
    registry.get("distance", "l2-norm")(a, a.detach()).sum().backward()
    assert torch.equal(a.grad, torch.zeros_like(a))


@pytest.mark.parametrize("steps", [11, 21, 81, 1281])
def test_the_grid_and_the_times_of_ict(steps):
    grid = NOISE.times(steps)
    assert_golden("ict_grids.npz", f"sigma_{steps}_f64", grid[::-1])
    probabilities = ImprovedConsistencyTraining().times.probabilities(grid)
    assert_golden("ict_grids.npz", f"p_{steps}_f64", probabilities.flip(0))


class Draws:
    """Stored random numbers in place of a batch's."""

    def __init__(self, uniform: torch.Tensor) -> None:
        self._uniform = uniform

    def uniform(self) -> torch.Tensor:
        return self._uniform


def test_lognormal_times_on_the_grid_have_their_probabilities():
    grid, times = NOISE.times(21), LogNormal(-1.1, 2.0)
    count = 1_000_000
    even = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    index = times.on_grid(Draws(even), grid)
    shares = torch.bincount(index, minlength=20) / count
    assert len(shares) == 20
    torch.testing.assert_close(shares.double(), times.probabilities(grid), rtol=0, atol=2e-6)
    assert times.on_grid(Draws(torch.tensor([0.0, 1.0])), grid).tolist() == [0, 19]


def test_continuous_times():
    batch = batch_of(torch.zeros(20_000, 1, 1, 1))
    logs = LogNormal(-1.1, 2.0).continuous(batch, NOISE).log()
    assert logs.dtype == torch.float64
    assert (logs.mean().item(), logs.std().item()) == (pytest.approx(-1.1, abs=0.05), pytest.approx(2.0, abs=0.05))
    levels = registry.get("times", "uniform")().continuous(batch, NOISE) ** (1 / 7)
    low, high = 0.002 ** (1 / 7), 80 ** (1 / 7)
    assert low < levels.min() < levels.max() <= high
    assert levels.mean().item() == pytest.approx((low + high) / 2, abs=0.01)


def test_the_target_of_ect_is_the_clean_image_where_s_is_zero():
    """In the first stage with q = 2 that is where t <= ln 7."""
    objective = EasyConsistencyTuning(q=2)
    t = torch.tensor([0.01, np.log(7) - 1e-6, np.log(7) + 1e-6, 20.0], dtype=torch.float64)
    s = objective.earlier(t, 0)
    assert (s == 0).tolist() == [True, True, False, False]
    x = torch.zeros(4, 1, 2, 2)
    nets = Networks(lambda y, time, labels: y, lambda y, time, labels: y + 5 + 0 * time.log().reshape(-1, 1, 1, 1))
    targets = objective.target(nets, batch_of(x), x + 1, s)
    assert targets[:, 0, 0, 0].tolist() == [0.0, 0.0, 6.0, 6.0]
