"""The losses, weightings and their gradients against the official code's, on stored inputs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from goldens import assert_golden, load
from nets import Tiny

from cm import registry
from cm.diffusion.noise import KarrasNoise
from cm.diffusion.perceptual import PerceptualDistance
from cm.methods.base import Batch, Networks
from cm.methods.cd import ConsistencyDistillation
from cm.methods.ct import ConsistencyTraining
from cm.methods.edm import ScoreMatching
from cm.methods.pd import ProgressiveDistillation

NOISE = KarrasNoise()
TYPES = {"f32": torch.float32, "f64": torch.float64}


def stand_in(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """What the golden files of the PyTorch code have in the place of LPIPS."""
    return ((a - b).square() * (1 + a)).mean((1, 2, 3))


def images(array: np.ndarray, family: str, dtype: torch.dtype) -> torch.Tensor:
    tensor = torch.from_numpy(array).to(dtype)
    return tensor.permute(0, 3, 1, 2) if family == "jcm" else tensor


def batch_of(x: torch.Tensor) -> Batch:
    return Batch(x, None, NOISE, 0, 1, np.zeros(len(x), np.int64))


def bound(cls: type, **names: str):
    """The objective with the components of these names."""
    components = {kind: registry.get(kind, name) for kind, name in names.items() if name != "lpips"}
    if names.get("distance") == "lpips":
        components["distance"] = PerceptualDistance(stand_in, 224)
    return cls(**components)


def pair_inputs(file: str, steps: int, family: str, dtype: torch.dtype) -> dict:
    data = load(file)
    grid = torch.from_numpy(NOISE.times(steps)).to(dtype)
    index = torch.from_numpy(data["indices"]).long()
    return {
        "batch": batch_of(images(data["x_start" if family == "cm" else "image"], family, dtype)),
        "z": images(data["noise"], family, dtype),
        "t": grid[index],
        "s": grid[index + 1],
    }


CM_PAIRS = [
    ("cd_loss_n18.npz", 18, "uniform", "heun", ["l1", "l2", "l2-32", "lpips"]),
    ("cd_loss_n40_40px.npz", 40, "karras", "heun", ["l2", "l2-32"]),
    ("ct_loss_n48.npz", 48, "uniform", "euler", ["l1", "l2", "l2-32", "lpips"]),
    ("ct_loss_n2.npz", 2, "snr", "euler", ["l1", "l2"]),
]


@pytest.mark.parametrize("bits", TYPES)
@pytest.mark.parametrize(
    ("file", "steps", "weighting", "solver", "distance"),
    [(*case[:4], distance) for case in CM_PAIRS for distance in case[4]],
)
def test_consistency_losses_of_the_pytorch_code(file, steps, weighting, solver, distance, bits):
    data, given = load(file), pair_inputs(file, steps, "cm", TYPES[bits])
    nets = Networks(
        student=Tiny(data["student_W"], data["student_b"], "boundary", "cm", TYPES[bits]),
        target=Tiny(data["target_W"], data["target_b"], "boundary", "cm", TYPES[bits]),
        teacher=Tiny(data["teacher_W"], data["teacher_b"], "edm", "cm", TYPES[bits]) if "teacher_W" in data else None,
    )
    cls = ConsistencyDistillation if nets.teacher else ConsistencyTraining
    objective = bound(cls, solver=solver, weighting=weighting, distance=distance)
    loss = objective.pair_loss(nets, **given)
    loss.mean().backward()
    name = {"l2-32": "l2_32", "lpips": "lpips_stub"}.get(distance, distance)
    assert_golden(file, f"loss_{name}_{bits}", loss.detach().numpy())
    assert_golden(file, f"gradW_{name}_{bits}", nets.student.gradient())
    assert nets.target.weight.grad is None
    assert nets.teacher is None or nets.teacher.weight.grad is None


JCM_CD = [
    ("l1", "l1", "heun", "uniform", True),
    ("l2", "l2", "heun", "uniform", True),
    ("linf", "linf", "heun", "uniform", True),
    ("l2_euler", "l2", "euler", "uniform", True),
    ("l2_snrp1", "l2", "heun", "snr+1", False),
]
JCM_CT = [
    ("l2", "l2", "euler", "uniform", False),
    ("l1", "l1", "euler", "uniform", False),
    ("l2_heun", "l2", "heun", "truncated-snr", False),
]


@pytest.mark.parametrize("bits", TYPES)
@pytest.mark.parametrize(
    ("file", "steps", "name", "distance", "solver", "weighting", "online"),
    [("jcm_cd_loss.npz", 18, *case) for case in JCM_CD] + [("jcm_ct_loss.npz", 48, *case) for case in JCM_CT],
)
def test_consistency_losses_of_the_cifar10_code(file, steps, name, distance, solver, weighting, online, bits):
    data, given = load(file), pair_inputs(file, steps, "jcm", TYPES[bits])
    student = Tiny(data["online_W"], data["online_b"], "boundary", "jcm", TYPES[bits])
    target = student if online else Tiny(data["target_W"], data["target_b"], "boundary", "jcm", TYPES[bits])
    teacher = Tiny(data["teacher_W"], data["teacher_b"], "edm", "jcm", TYPES[bits]) if "teacher_W" in data else None
    cls = ConsistencyDistillation if teacher else ConsistencyTraining
    objective = bound(cls, solver=solver, weighting=weighting, distance=distance)
    nets = Networks(student, target, teacher)
    loss = objective.pair_loss(nets, **given)
    loss.mean().backward()
    assert_golden(file, f"loss_{name}_{bits}", loss.detach().numpy())
    assert_golden(file, f"gradW_{name}_{bits}", student.gradient())


@pytest.mark.parametrize("bits", TYPES)
@pytest.mark.parametrize(
    ("file", "steps", "family", "distance", "weighting"),
    [
        ("progdist_loss_n8.npz", 8, "cm", "l1", "truncated-snr"),
        ("progdist_loss_n8.npz", 8, "cm", "l2", "truncated-snr"),
        ("progdist_loss_n8.npz", 8, "cm", "lpips", "truncated-snr"),
        ("progdist_loss_n1.npz", 1, "cm", "l2", "uniform"),
        ("jcm_progdist_loss.npz", 16, "jcm", "l2", "truncated-snr"),
        ("jcm_progdist_loss.npz", 16, "jcm", "l1", "snr+1"),
    ],
)
def test_progressive_distillation_losses(file, steps, family, distance, weighting, bits):
    data, dtype = load(file), TYPES[bits]
    x = images(data["x_start" if family == "cm" else "image"], family, dtype)
    student = Tiny(data["student_W"], data["student_b"], "edm", family, dtype)
    nets = Networks(student, None, Tiny(data["teacher_W"], data["teacher_b"], "edm", family, dtype))
    objective = dataclasses.replace(bound(ProgressiveDistillation, weighting=weighting, distance=distance), steps=steps)
    index = torch.from_numpy(data["indices"]).double()
    loss = objective.stage_loss(nets, batch_of(x), z=images(data["noise"], family, dtype), index=index)
    loss.mean().backward()
    name = "lpips_stub" if distance == "lpips" else distance
    assert_golden(file, f"loss_{name}_{bits}", loss.detach().numpy())
    assert_golden(file, f"gradW_{name}_{bits}", student.gradient())
    assert nets.teacher.weight.grad is None


@pytest.mark.parametrize("bits", TYPES)
def test_edm_loss_of_the_pytorch_code(bits):
    data, dtype = load("edm_training_loss.npz"), TYPES[bits]
    nets = Networks(Tiny(data["W"], data["b"], "edm", "cm", dtype))
    x, z, t = (torch.from_numpy(data[name]).to(dtype) for name in ("x_start", "noise", "sigmas"))
    loss = bound(ScoreMatching, weighting="karras").denoising_loss(nets, batch_of(x), z=z, t=t)
    loss.mean().backward()
    assert_golden("edm_training_loss.npz", f"loss_{bits}", loss.detach().numpy())
    assert_golden("edm_training_loss.npz", f"gradW_{bits}", nets.student.gradient())


@pytest.mark.parametrize("bits", TYPES)
def test_edm_loss_of_the_cifar10_code_is_the_sum_over_pixels(bits):
    data, dtype = load("jcm_edm_loss.npz"), TYPES[bits]
    nets = Networks(Tiny(data["W"], data["b"], "edm", "jcm", dtype))
    x, z = (images(data[name], "jcm", dtype) for name in ("image", "noise"))
    t = (-1.2 + 1.2 * torch.from_numpy(data["t_normal"]).to(dtype)).exp()
    loss = bound(ScoreMatching, weighting="karras").denoising_loss(nets, batch_of(x), z=z, t=t)
    assert_golden("jcm_edm_loss.npz", f"loss_dsm_{bits}", loss.detach().numpy() * x[0].numel())


def test_edm_loss_of_nvidia_is_the_unreduced_map():
    data = load("edm_loss.npz")
    nets = Networks(Tiny(data["W"], data["b"], "edm", "jcm_oihw", torch.float32))
    x, z = (torch.from_numpy(data[name]) for name in ("images", "noise"))
    t = (-1.2 + 1.2 * torch.from_numpy(data["rnd_normal"]).flatten()).exp()
    loss = bound(ScoreMatching, weighting="karras").denoising_loss(nets, batch_of(x), z=z, t=t)
    np.testing.assert_allclose(loss.detach(), data["loss_map"].mean((1, 2, 3)), rtol=1e-4)


@pytest.mark.parametrize("bits", TYPES)
@pytest.mark.parametrize("name", sorted(set(registry.names("weighting")) - {"inverse-interval"}))
def test_weightings_of_the_noisier_time(name, bits):
    snr = torch.from_numpy(load("weightings.npz")["snrs"]).to(TYPES[bits])
    stored = {"snr+1": "snrp1", "truncated-snr": "truncated_snr"}.get(name, name)
    for s in (torch.zeros_like(snr), snr**-0.5 / 2):
        got = registry.get("weighting", name)(snr**-0.5, s, 0.5)
        assert_golden("weightings.npz", f"{stored}_{bits}", got.numpy())


@pytest.mark.parametrize("steps", [11, 21, 81, 1281])
def test_inverse_interval_weighting(steps):
    times = torch.from_numpy(NOISE.times(steps)).flip(0)
    got = registry.get("weighting", "inverse-interval")(times[1:], times[:-1], 0.5)
    assert_golden("ict_grids.npz", f"weight_{steps}_f64", got.numpy())
