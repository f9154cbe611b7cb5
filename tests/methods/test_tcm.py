"""Truncated consistency models against the official code, the answer on Gaussian data, and their first stage."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np
import pytest
import torch
from conftest import plan_of
from goldens import assert_golden, load
from nets import Tiny

from cm import config, registry
from cm.checkpoints import native
from cm.cli import main
from cm.diffusion.distances import PseudoHuber
from cm.diffusion.noise import KarrasNoise
from cm.diffusion.samplers import Multistep, OneStep
from cm.diffusion.times import TruncatedStudent
from cm.errors import UserError
from cm.methods.base import Batch, Networks
from cm.methods.ect import EasyConsistencyTuning
from cm.methods.tcm import TruncatedConsistency

NOISE = KarrasNoise()
TYPES = {"f32": torch.float32, "f64": torch.float64}
KARRAS = registry.get("weighting", "karras")
FIRST = {
    "cifar10": EasyConsistencyTuning(
        distance=PseudoHuber(1e-8, relative=False), ratio_limit=0.999, stage_steps=1, s_min=1e-6
    ),
    "in64": EasyConsistencyTuning(
        q=4, distance=PseudoHuber(0.06, relative=False), weighting=KARRAS, ratio_limit=0.9961, stage_steps=1, s_min=1e-6
    ),
}
SECOND = {
    "cifar10": TruncatedConsistency(),
    "in64": TruncatedConsistency(q=4, distance=PseudoHuber(0.06, relative=False), weighting=KARRAS, ratio_limit=0.9961),
}


def batch_of(x: torch.Tensor, step: int = 0) -> Batch:
    return Batch(x, None, NOISE, step, 1, np.arange(len(x)))


def network(data: dict, dtype: torch.dtype, of: str = "") -> Tiny:
    return Tiny(data[f"W{of}"], data[f"b{of}"], "edm", "edm", dtype)


def images(data: dict, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Clean images and noise in that precision, and times, which are float64 in both."""
    x, z = (torch.from_numpy(data[name]).to(dtype) for name in ("images", "eps"))
    return x, z, torch.from_numpy(data["log_t"]).exp()


@pytest.mark.parametrize("bits", TYPES)
@pytest.mark.parametrize(("name", "stage"), [("cifar10", 1), ("in64", 0)])
def test_the_loss_of_the_first_stage(name, stage, bits):
    file, dtype = "tcm_loss_stage1.npz", TYPES[bits]
    data, key = load(file), f"{name}_stage{stage}_{bits}"
    net = network(data, dtype)
    x, z, t = images(data, dtype)
    s = FIRST[name].earlier(t, stage)
    loss = FIRST[name].pair_loss(Networks(net, net), batch_of(x), z=z, t=t, s=s)
    loss.mean().backward()
    assert_golden(file, f"loss_{key}", loss)
    assert_golden(file, f"total_{key}", loss.mean()[None])
    assert_golden(file, f"gradW_{key}", net.gradient())
    assert_golden(file, f"gradb_{key}", net.bias.grad)
    assert_golden(file, f"r_{name}_stage{stage}_f64", s)


@pytest.mark.parametrize("bits", TYPES)
@pytest.mark.parametrize(("name", "stage"), [("cifar10", 2), ("cifar10", 9), ("in64", 1), ("in64", 5)])
def test_the_loss_of_the_second_stage(name, stage, bits):
    """Of 8 images exactly a share of 1/4 is at the boundary, so that the weights are those of the official code."""
    file, dtype = "tcm_loss_stage2.npz", TYPES[bits]
    data, key = load(file), f"{name}_stage{stage}_{bits}"
    net, first = network(data, dtype), network(data, dtype, "1")
    x, z, t = images(data, dtype)
    boundary = torch.zeros(8, dtype=torch.bool)
    boundary[torch.from_numpy(data["permutation"])[:2]] = True
    objective = dataclasses.replace(SECOND[name], first_stage=stage)
    losses = objective.boundary_loss(Networks(net, net, first), batch_of(x), z=z, t=t, boundary=boundary)
    losses.mean().backward()
    assert_golden(file, f"loss_{key}", losses[~boundary].double() * 0.75)
    assert_golden(file, f"loss_boundary_{key}", losses[boundary].double() * 0.25 / 0.1)
    assert_golden(file, f"total_{key}", losses.mean()[None])
    assert_golden(file, f"gradW_{key}", net.gradient())
    assert_golden(file, f"gradb_{key}", net.bias.grad)
    assert first.weight.grad is None
    t = t.masked_fill(boundary, 1.0)
    assert_golden(file, f"t_{name}_stage{stage}_f64", t)
    assert_golden(file, f"r_{name}_stage{stage}_f64", objective.earlier(t, 0))


@pytest.mark.parametrize("bits", TYPES)
@pytest.mark.parametrize(("sampler", "name"), [(OneStep(), "onestep"), (Multistep((0.821,)), "twostep")])
def test_the_sampler_of_tcm(sampler, name, bits):
    """Noise of deviation tau is added, so that eps is 0 here; the network has EDM's preconditioning."""
    data, dtype = load("tcm_sampler.npz"), TYPES[bits]
    net = Tiny(data["W"], data["b"], "tcm", "edm", dtype)
    noise = [torch.from_numpy(draw).to(dtype) for draw in data["noise"]]
    grid = dataclasses.replace(NOISE, sigma_min=1e-12)
    got = sampler(lambda x, t: net(x, t.to(dtype)), noise[0], grid, iter(noise[1:]).__next__)
    assert_golden("tcm_sampler.npz", f"{name}_{bits}", got)


TIMES = {"student_df0.01": TruncatedStudent(), "student_df2": TruncatedStudent(df=2.0)}


@pytest.mark.parametrize("name", TIMES)
def test_the_quantiles_of_the_proposals(name):
    got = TIMES[name].quantile(load("tcm_proposal.npz")["u"], 80.0)
    assert_golden("tcm_proposal.npz", f"t_{name}", got)


@pytest.mark.parametrize("times", TIMES.values(), ids=TIMES)
def test_truncated_times_on_the_grid_have_the_shares_of_their_intervals(times):
    """The quantiles at even shares fall into the intervals as often as the probabilities say."""
    grid = NOISE.times(15)
    quantiles = times.quantile((np.arange(100_000) + 0.5) / 100_000, 80.0)
    counts = np.histogram(quantiles, bins=grid[::-1])[0][::-1] / 100_000
    np.testing.assert_allclose(times.probabilities(grid), counts, atol=2e-5)
    index = times.on_grid(batch_of(torch.zeros(20_000, 1, 1, 1)), grid)
    drawn = torch.bincount(index, minlength=14) / 20_000
    torch.testing.assert_close(drawn.double(), times.probabilities(grid), rtol=0, atol=0.015)


@pytest.mark.parametrize("times", TIMES.values(), ids=TIMES)
def test_continuous_times_are_the_quantiles_of_uniform_numbers(times):
    batch = batch_of(torch.zeros(500, 1, 1, 1))
    expected = times.quantile(batch_of(batch.x).uniform().double().numpy(), 80.0)
    np.testing.assert_array_equal(times.continuous(batch, NOISE), expected)
    assert times.low <= expected.min() < expected.max() <= 80.0


@pytest.mark.parametrize("times", [TruncatedStudent(df=1e6, p_mean=-100.0), TruncatedStudent(low=90.0)])
def test_a_distribution_without_weight_in_its_interval_is_one_line(times):
    with pytest.raises(UserError, match=f"none of this distribution lies between {times.low:g} and 80"):
        times.continuous(batch_of(torch.zeros(2, 1, 1, 1)), NOISE)


def test_the_share_and_the_weights_of_the_boundary():
    """All differences are 2 and all weights 1, so a loss is 4 times the weight of its mean over its share."""
    seen: list[torch.Tensor] = []

    def student(x, t, labels):
        seen.append(t)
        return x

    def shifted(x, t, labels):
        return torch.full_like(x, 2) + student(x, t, labels)

    count = 4000
    distance, weighting = registry.get("distance", "l2"), registry.get("weighting", "uniform")
    objective = TruncatedConsistency(distance=distance, weighting=weighting, ratio_limit=1.0, first_stage=40)
    losses = objective.loss(Networks(student, shifted, shifted), batch_of(torch.zeros(count, 1, 1, 1)))
    t = seen[-1]
    boundary = t == 1.0
    assert boundary.double().mean().item() == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / count))
    assert losses[boundary].mean().item() == pytest.approx(4 * 0.1 / 0.25, rel=1e-5)
    assert losses[~boundary].mean().item() == pytest.approx(4 / 0.75, rel=1e-5)
    assert t.min() >= 1.0 and t.dtype == torch.float64


def test_the_target_is_of_the_first_stage_below_the_transition():
    s = torch.tensor([1e-6, 0.999, 1.0, 30.0], dtype=torch.float64)
    nets = Networks(lambda x, t, labels: x, lambda x, t, labels: x + 1, teacher=lambda x, t, labels: x + 2)
    x = torch.zeros(4, 1, 1, 1)
    assert TruncatedConsistency().target(nets, batch_of(x), x, s).flatten().tolist() == [2.0, 2.0, 1.0, 1.0]


def test_the_ratio_continues_that_of_the_first_stage():
    first, second = EasyConsistencyTuning(stage_steps=10), TruncatedConsistency(stage_steps=10, first_stage=3)
    for step in (0, 9, 10, 25):
        assert second.ratio_at(step) == first.ratio_at(step + 30)
    assert TruncatedConsistency().ratio_at(0) == 0.999


class Curve(torch.nn.Module):
    """f(x, t) = x (c_skip + c_out c_in g(ln t)), g a polynomial: room for the answer on Gaussian data from t = 1 on."""

    def __init__(self) -> None:
        super().__init__()
        self.g = torch.nn.Parameter(torch.zeros(6, dtype=torch.float64))

    def forward(self, x, t, labels=None):
        skip, out, scale, _ = registry.get("preconditioning", "edm")(t, sigma_data=0.5, sigma_min=0.002)
        powers = (t.log() / math.log(80))[:, None] ** torch.arange(6, dtype=torch.float64)
        return x * (skip + out * scale * (powers @ self.g)).reshape(-1, 1, 1, 1)


def first_stage(x, t, labels=None):
    """The analytic consistency function of data N(0, 1/4)."""
    return x * 0.5 / (t.reshape(-1, 1, 1, 1) ** 2 + 0.25).sqrt()


def test_the_second_stage_continues_an_analytic_first_stage():
    """For data N(0, 1/4), f(x, t) = x / sqrt(4 t^2 + 1), up to the bias of training with t - s above 0."""
    student = Curve()
    objective = TruncatedConsistency(ratio_limit=0.99, distance=registry.get("distance", "l2"))
    optimiser = torch.optim.Adam(student.parameters(), lr=0.05)
    for k in range(400):
        optimiser.param_groups[0]["lr"] = 0.05 * (1 - k / 400)
        generator = torch.Generator().manual_seed(k)
        x = torch.randn(64, 1, 1, 1, dtype=torch.float64, generator=generator) / 2
        batch = Batch(x, None, NOISE, k, 400, 64 * k + np.arange(64))
        loss = objective.loss(Networks(student, student, first_stage), batch).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    t = torch.tensor([1.0, 2.0, 5.0, 20.0, 80.0], dtype=torch.float64)
    x = (t**2 + 0.25).sqrt().reshape(-1, 1, 1, 1)
    ratio = (student(x, t) / first_stage(x, t)).flatten().detach()
    torch.testing.assert_close(ratio, torch.ones(5, dtype=torch.float64), rtol=0, atol=0.04)


def train_second_stage(place, folder, *more: str) -> int:
    arguments = ["train", "--run", "digits/tcm/default/seed0", "--experiments", str(place / "experiments")]
    return main([*arguments, "--data", str(place / "data"), "--out", str(folder / "out/100.safetensors"), *more])


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (None, r"digits/tcm/default/seed0: needs the weights of its stage 1, a run of ECT \(--teacher\)"),
        ("edm", r"edm/default/seed0, which is not a model of easy consistency tuning \(ect\) and cannot be stage 1"),
        ("missing", "no file"),
    ],
)
def test_a_second_stage_without_its_first_is_one_line(place, tmp_path, capsys, stage, message):
    path = place / f"models/digits/{stage}/default/seed0/100.safetensors"
    assert train_second_stage(place, tmp_path, *(["--teacher", str(path)] if stage else [])) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_second_stage_starts_from_the_first_as_it_was_trained(place):
    """The weights are those of the first stage; its preconditioning is that of its training, not of its sampling."""
    plan = plan_of(place, "digits/tcm/default/seed0")
    tensors, description = native.load(place / "models/digits/ect/default/seed0/100.safetensors")
    for module in (plan.student, plan.teacher):
        assert all(torch.equal(tensors[name], tensor) for name, tensor in module.state_dict().items())
        assert module.preconditioning is registry.get("preconditioning", "edm")
    assert description["preconditioning"] == "ect"
    assert plan.description["made_from"].keys() == {"images", "teacher"}


@pytest.mark.parametrize("times", ["lognormal", {"name": "student-truncated", "low": 0.5}])
def test_times_below_the_transition_are_refused(times):
    with pytest.raises(
        UserError, match="times must not lie below the transition 1: choose 'student-truncated' with low 1"
    ):
        config.make_component("method", {"name": "tcm", "times": times}, "test")
