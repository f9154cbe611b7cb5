"""sCM and TrigFlow: golden vectors, the relation to EDM, closed forms for Gaussian data, options, bad input."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from goldens import assert_golden, load, recipe_weights
from nets import FAMILIES, denoiser
from torch.nn.attention import SDPBackend, sdpa_kernel

from cm import config, registry
from cm.diffusion import trigflow
from cm.diffusion.forward import jvp
from cm.diffusion.log_weight import LogWeight
from cm.diffusion.noise import KarrasNoise
from cm.diffusion.samplers import Multistep, OneStep
from cm.errors import UserError
from cm.methods.base import Batch, Networks, NonFinite
from cm.methods.edm import ScoreMatching
from cm.methods.scm import ContinuousTrigFlowDistillation, ContinuousTrigFlowTraining
from cm.networks.ddpmpp import DDPMpp

NOISE, SD = KarrasNoise(), 0.5
TYPES = {"f32": torch.float32, "f64": torch.float64}
METHODS = {"sct": ContinuousTrigFlowTraining, "scd": ContinuousTrigFlowDistillation}
FASTGEN = {"tangent_norm": "rms", "weighting": "inverse-interval", "extra_mean": True}


def batch_of(x: torch.Tensor, step: int = 0) -> Batch:
    return Batch(x, None, NOISE, step, 20_000, np.arange(len(x)))


def per_image(t: torch.Tensor) -> torch.Tensor:
    return t.reshape(-1, 1, 1, 1)


class Small(torch.nn.Module):
    """The network of the golden files, tanh(conv(x)) (1 + 0.2 sin 3c), with a preconditioning."""

    def __init__(self, weight: np.ndarray, bias: np.ndarray, preconditioning: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.from_numpy(weight).to(dtype))
        self.bias = torch.nn.Parameter(torch.from_numpy(bias).to(dtype))
        self.coefficients = registry.get("preconditioning", preconditioning)

    def forward(self, x, t, labels=None):
        skip, out, scale, c = map(per_image, self.coefficients(t, sigma_data=SD, sigma_min=0.002))
        inner = torch.tanh(torch.nn.functional.conv2d(scale * x, self.weight, self.bias, padding=1))
        return skip * x + out * inner * (1 + 0.2 * torch.sin(3 * c))


class StoredWeight(torch.nn.Module):
    """w(t) = -(h0 + h1 c), with c = t or, for the EDM network, ln(sigma) / 4."""

    def __init__(self, h: np.ndarray, network: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.h, self.network = torch.nn.Parameter(torch.from_numpy(h).to(dtype)), network

    def forward(self, t):
        c = t if self.network == "trig" else (SD * t.tan()).log() / 4
        return -(self.h[0] + self.h[1] * c)


LOSSES = [
    *(("scm_loss_trig.npz", "trig", method, "paper", step) for method in METHODS for step in (0, 2500, 10000)),
    *(("scm_loss_fastgen.npz", network, method, "fastgen", 2500) for network in ("trig", "edm") for method in METHODS),
]


@pytest.mark.parametrize("bits", TYPES)
@pytest.mark.parametrize(("file", "network", "method", "setting", "step"), LOSSES)
def test_losses_tangents_and_gradients_of_the_reference(file, network, method, setting, step, bits):
    data, dtype = load(file), TYPES[bits]
    parametrization = "trigflow" if network == "trig" else "edm"
    settings = {"name": method, "parametrization": parametrization} | (FASTGEN if setting == "fastgen" else {})
    objective = config.make_component("method", settings, "")
    form = objective.preconditioning
    nets = Networks(
        student=Small(data["W"], data["b"], form, dtype),
        teacher=Small(data["Wt"], data["bt"], form, dtype),
        own=StoredWeight(data["h"], network, dtype),
    )
    x, n, sigma = (torch.from_numpy(data[name]).to(dtype) for name in ("images", "n", "sigma"))
    t, batch = trigflow.time_of(sigma, SD), batch_of(x, step)
    x_t, estimate = trigflow.interpolate(x, SD * n, t)
    with torch.no_grad():
        dx_dt = objective.velocity(nets, batch, x_t, t, estimate)
        g = objective.normalize(objective.tangent(nets, batch, x_t, t, dx_dt), t)
    loss = objective.loss_at(nets, batch, z=SD * n, t=t)
    loss.mean().backward()
    which = f"{network}_{method}_{setting}_it{step}_{bits}"
    assert_golden(file, f"t_{bits}", t)
    assert_golden(file, f"x_t_{bits}", x_t)
    assert_golden(file, f"dx_{network}_{method}_{bits}", dx_dt)
    assert_golden(file, f"F_{network}_{bits}", nets.student(x_t, t))
    assert_golden(file, f"g_{which}", g)
    assert_golden(file, f"loss_{which}", loss)
    assert_golden(file, f"gradW_{which}", nets.student.weight.grad)
    assert_golden(file, f"gradb_{which}", nets.student.bias.grad)
    assert_golden(file, f"gradh_{which}", nets.own.h.grad)
    assert nets.teacher.weight.grad is None


@pytest.mark.parametrize("bits", TYPES)
def test_trigflow_and_edm_are_the_same_model(bits):
    """Times, states, velocities and denoised images; the reference's F cancels at small t, ours does not."""
    file, dtype = "scm_trigflow.npz", TYPES[bits]
    data = load(file)
    x, n, sigma = (torch.from_numpy(data[name]).to(dtype) for name in ("x0", "n", "sigma"))
    t = trigflow.time_of(sigma, SD)
    x_t, velocity = trigflow.interpolate(x, SD * n, t)
    output = Small(data["W"], data["b"], "velocity-edm", dtype)(x_t, t)
    clean = Small(data["W"], data["b"], "edm", dtype)(x_t / per_image(t.cos()), trigflow.noise_level(t, SD))
    assert_golden(file, f"t_{bits}", t)
    assert_golden(file, f"x_trig_{bits}", x_t)
    assert_golden(file, f"x_edm_{bits}", x_t / per_image(t.cos()))
    assert_golden(file, f"sigma_back_{bits}", trigflow.noise_level(t, SD))
    assert_golden(file, f"F_{bits}", output)
    assert_golden(file, f"velocity_{bits}", velocity)
    assert_golden(file, f"f_{bits}", clean)
    assert_golden(file, f"f_from_F_{bits}", trigflow.clean_images(x_t, t, SD * output))


@pytest.mark.parametrize("bits", TYPES)
def test_the_times_of_the_paper(bits):
    data = load("scm_trigflow.npz")
    draws = torch.from_numpy(data["n_proposal"])

    class Draws:
        def normal_scalar(self):
            return draws.to(TYPES[bits])

    sigma = ContinuousTrigFlowTraining().times.continuous(Draws(), NOISE)
    assert_golden("scm_trigflow.npz", f"t_lognormal_{bits}", trigflow.time_of(sigma, SD))


def test_the_times_that_are_truncated():
    class Draws:
        def uniform(self):
            return torch.from_numpy(load("scm_trigflow.npz")["u_proposal"])

    sigma = registry.get("times", "lognormal-truncated")(p_mean=-1.0, p_std=1.4).continuous(Draws(), NOISE)
    assert_golden("scm_trigflow.npz", "sigma_truncated", sigma)
    assert_golden("scm_trigflow.npz", "t_truncated", trigflow.time_of(sigma, SD))


@pytest.mark.parametrize(
    ("model", "form"), [("scm", "velocity"), ("trigflow", "velocity"), ("scm-edm", "velocity-edm")]
)
def test_a_model_is_sampled_as_it_was_trained(model, form):
    """f(x_edm, sigma) of the model file is cos(t) x_t - sin(t) sd F(x_t, t) of the network in training."""
    weight, bias = np.random.default_rng(0).standard_normal((3, 3, 3, 3)), np.zeros(3)
    sigma = torch.tensor([0.002, 0.3, 5.0, 80.0], dtype=torch.float64)
    t = trigflow.time_of(sigma, SD)
    x_t = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    want = trigflow.clean_images(x_t, t, SD * Small(weight, bias, form, torch.float64)(x_t, t))
    got = Small(weight, bias, model, torch.float64)(x_t / per_image(t.cos()), sigma)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("bits", TYPES)
@pytest.mark.parametrize(
    ("name", "model", "sampler"),
    [
        ("edm_onestep", "scm-edm", OneStep()),
        ("edm_twostep", "scm-edm", Multistep((0.821,))),
        ("trig_onestep", "scm", OneStep()),
        ("trig_twostep", "scm", Multistep((SD * float(np.tan(1.1)),))),
    ],
)
def test_the_samplers_of_trigflow_are_those_of_the_noise_level(name, model, sampler, bits):
    """Both add noise of the whole level, ours but for that of eps; TrigFlow starts from sd n, ours from sin(t) sd n."""
    data, dtype = load("scm_sampler.npz"), TYPES[bits]
    noise = dataclasses.replace(NOISE, sigma_min=1e-12)
    draws = iter(torch.from_numpy(data["noise"]).to(dtype))
    start = next(draws) / (1.0 if model == "scm-edm" else np.sin(np.arctan(80 / SD)))
    network = Small(data["W"], data["b"], model, torch.float64)
    with torch.no_grad():
        got = sampler(lambda x, t: network(x.double(), t.double()).to(dtype), start, noise, lambda: next(draws))
    assert_golden("scm_sampler.npz", f"{name}_{bits}", got)


@pytest.mark.parametrize("bits", TYPES)
@pytest.mark.parametrize(("name", "along_x", "along_c"), [("dx", 1, 0), ("dc", 0, 1), ("dxc", 1, 1)])
def test_forward_derivatives_of_a_network_with_attention(name, along_x, along_c, bits):
    data, dtype = load("scm_jvp_networks.npz"), TYPES[bits]
    net = DDPMpp(resolution=16, channels=32, multipliers=(1, 2), blocks=1, attention=(8,), dropout=0.2)
    network = recipe_weights(net.build()).to(dtype).eval()
    x, c, v_x, v_c = (
        torch.from_numpy(data[f"ddpmpp_{part}"]).to(dtype) for part in ("x", "noise_labels", "v_x", "v_c")
    )
    with torch.no_grad():
        value, derivative = jvp(network, (x, c), (along_x * v_x, along_c * v_c))
    assert_golden("scm_jvp_networks.npz", f"ddpmpp_out_{bits}", value)
    assert_golden("scm_jvp_networks.npz", f"{name}_ddpmpp_{bits}", derivative)


def gaussian_batch(count: int, seed: int, deviation: float, step: int = 20_000) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    x = deviation * torch.randn(count, 1, 16, 16, dtype=torch.float64, generator=generator)
    return Batch(x, None, NOISE, step, 20_000, seed * count + np.arange(count))


def gaussian_velocity(deviation: float, error: float = 0.0):
    """F of the consistency function cos(t) x - sin(t) sd F = s x / sqrt(s^2 cos^2 + sd^2 sin^2) of data N(0, s^2).

    `error`: of the factor of x, proportional to t, without which that function is constant along each trajectory.
    """

    def network(x, t, labels=None):
        factor = deviation / (deviation**2 * t.cos() ** 2 + SD**2 * t.sin() ** 2).sqrt()
        return x * per_image((t.cos() - (1 + error * t) * factor) / (SD * t.sin())).to(x.dtype)

    return network


def gaussian_teacher(deviation: float):
    """dx/dt / sd = x cos sin (sd^2 - s^2) / (sd v) with v = s^2 cos^2 + sd^2 sin^2: the mean of cos z - sin x."""

    def network(x, t, labels=None):
        cos, sin = t.cos(), t.sin()
        variance = deviation**2 * cos**2 + SD**2 * sin**2
        return x * per_image(cos * sin * (SD**2 - deviation**2) / (SD * variance)).to(x.dtype)

    return network


@pytest.mark.parametrize("deviation", [0.2, 0.5, 1.3])
def test_the_tangent_of_the_analytic_consistency_function_is_zero(deviation):
    objective, batch = ContinuousTrigFlowDistillation(), gaussian_batch(6, 0, deviation)
    t = torch.tensor([0.01, 0.2, 0.7, 1.1, 1.4, 1.56], dtype=torch.float64)
    z = SD * gaussian_batch(6, 1, 1.0).x
    x_t, _ = trigflow.interpolate(batch.x, z, t)
    nets = Networks(gaussian_velocity(deviation), teacher=gaussian_teacher(deviation))
    dx_dt = objective.velocity(nets, batch, x_t, t, x_t)
    assert objective.tangent(nets, batch, x_t, t, dx_dt).abs().max() < 1e-8
    other = dataclasses.replace(nets, student=gaussian_velocity(deviation, 0.2))
    assert (objective.tangent(other, batch, x_t, t, dx_dt).flatten(1).abs().amax(1) > 1e-3).all()


def test_the_tangent_is_that_of_differences():
    """cos(t) df/dt along the trajectory, with df/dt from differences of f (Lu & Song 2024, Eq. 6)."""
    objective, batch, h = ContinuousTrigFlowTraining(), gaussian_batch(4, 2, 0.7), 1e-6
    network = Small(np.random.default_rng(1).standard_normal((1, 1, 3, 3)), np.ones(1), "velocity", torch.float64)
    t, z = torch.tensor([0.05, 0.5, 1.0, 1.5], dtype=torch.float64), SD * gaussian_batch(4, 3, 1.0).x

    def f(x_t, time):
        return trigflow.clean_images(x_t, time, SD * network(x_t, time))

    x_t, velocity = trigflow.interpolate(batch.x, z, t)
    with torch.no_grad():
        difference = (f(x_t + h * velocity, t + h) - f(x_t - h * velocity, t - h)) / (2 * h)
        got = objective.tangent(Networks(network), batch, x_t, t, velocity)
    torch.testing.assert_close(got, per_image(t.cos()) * difference, rtol=1e-6, atol=1e-7)


class Power(torch.nn.Module):
    """f = x (cos^2 + (sd / s)^2 sin^2)^-gamma, which is the consistency function of data N(0, s^2) at gamma = 1/2."""

    def __init__(self, gamma: float, deviation: float) -> None:
        super().__init__()
        self.gamma, self.ratio = torch.nn.Parameter(torch.tensor(gamma, dtype=torch.float64)), SD / deviation

    def forward(self, x, t, labels=None):
        factor = (t.cos() ** 2 + self.ratio**2 * t.sin() ** 2).pow(-self.gamma)
        return x * per_image((t.cos() - factor) / (SD * t.sin()))


@pytest.mark.parametrize("gamma", [0.3, 0.7])
@pytest.mark.parametrize("method", METHODS)
def test_training_on_gaussian_data_finds_the_analytic_consistency_function(method, gamma):
    deviation, objective = 1.2, METHODS[method](tangent_warmup=50)
    student, own = Power(gamma, deviation), objective.build_own()
    optimiser = torch.optim.Adam([*student.parameters(), *own.parameters()], lr=0.02)
    for k in range(150):
        optimiser.param_groups[0]["lr"] = 0.02 * (1 - k / 150)
        nets = Networks(student, teacher=gaussian_teacher(deviation), own=own)
        optimiser.zero_grad()
        objective.loss(nets, gaussian_batch(16, k, deviation, step=k)).mean().backward()
        optimiser.step()
    assert student.gamma.item() == pytest.approx(0.5, abs=0.01)


def test_the_learned_weight_brings_every_time_to_a_mean_of_one():
    """For losses L(t) = t^2, w(t) = -2 ln t."""
    torch.manual_seed(0)
    own, levels = LogWeight(), torch.linspace(-3, 3, 64).exp()
    t = trigflow.time_of(levels, SD)
    assert torch.equal(own(t), torch.zeros(64))
    optimiser = torch.optim.Adam(own.parameters(), lr=0.05)
    for _ in range(300):
        optimiser.zero_grad()
        (own(t).exp() * t**2 - own(t)).mean().backward()
        optimiser.step()
    torch.testing.assert_close(own(t), -2 * t.log(), rtol=0, atol=0.1)


def test_warm_up_of_the_tangent():
    objective = ContinuousTrigFlowTraining(tangent_warmup=200)
    assert [objective.warmup_at(step) for step in (0, 50, 200, 999)] == [0.0, 0.25, 1.0, 1.0]
    assert ContinuousTrigFlowTraining(tangent_warmup=0).warmup_at(0) == 1.0


def test_a_diffusion_model_in_trigflow_has_the_velocity_loss():
    """The loss of `edm` with the weighting 1 / c_out^2 is mean (F - (cos z - sin x) / sd)^2."""
    weight, bias = np.random.default_rng(0).standard_normal((1, 1, 3, 3)), np.ones(1)
    objective, batch = ScoreMatching(parametrization="trigflow"), gaussian_batch(4, 0, 0.5)
    n, sigma = gaussian_batch(4, 1, 1.0).x, torch.tensor([0.01, 0.4, 3.0, 70.0], dtype=torch.float64)
    nets = Networks(Small(weight, bias, objective.preconditioning, torch.float64))
    t = trigflow.time_of(sigma, SD)
    x_t, velocity = trigflow.interpolate(batch.x, SD * n, t)
    error = Small(weight, bias, "velocity", torch.float64)(x_t, t) - velocity / SD
    got = objective.denoising_loss(nets, batch, z=n, t=sigma)
    torch.testing.assert_close(got, error.square().mean((1, 2, 3)), rtol=1e-9, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_derivative_and_the_gradient_see_the_same_dropout(family):
    """The value of the evaluation that is differentiated forward is that of the evaluation with gradients."""
    torch.manual_seed(0)
    network = denoiser(dataclasses.replace(FAMILIES[family], dropout=0.4).build(), "velocity").train()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    outputs = []

    def student(x, t, labels):
        output = network(x, t, labels, torch.arange(4))
        outputs.append(output.detach())
        return output

    batch = gaussian_batch(4, 0, 0.5)
    batch = dataclasses.replace(batch, x=batch.x.float()[..., :8, :8])
    objective = ContinuousTrigFlowTraining()
    objective.loss(Networks(student, own=objective.build_own()), batch).sum().backward()
    inside, outside = outputs
    torch.testing.assert_close(torch._C._functorch.get_unwrapped(inside), outside, rtol=1e-4, atol=1e-4)


def test_a_tangent_that_is_not_finite_is_named():
    objective, batch = ContinuousTrigFlowTraining(), gaussian_batch(3, 0, 0.5)
    t = torch.tensor([0.5, 1.25, 1.0], dtype=torch.float64)

    def student(x, time, labels):
        return x * per_image(torch.where(time == 1.25, torch.nan, 1.0))

    with pytest.raises(NonFinite, match=r"^the tangent of 1 of 3 images is not finite \(t = 1\.25\)$"):
        objective.loss_at(Networks(student, own=objective.build_own()), batch, z=batch.x, t=t)


def fused_attention(x):
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return torch.nn.functional.scaled_dot_product_attention(x, x, x)


class Doubled(torch.autograd.Function):
    """An operation of a library, with a rule for the backward pass only."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


@pytest.mark.parametrize("operation", [fused_attention, Doubled.apply])
def test_a_network_without_a_forward_derivative_is_refused_in_one_line(operation):
    x = torch.ones(1, 1, 8, 8)
    with pytest.raises(UserError, match=r"^the network has no derivative in forward mode, .*: .+") as caught:
        jvp(operation, (x,), (x,))
    assert "\n" not in str(caught.value)
    with pytest.raises(RuntimeError, match="shape"):
        jvp(lambda x: x.reshape(7), (x,), (x,))
