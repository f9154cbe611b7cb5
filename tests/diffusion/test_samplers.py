"""Samplers against the reference implementations' outputs on stored noise."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from goldens import GOLDEN, assert_golden, load
from nets import Tiny

from cm import registry
from cm.config import parse_sampler, write_sampler
from cm.diffusion.noise import KarrasNoise
from cm.diffusion.samplers import ODE, Ancestral, Multistep, OneStep, Stochastic
from cm.diffusion.solvers import dpmpp2m, euler, heun, midpoint
from cm.errors import UserError

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


SAMPLERS = {  # as the golden files call them; the official code's `dpm` goes through the cube roots of the times
    "heun": ODE(10, heun),
    "heun_churn": Stochastic(10, 3.0, 0.05, 50.0, 1.003),
    "heun_churn_max": Stochastic(6, 40.0, 0.0, 1e9, 1.0),
    "euler": ODE(10, euler),
    "dpm": ODE(10, midpoint),
    "dpm_churn": Stochastic(10, 2.0, 0.0, 1e9, 1.0, midpoint),
    "ancestral": Ancestral(10),
    "onestep": OneStep(),
    "progdist": ODE(4, euler, denoise_last=False),
    "multistep": multistep(10, [0, 4, 9]),
    "multistep_long": multistep(40, [0, 10, 22, 31, 39]),
}
CONSISTENCY = ("onestep", "multistep", "multistep_long")


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


@pytest.mark.parametrize("name", SAMPLERS)
def test_times_at_which_the_pytorch_code_evaluates_its_network(name):
    """Also the number of evaluations and of draws."""
    data, times = load("samplers_gauss.npz"), []

    def denoise(x, t):
        times.append(t[0].item())
        return gauss(x, t)

    draws = list(torch.from_numpy(data["noise"]).double())
    SAMPLERS[name](denoise, torch.from_numpy(data["x_T_unit"]).double(), NOISE, lambda: draws.pop())
    np.testing.assert_allclose(times, data[f"{name}_evalsigma_f64"], rtol=1e-6)
    about = configuration("samplers_gauss.npz")["runs"][name]
    assert (SAMPLERS[name].evaluations, len(times)) == (about["nfe"],) * 2
    if isinstance(SAMPLERS[name], (Stochastic, Ancestral)):
        assert len(data["noise"]) - len(draws) == about["noise_draws"]


@pytest.mark.parametrize("bits", ["f32", "f64"])
@pytest.mark.parametrize(
    ("name", "clip"),
    [*((name, True) for name in SAMPLERS)]
    + [(name, False) for name in ("heun", "heun_churn", "heun_churn_max", "multistep", "multistep_long")],
)
def test_whole_sampling_of_the_pytorch_code(name, clip, bits):
    data, dtype = load("karras_sample_tiny.npz"), {"f32": torch.float32, "f64": torch.float64}[bits]
    scalings = "boundary" if name in CONSISTENCY else "edm"
    net = Tiny(data["W"], data["b"], scalings, "cm", dtype)

    def denoise(x, t):
        return net(x, t).clamp(-1, 1) if clip else net(x, t)

    noises = torch.from_numpy(data["noise"]).to(dtype)
    got = run(SAMPLERS[name], denoise, noises[0], noises[1:]).clip(-1, 1)
    assert_golden("karras_sample_tiny.npz", f"{name}{'' if clip else '_noclip'}_{bits}", got)


@pytest.mark.parametrize("bits", ["f32", "f64"])
@pytest.mark.parametrize(
    ("name", "sampler", "scalings"),
    [
        ("heun_n10", ODE(10, heun), "edm"),
        ("heun_n10_nodenoise", ODE(9, heun, denoise_last=False), "edm"),
        ("euler_n12", ODE(12, euler), "edm"),
        ("onestep", OneStep(), "boundary"),
        ("progdist", ODE(4, euler, denoise_last=False), "edm"),
        ("progdist_denoise", ODE(5, euler), "edm"),
    ],
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
    assert_golden("edm_sampler.npz", stored, run(ODE(steps, heun), denoise, z))


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


NAMED = {  # a name and its evaluations; `registry` has no sampler that is not here
    "onestep": 1,
    "multistep,times~5.0+0.5+0.1": 4,
    "ode,solver~euler,steps~18": 18,
    "ode,solver~heun,steps~18": 35,
    "ode,solver~dpm2,steps~18": 35,
    "ode,solver~dpmpp2m,steps~18": 18,
    "ode,solver~midpoint,steps~18": 36,
    "ode,denoise_last~false,solver~euler,steps~1": 1,
    "ode,denoise_last~false,solver~heun,steps~4": 8,
    "ode,denoise_last~false,solver~dpmpp2m,steps~4": 4,
    "stochastic,churn~9.0,high~50.0,inflation~1.0,low~0.1,steps~5": 9,
    "stochastic,churn~9.0,high~50.0,inflation~1.0,low~0.1,solver~midpoint,steps~5": 10,
    "ancestral,steps~5": 5,
    "flowmap,steps~3": 3,
}
SEARCHED = "search,points~18,steps~3"  # it cannot sample before `cm search` has found its time points


@pytest.mark.parametrize("name", NAMED)
def test_evaluations_counts_the_calls_of_the_network(name):
    calls, sampler = [], parse_sampler(name)

    def denoise(x, t, s=None):
        calls.append(t)
        return gauss(x, t)

    z = torch.zeros(2, 1, 4, 4)
    assert sampler(denoise, z, NOISE, lambda: z).shape == z.shape
    assert len(calls) == sampler.evaluations == NAMED[name]


def test_every_sampler_and_solver_samples_here():
    assert {name.split(",")[0] for name in (*NAMED, SEARCHED)} == set(registry.names("sampler"))
    solvers = {part for name in NAMED for part in name.split(",") if part.startswith("solver~")}
    assert solvers == {f"solver~{name}" for name in registry.names("solver")}


def test_the_points_of_a_search_must_be_found_before_it_samples():
    sampler, z = parse_sampler(SEARCHED), torch.zeros(1, 1, 4, 4)
    assert sampler.evaluations == 3
    with pytest.raises(UserError, match="the time points of the sampler 'search' are not known yet"):
        sampler(gauss, z, NOISE, lambda: z)


@pytest.mark.parametrize("name", [*NAMED, SEARCHED])
def test_the_name_of_a_sampler_is_written_as_it_is_read(name):
    assert write_sampler(parse_sampler(name)) == name


@pytest.mark.parametrize("times", ["0.5+0.5", "0.5+2.0", "0.0", "2.0+0.5+0.7"])
def test_times_that_do_not_decrease_are_refused(times):
    with pytest.raises(UserError, match="times must be positive and decrease"):
        parse_sampler(f"multistep,times~{times}")


@pytest.mark.parametrize("name", registry.names("solver"))
def test_the_order_along_the_noise_grid(name):
    """From the largest to the smallest time of the grid that sampling takes, against the closed form."""
    solver, counts = registry.get("solver", name), np.array([256, 512, 1024])
    z = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    exact = 80.0 * ((0.002**2 + 0.25) / (80.0**2 + 0.25)) ** 0.5
    errors = [abs(run(ODE(n, solver, denoise_last=False), gauss, z).item() - exact) for n in counts]
    assert -np.polyfit(np.log(counts), np.log(errors), 1)[0] == pytest.approx(solver.order, abs=0.2)


@pytest.mark.parametrize("name", ["heun", "dpm2", "midpoint", "euler"])
def test_the_stochastic_sampler_without_churn_is_the_ode(name):
    solver, z = registry.get("solver", name), torch.randn(2, 1, 4, 4, dtype=torch.float64)
    stochastic = Stochastic(7, 0.0, 0.0, 1e6, 1.0, solver)
    got = run(stochastic, gauss, z, torch.full((9, 2, 1, 4, 4), 3.0))
    np.testing.assert_allclose(got, run(ODE(7, solver), gauss, z), rtol=1e-12)
    assert stochastic.evaluations == ODE(7, solver).evaluations


@pytest.mark.parametrize("name", registry.names("solver"))
def test_sampling_with_any_solver_approaches_the_exact_solution(name):
    """x(eps) = x(T) sqrt((eps^2 + 1/4) / (T^2 + 1/4)) for data N(0, 1/4)."""
    solver = registry.get("solver", name)
    z = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    exact = 80.0 * ((0.002**2 + 0.25) / (80.0**2 + 0.25)) ** 0.5
    errors = [abs(run(ODE(n, solver, denoise_last=False), gauss, z).item() - exact) for n in (100, 200)]
    assert errors[0] < (0.02 if solver.order == 1 else 0.002)
    assert errors[1] < errors[0] * 0.6**solver.order


def test_an_added_noise_refuses_a_solver_with_a_history():
    with pytest.raises(UserError, match="the solver makes use of earlier steps"):
        Stochastic(5, 9.0, 0.1, 50.0, 1.0, dpmpp2m).check("here")


def test_the_grid_is_exact_at_its_ends():
    for steps in (2, 18, 151):
        grid = NOISE.times(steps)
        assert grid[0] == 80.0
        assert grid[-1] == 0.002
        assert (np.diff(grid) < 0).all()
