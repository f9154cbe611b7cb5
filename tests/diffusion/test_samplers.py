"""Samplers against the reference implementations' outputs on stored noise."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from goldens import GOLDEN, assert_golden, load
from nets import Tiny

from cm.diffusion.noise import KarrasNoise
from cm.diffusion.samplers import Heun, Multistep, OneStep, Progressive, Stochastic

NOISE = KarrasNoise()


def configuration(file: str) -> dict:
    """The configuration that made a golden file."""
    entries = json.loads((GOLDEN / "manifest.json").read_text())["files"]
    return next(entry["config"] for entry in entries if entry["file"] == file)


def multistep(steps: int, indices: list[int]) -> Multistep:
    """The sampler for the official code's `ts`: indices that end at steps - 1, whose first is the start."""
    grid = NOISE.times(steps)
    return Multistep([float(grid[i]) for i in indices[1:-1]])


def run(sampler, denoise, z, noises=()):
    """Sample with the stored draws."""
    draws = iter(noises)
    return sampler(denoise, z, NOISE, lambda: next(draws)).detach().numpy()


def gauss(x, t):
    return x * (0.25 / (t.to(x.dtype) ** 2 + 0.25)).reshape(-1, 1, 1, 1)


def mixture(x, t):
    """Posterior mean of an element-wise Gaussian mixture."""
    data = configuration("edm_sampler.npz")["denoisers"]["gmm"]
    weights, means, deviations = (json.loads(data[data.index("{") :].replace("'", '"'))[key] for key in "wms")
    variance = t.to(x.dtype).reshape(-1, 1, 1, 1) ** 2
    total = torch.stack([torch.tensor(d, dtype=x.dtype) ** 2 + variance for d in deviations])
    means = torch.tensor(means, dtype=x.dtype).reshape(3, 1, 1, 1, 1)
    log = torch.log(torch.tensor(weights, dtype=x.dtype)).reshape(3, 1, 1, 1, 1) - total.log() / 2
    posterior = torch.softmax(log - (x - means) ** 2 / (2 * total), 0)
    variances = (torch.tensor(deviations, dtype=x.dtype) ** 2).reshape(3, 1, 1, 1, 1)
    return (posterior * (variances * x + variance * means) / total).sum(0)


SAMPLERS = {
    "heun": Heun(10),
    "onestep": OneStep(),
    "progdist": Progressive(4),
    "multistep": multistep(10, [0, 4, 9]),
    "multistep_long": multistep(40, [0, 10, 22, 31, 39]),
}


@pytest.mark.parametrize("bits", ["f32", "f64"])
@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize(("file", "denoise"), [("samplers_gauss.npz", gauss), ("samplers_gmm.npz", mixture)])
def test_samplers_of_the_pytorch_code(file, denoise, name, bits):
    data, dtype = load(file), {"f32": torch.float32, "f64": torch.float64}[bits]
    z, noises = torch.from_numpy(data["x_T_unit"]).to(dtype), torch.from_numpy(data["noise"]).to(dtype)
    got = run(SAMPLERS[name], denoise, z, noises)
    if (name, bits) == ("multistep", "f64"):  # the reference ends with sqrt(t^2 - tmin^2) z = 1e-10 z, by quantization
        np.testing.assert_allclose(got, data["multistep_f64"], atol=1e-9)
    else:
        assert_golden(file, f"{name}_{bits}", got)


@pytest.mark.parametrize("bits", ["f32", "f64"])
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("name", ["heun", "multistep", "multistep_long"])
def test_whole_sampling_of_the_pytorch_code(name, clip, bits):
    data, dtype = load("karras_sample_tiny.npz"), {"f32": torch.float32, "f64": torch.float64}[bits]
    scalings = "edm" if name == "heun" else "boundary"
    net = Tiny(data["W"], data["b"], scalings, "cm", dtype)

    def denoise(x, t):
        return net(x, t).clamp(-1, 1) if clip else net(x, t)

    noises = torch.from_numpy(data["noise"]).to(dtype)
    got = run(SAMPLERS[name], denoise, noises[0], noises[1:]).clip(-1, 1)
    assert_golden("karras_sample_tiny.npz", f"{name}{'' if clip else '_noclip'}_{bits}", got)


@pytest.mark.parametrize("bits", ["f32", "f64"])
@pytest.mark.parametrize(
    ("name", "sampler", "scalings"),
    [("heun_n10", Heun(10), "edm"), ("onestep", OneStep(), "boundary"), ("progdist", Progressive(4), "edm")],
)
def test_samplers_of_the_cifar10_code(name, sampler, scalings, bits):
    data, dtype = load("jcm_samplers.npz"), {"f32": torch.float32, "f64": torch.float64}[bits]
    net = Tiny(data["W"], data["b"], scalings, "jcm", dtype)
    z = torch.from_numpy(data["noise"]).to(dtype).permute(0, 3, 1, 2)
    assert_golden("jcm_samplers.npz", f"{name}_{bits}", run(sampler, net, z).transpose(0, 2, 3, 1))


@pytest.mark.parametrize("denoise", [gauss, mixture])
@pytest.mark.parametrize(("name", "steps"), [("det18", 18), ("det5", 5)])
def test_the_sampler_of_edm(denoise, name, steps):
    z = torch.from_numpy(load("edm_sampler.npz")["latents"]).double()
    stored = f"{'gauss' if denoise is gauss else 'gmm'}_{name}"
    assert_golden("edm_sampler.npz", stored, run(Heun(steps), denoise, z))


@pytest.mark.parametrize("denoise", [gauss, mixture])
@pytest.mark.parametrize(
    ("name", "sampler"),
    [("churn", Stochastic(12, 4.0, 0.05, 50.0, 1.003)), ("churn_max", Stochastic(8, 40.0, 0.0, 1e9, 1.0))],
)
def test_the_stochastic_sampler_of_edm(denoise, name, sampler):
    data = load("edm_sampler.npz")
    stored = f"{'gauss' if denoise is gauss else 'gmm'}_{name}"
    z, noises = torch.from_numpy(data["latents"]).double(), torch.from_numpy(data["noise"]).double()
    assert_golden("edm_sampler.npz", stored, run(sampler, denoise, z, noises))


@pytest.mark.parametrize(
    "sampler", [*SAMPLERS.values(), Multistep([5.0, 0.5, 0.1]), Stochastic(5, 9.0, 0.1, 50.0, 1.0)], ids=str
)
def test_evaluations_counts_the_calls_of_the_network(sampler):
    calls = []

    def denoise(x, t):
        calls.append(t)
        return gauss(x, t)

    z = torch.zeros(2, 1, 4, 4)
    assert sampler(denoise, z, NOISE, lambda: z).shape == z.shape
    assert len(calls) == sampler.evaluations


def test_the_grid_is_exact_at_its_ends():
    for steps in (2, 18, 151):
        grid = NOISE.times(steps)
        assert grid[0] == 80.0
        assert grid[-1] == 0.002
        assert (np.diff(grid) < 0).all()
