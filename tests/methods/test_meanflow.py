"""MeanFlow against the official code, against the analytic average velocity of Gaussian data, and as a model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml
from conftest import plan_of
from goldens import assert_golden, load
from nets import F32, F64, tensor

import cm
from cm import config
from cm.checkpoints import native
from cm.config import make_component, parse_sampler
from cm.diffusion.denoiser import Denoiser
from cm.diffusion.noise import KarrasNoise
from cm.diffusion.preconditioning import average_velocity, meanflow
from cm.diffusion.samplers import FlowMap, Multistep, OneStep
from cm.diffusion.time_pairs import Capped, Sorted
from cm.errors import UserError
from cm.methods.base import Batch, Networks
from cm.methods.meanflow import MeanFlow
from cm.training.trainer import train

TYPES = [("f32", F32), ("f64", F64)]
PURE = KarrasNoise(sigma_min=1e-15, sigma_max=1e15)  # t = 1 up to rounding in float64
SCALE = 0.5  # standard deviation of Gaussian data


def batch_of(x: torch.Tensor, seed: int = 0) -> Batch:
    return Batch(x, None, PURE, 0, 1, seed * len(x) + np.arange(len(x)))


class Tiny(torch.nn.Module):
    """The stored stand-in network u(z, t, h) of the golden files."""

    def __init__(self, data: dict, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight, self.bias = (torch.nn.Parameter(tensor(data[name], dtype)) for name in ("W", "b"))

    def forward(self, z, times, classes=None, augment_labels=None, dropout_seeds=None):
        t, h = (column.reshape(-1, 1, 1, 1) for column in times.unbind(1))
        inner = torch.tanh(torch.nn.functional.conv2d(z, self.weight, self.bias, padding=1))
        return inner * (1 + 0.2 * (3 * t).sin() + 0.3 * (2 * h).sin())


@pytest.mark.parametrize(("bits", "dtype"), TYPES)
@pytest.mark.parametrize(("name", "pairs"), [("v0", Sorted()), ("v1", Capped())])
def test_the_times(name, pairs, bits, dtype):
    data = load("meanflow_times.npz")
    t, r = pairs.pair(*(tensor(data[key], dtype) for key in ("n_t", "n_r", "u")))
    assert t.dtype == r.dtype == F64
    assert_golden("meanflow_times.npz", f"t_{name}_{bits}", t)
    assert_golden("meanflow_times.npz", f"r_{name}_{bits}", r)


@pytest.mark.parametrize(("pairs", "equal"), [(Sorted(), 0.25), (Capped(ratio=0.4), 0.6)])
def test_the_second_time_is_earlier_or_the_same_with_its_probability(pairs, equal):
    t, r = pairs(batch_of(torch.zeros(4000, 1, 1, 1)))
    assert ((r >= 0) & (r <= t) & (t <= 1)).all()
    capped = isinstance(pairs, Capped)  # there r is t, too, where more than t is drawn for it
    share = (r == t).double().mean().item()
    assert share == pytest.approx(equal, abs=0.02) if not capped else equal - 0.02 < share < equal + 0.1


@pytest.mark.parametrize(("bits", "dtype"), TYPES)
@pytest.mark.parametrize(("name", "power", "offset"), [("p0.75", 0.75, 1e-3), ("p0", 0.0, 1e-3), ("p1", 1.0, 1e-2)])
def test_the_loss(name, power, offset, bits, dtype):
    file = "meanflow_loss.npz"
    data = load(file)
    network = Tiny(data, dtype)
    nets = Networks(Denoiser(network, average_velocity))
    x, e, t, r = (tensor(data[key], dtype) for key in ("images", "e", "t", "r"))
    objective, batch = MeanFlow(weight_power=power, weight_offset=offset), batch_of(x)
    z = (1 - t).reshape(-1, 1, 1, 1) * x + t.reshape(-1, 1, 1, 1) * e
    assert_golden(file, f"z_{bits}", z)
    u, target = objective.estimate(nets, batch, z=z, v=e - x, t=t, r=r)
    assert not target.requires_grad
    assert_golden(file, f"u_{bits}", u)
    assert_golden(file, f"u_tgt_{bits}", target)
    assert_golden(file, f"loss_{bits}", (u - target).square().sum((1, 2, 3)))
    loss = objective.loss_at(nets, batch, e=e, t=t, r=r)
    loss.mean().backward()
    assert_golden(file, f"weighted_{name}_{bits}", loss)
    assert_golden(file, f"returned_{name}_{bits}", loss.mean()[None])
    assert_golden(file, f"gradW_{name}_{bits}", network.weight.grad)
    assert_golden(file, f"gradb_{name}_{bits}", network.bias.grad)


SAMPLERS = {
    "ode_onestep": OneStep(),
    "sde_onestep": OneStep(),
    "ode_twostep": FlowMap(2),
    "sde_twostep": Multistep((1.0,)),  # the noise level 1 is the time 1/2
}


@pytest.mark.parametrize(("bits", "dtype"), TYPES)
@pytest.mark.parametrize("name", SAMPLERS)
def test_the_samplers(name, bits, dtype):
    data, sampler, calls = load("meanflow_sampler.npz"), SAMPLERS[name], []
    model, draws = Denoiser(Tiny(data, dtype), meanflow), iter(tensor(data["noise"], dtype))

    def denoise(x, t, s=None):
        calls.append(t)
        return model(x, t, s=s)

    assert_golden("meanflow_sampler.npz", f"{name}_{bits}", sampler(denoise, next(draws), PURE, lambda: next(draws)))
    assert len(calls) == sampler.evaluations


def deviation(t: torch.Tensor) -> torch.Tensor:
    """Of z_t, for data N(0, SCALE^2)."""
    return ((1 - t) ** 2 * SCALE**2 + t**2).sqrt()


class Exact(torch.nn.Module):
    """u = (z_t - z_r) / h for data N(0, SCALE^2): along the trajectories z_r = z_t deviation(r) / deviation(t)."""

    def forward(self, z, times, classes=None, augment_labels=None, dropout_seeds=None):
        t, h = times.unbind(1)
        return z * ((1 - deviation(t - h) / deviation(t)) / h).reshape(-1, 1, 1, 1)


def test_the_target_of_the_analytic_average_velocity_is_itself():
    """With the velocity of the flow, which is linear in z, in place of that of one image, whose mean it is."""
    t = torch.tensor([0.2, 0.5, 0.8, 1.0], dtype=F64)
    r, z = t * torch.tensor([0.0, 0.5, 0.9, 0.1], dtype=F64), torch.randn(4, 1, 2, 2, dtype=F64)
    velocity = z * ((t - (1 - t) * SCALE**2) / deviation(t) ** 2).reshape(-1, 1, 1, 1)
    nets = Networks(Denoiser(Exact(), average_velocity))
    u, target = MeanFlow().estimate(nets, batch_of(z), z=z, v=velocity, t=t, r=r)
    torch.testing.assert_close(target, u, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("steps", [2, 3, 5])
def test_any_number_of_steps_of_the_analytic_average_velocity_leads_to_the_same_image(steps):
    model, z = Denoiser(Exact(), meanflow), torch.randn(5, 1, 2, 2, dtype=F64)
    want = OneStep()(model, z, PURE, lambda: z)
    got = FlowMap(steps)(lambda x, t, s=None: model(x, t, s=s), z, PURE, lambda: z)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(want, SCALE * z, rtol=1e-10, atol=1e-12)


class Learned(torch.nn.Module):
    """u = z g(t, h) with a small network g."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.g = torch.nn.Sequential(
            *(torch.nn.Linear(2, 32), torch.nn.SiLU(), torch.nn.Linear(32, 32), torch.nn.SiLU(), torch.nn.Linear(32, 1))
        ).double()

    def forward(self, z, times, classes=None, augment_labels=None, dropout_seeds=None):
        return z * self.g(times).reshape(-1, 1, 1, 1)


@pytest.mark.parametrize("pairs", ["sorted", "capped"])
def test_training_on_gaussian_data_finds_the_analytic_average_velocity(pairs):
    network, steps = Learned(), 1500
    objective = MeanFlow(times=make_component("time-pairs", {"name": pairs, "t_mean": 0.0}, ""), weight_power=0.0)
    optimiser = torch.optim.Adam(network.parameters())
    for k in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 0.01 * (1 - k / steps)
        x = SCALE * torch.randn(64, 1, 4, 4, dtype=F64, generator=torch.Generator().manual_seed(k))
        loss = objective.loss(Networks(Denoiser(network, average_velocity)), batch_of(x, seed=k)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    t = torch.tensor([0.3, 0.5, 0.7, 0.9, 1.0], dtype=F64)
    times, one = torch.stack([t, t - t * 0.1], 1), torch.ones(5, 1, 1, 1, dtype=F64)
    torch.testing.assert_close(network(one, times), Exact()(one, times), rtol=0, atol=0.06)
    z = torch.randn(100, 1, 4, 4, dtype=F64)
    images = OneStep()(Denoiser(network, meanflow), z, PURE, lambda: z)
    assert (images / z).mean().item() == pytest.approx(SCALE, abs=0.05)


def test_a_model_is_a_consistency_function_of_noise_levels():
    """x_s = X(x, t, s) in steps of the flow, which is where the noise levels of all methods come from."""
    model, x = Denoiser(Exact(), meanflow), torch.randn(3, 1, 2, 2, dtype=F64)
    t, s = torch.tensor([0.1, 2.0, 80.0], dtype=F64), torch.tensor([0.05, 0.3, 7.0], dtype=F64)
    exact = x * ((s**2 + SCALE**2) / (t**2 + SCALE**2)).sqrt().reshape(-1, 1, 1, 1)
    torch.testing.assert_close(model(x, t, s=s), exact)
    torch.testing.assert_close(model(model(x, t, s=s), s), model(x, t))


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("digits/meanflow/two_times~false", "two_times~false: needs a network that is conditioned on two times: set"),
        ("digits/edm/two_times~true", "two_times~true: has one time, but its network is conditioned on two: set its"),
        ("digits/meanflow/augment~scale", "the augmentation has 1 labels, but the network takes 0: set its 'augment_"),
    ],
)
def test_a_network_that_does_not_fit_is_refused_before_anything_is_built(run, message):
    with pytest.raises(UserError, match=message) as caught:
        config.Experiments().run(f"{run}/seed0")
    assert "\n" not in str(caught.value)


def test_the_recipe_on_cifar10_is_that_of_the_official_code():
    run = config.Experiments().run("cifar10/meanflow/default/seed0")
    assert run.objective == MeanFlow()
    assert config.Experiments().run("cifar10/meanflow/times~capped/seed0").objective == MeanFlow(times=Capped())
    training, network = run.training, run.network
    assert (training.batch, training.lr, training.optimiser, training.warmup) == (1024, 6e-4, "adam", 9766)
    assert (training.augment, training.augment_probability, training.flip) == (
        ("scale", "aniso", "translate"),
        0.12,
        True,
    )
    assert training.flip and network.augment_dim == training.augment_labels == 6


@pytest.mark.parametrize("dataset", ["cifar10", "cifar10_reduced", "digits", "imagenet64"])
def test_every_experiment_of_meanflow_can_be_sampled(dataset):
    run = config.Experiments().run(f"{dataset}/meanflow/default/seed0")
    assert config.sampler_of(run).evaluations == 1
    config.check_sampler(parse_sampler("flowmap,steps~2"), run.network.two_times, run.name)


def test_steps_along_the_flow_need_a_model_of_two_times(place):
    model = cm.load(place / "models/digits/edm/default/seed0/100.safetensors")
    message = "the sampler 'flowmap' needs a model of two times"
    with pytest.raises(UserError, match=f"holds digits/edm/default/seed0: {message}") as caught:
        model.sample("flowmap,steps~2", count=1)
    assert "\n" not in str(caught.value)
    entries = [{"method": "edm", "sampler": "flowmap,steps~2"}]
    artefact = {"kind": "comparison", "caption": "A.", "entries": entries}
    (place / "suites").mkdir(exist_ok=True)
    (place / "suites/flowmap.yaml").write_text(
        yaml.safe_dump({"dataset": "digits", "seeds": [0], "artefacts": {"a": artefact}})
    )
    with pytest.raises(UserError, match=f"artefact a, digits/edm/default/seed0: {message}"):
        config.load_suite(place / "suites/flowmap.yaml")


def test_a_trained_model_samples_in_one_and_more_steps(place, tmp_path):
    train(plan_of(place, "digits/meanflow/default/seed0", tmp_path))
    model = cm.load(tmp_path / "100.safetensors")
    assert model.description["preconditioning"] == "meanflow"
    images = [model.sample(name, count=4) for name in ("onestep", "flowmap,steps~2", "multistep,times~1.0")]
    assert all(found.shape == (4, 8, 8, 1) for found in images)
    assert not np.array_equal(images[0], images[1]) and not np.array_equal(images[1], images[2])


def test_a_model_file_whose_network_does_not_fit_is_refused(place, tmp_path):
    train(plan_of(place, "digits/meanflow/default/seed0", tmp_path))
    tensors, description = native.load(tmp_path / "100.safetensors")
    native.save(tmp_path / "other.safetensors", tensors, description | {"preconditioning": "edm"})
    with pytest.raises(UserError, match="has one time, but its network is conditioned on two"):
        cm.load(tmp_path / "other.safetensors")


def test_the_sampler_has_two_steps_or_more():
    assert parse_sampler("flowmap,steps~2").evaluations == 2
    with pytest.raises(UserError, match="steps must be at least 2"):
        parse_sampler("flowmap,steps~1")
