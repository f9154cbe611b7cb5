"""Networks and preconditioning against the reference implementations, and what every network must keep."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from goldens import GOLDEN, assert_golden, load, recipe_array, recipe_weights
from nets import F32, F64, TINY, denoiser, on_meta, parameters, tensor

from cm import registry
from cm.checkpoints.jcm_names import ncsnpp_state_dict
from cm.config import make_component
from cm.diffusion.precision import autocast
from cm.errors import UserError
from cm.networks.ddpmpp import DDPMpp
from cm.networks.ncsnpp import NCSNpp

SMALL = NCSNpp(channels=32, multipliers=[1, 2, 2], blocks=2)
SMALL_EDM = dataclasses.replace(SMALL, augment_dim=9, dropout=0.13)
VE = NCSNpp(augment_dim=9)
VP = NCSNpp(embedding="positional", noise_channels=1, encoder="standard", resample_filter=[1, 1], augment_dim=9)
PRESET = DDPMpp(augment_dim=9)
EDM, JCM = "edm_ncsnpp_small.npz", "jcm_ncsnpp_small.npz"
NHWC, NCHW = (0, 2, 3, 1), (0, 3, 1, 2)


def assert_near(file: str, name: str, got: torch.Tensor) -> None:
    """The tolerance of the manifest, and for float32 also 1e-5 of the largest value."""
    assert_golden(file, name, got)
    want = load(file)[name]
    assert name.endswith("_f64") or np.abs(got.numpy() - want).max() <= 1e-5 * np.abs(want).max()


@pytest.fixture(scope="module")
def edm_network() -> torch.nn.Module:
    """EDM's NCSN++ with the weights of the golden files."""
    network = recipe_weights(SMALL_EDM.build()).eval()
    network.map_noise.freqs.copy_(tensor(load(EDM)["buffer_map_noise_freqs"]))
    return network


def jcm_weights(w16: bool = False) -> dict[str, np.ndarray]:
    """jcm's NCSN++ with the weights of the golden files; `w16`: with the stored Fourier frequencies."""
    entries = json.loads((GOLDEN / "manifest.json").read_text())["files"]
    shapes = next(entry for entry in entries if entry["file"] == JCM)["config"]["param shapes"]
    weights = {path: recipe_array(path, tuple(shape)) for path, shape in shapes.items()}
    return weights | ({"GaussianFourierProjection_0/W": load(JCM)["fourier_W_16"]} if w16 else {})


def jcm_network(dtype: torch.dtype = F32, w16: bool = False) -> torch.nn.Module:
    network = SMALL.build()
    network.load_state_dict(ncsnpp_state_dict(jcm_weights(w16), SMALL), strict=True)
    return network.to(dtype).eval()


@torch.no_grad()
@pytest.mark.parametrize(("name", "dtype"), [("out_f32", F32), ("out_aug_f32", F32), ("out_f64", F64)])
def test_edm_network(edm_network, name, dtype):
    data = load(EDM)
    labels = tensor(data["augment_labels"]) if "aug" in name else None
    network = edm_network.to(dtype)
    got = network(tensor(data["x"], dtype), tensor(data["noise_labels"], dtype), augment_labels=labels)
    edm_network.to(F32)
    assert_near(EDM, name, got)


@torch.no_grad()
def test_edm_denoiser(edm_network):
    data = load(EDM)
    got = denoiser(edm_network, "edm")(tensor(data["precond_x"]), tensor(data["precond_sigma"]))
    assert_near(EDM, "precond_out_f32", got)


@torch.no_grad()
@pytest.mark.parametrize("w16", [False, True], ids=["recipe", "w16"])
@pytest.mark.parametrize(("bits", "dtype"), [("f32", F32), ("f64", F64)])
def test_jcm_network(bits, dtype, w16):
    data = load(JCM)
    x = tensor(data["x"].transpose(NCHW), dtype)
    got = jcm_network(dtype, w16)(x, tensor(data["time_cond"], dtype))
    assert_near(JCM, f"out_w16_{bits}" if w16 else f"out_{bits}", got.permute(NHWC))


@torch.no_grad()
@pytest.mark.parametrize(("name", "scalings"), [("denoiser_f32", "edm"), ("distiller_f32", "boundary")])
def test_jcm_denoiser_and_distiller(name, scalings):
    data = load(JCM)
    got = denoiser(jcm_network(), scalings)(tensor(data["x_t"].transpose(NCHW)), tensor(data["sigma"]))
    assert_near(JCM, name, got.permute(NHWC))


@pytest.mark.parametrize("scalings", ["edm", "boundary"])
@pytest.mark.parametrize(("bits", "dtype"), [("f32", F32), ("f64", F64)])
def test_scalings(scalings, bits, dtype):
    t = tensor(load("scalings.npz")["sigma"], dtype)
    found = registry.get("preconditioning", scalings)(t, sigma_data=0.5, sigma_min=0.002)
    for name, got in zip(("c_skip", "c_out", "c_in"), found[:3], strict=True):
        assert got.dtype == dtype
        assert_golden("scalings.npz", f"{scalings}_{name}_{bits}", got)
    torch.testing.assert_close(found.c_noise, t.log() / 4)


@pytest.mark.parametrize(
    ("net", "count"),
    [
        (NCSNpp(), 56_395_523),
        (DDPMpp(), 55_732_739),
        (VE, 56_397_827),
        (VP, 55_733_891),
        (dataclasses.replace(VP, augment_dim=0), 55_732_739),
        (dataclasses.replace(VE, classes=10), 56_400_643),
        (dataclasses.replace(VP, classes=10), 55_735_299),
        (NCSNpp(blocks=8, embedding="fourier"), 97_610_499),
    ],
)
def test_published_parameter_counts(net, count):
    assert parameters(on_meta(net)) == count


@pytest.mark.parametrize(("net", "kind"), [(VE, "ve"), (VP, "vp"), (PRESET, "vp")])
@pytest.mark.parametrize(("labels", "classes"), [("uncond", 0), ("cond", 10)])
def test_names_and_shapes_are_those_of_edm(net, kind, labels, classes):
    stored = json.loads((GOLDEN / f"keys_edm_cifar10_{labels}_{kind}.json").read_text())
    module = on_meta(dataclasses.replace(net, classes=classes))
    for want, got in ((stored["parameters"], module.named_parameters()), (stored["buffers"], module.named_buffers())):
        assert {f"model.{name}": list(value.shape) for name, value in got} == want


def test_full_size_jcm_weights_fill_the_network():
    shapes = json.loads((GOLDEN / "keys_jcm_ncsnpp_cifar10.json").read_text())["parameters"]
    converted = ncsnpp_state_dict({path: np.empty(shape, np.float32) for path, shape in shapes.items()}, NCSNpp())
    own = on_meta(NCSNpp()).state_dict()
    assert {name: value.shape for name, value in converted.items()} == {n: v.shape for n, v in own.items()}


@pytest.mark.parametrize(
    ("path", "add"), [("Conv_1/bias", False), ("AttnBlockpp_2/NIN_1", False), ("Dense_7/bias", True)]
)
def test_jcm_weights_of_another_network_are_refused(path, add):
    weights = {name: value for name, value in jcm_weights().items() if add or not name.startswith(path.rsplit("/b")[0])}
    weights |= {path: np.zeros(3, np.float32)} if add else {}
    with pytest.raises(UserError, match=path.removesuffix("/bias")):
        ncsnpp_state_dict(weights, SMALL)


@pytest.mark.parametrize("dtype", [F32, F64])
def test_boundary_condition_is_exact(dtype):
    x = torch.randn(3, 1, 8, 8, dtype=dtype)
    f = denoiser(recipe_weights(TINY.build()).to(dtype), "boundary")
    assert torch.equal(f(x, torch.full((3,), 0.002, dtype=dtype)), x)
    assert not torch.allclose(f(x, torch.full((3,), 0.02, dtype=dtype)), x, atol=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"embedding": "positional", "noise_channels": 1, "encoder": "standard", "resample_filter": [1, 1]},
        {"resample_filter": [1, 1], "multipliers": [1, 2, 2]},
        {"patch": 2, "multipliers": [1, 2]},
        {"multipliers": [1], "attention": [], "dropout": 0.3},
        {"classes": 10, "augment_dim": 9},
    ],
)
def test_gradients_are_finite_and_reach_every_parameter(change):
    network = recipe_weights(dataclasses.replace(TINY, **change).build())
    labels = torch.arange(4) if "classes" in change else None
    x, t = torch.randn(4, 1, 8, 8, requires_grad=True), torch.tensor([0.002, 0.1, 3.0, 80.0])
    denoiser(network, "edm")(x, t, labels).square().mean().backward()
    silent = {name for name, parameter in network.named_parameters() if parameter.grad is None}
    assert silent == ({"map_augment.weight"} if "augment_dim" in change else set())
    grads = [x.grad, *(p.grad for p in network.parameters() if p.grad is not None)]
    assert all(grad.isfinite().all() and grad.any() for grad in grads)


def test_class_labels_change_the_output_and_no_label_is_the_zero_vector():
    network = recipe_weights(dataclasses.replace(TINY, classes=3).build()).double().eval()
    x, noise = torch.randn(2, 1, 8, 8, dtype=F64), torch.zeros(2, dtype=F64)
    none = network(x, noise)
    assert torch.equal(none, network(x, noise, torch.zeros(2, 3, dtype=F64)))
    assert not torch.allclose(none, network(x, noise, torch.eye(3, dtype=F64)[:2]))
    features, one_hot = network.map_noise(noise), torch.eye(3, dtype=F64)[:2]
    want = network.map_layer0(features + 3**0.5 * one_hot @ network.map_label.weight.T + network.map_label.bias)
    want = torch.nn.functional.silu(network.map_layer1(torch.nn.functional.silu(want)))
    torch.testing.assert_close(network._embed(noise, one_hot, None), want)


def test_patches_become_channels_before_the_first_convolution_and_pixels_again_after_the_last():
    """A network on patches of 2 x 2 is the network of half the resolution that sees four channels."""
    patched = recipe_weights(NCSNpp(resolution=16, image_channels=1, channels=32, multipliers=(1, 2), patch=2).build())
    plain = NCSNpp(resolution=8, image_channels=4, channels=32, multipliers=(1, 2)).build()
    plain.load_state_dict(patched.state_dict(), strict=True)
    x, t = torch.randn(3, 1, 16, 16), torch.tensor([0.1, 1.0, 10.0])
    parts = [x[:, :, row::2, column::2] for row in (0, 1) for column in (0, 1)]
    want = plain(torch.cat(parts, dim=1), t)
    got = patched(x, t)
    assert got.shape == x.shape
    for index, (row, column) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        assert torch.equal(got[:, 0, row::2, column::2], want[:, index])


def test_positional_frequencies_run_from_one_to_a_ten_thousandth():
    net = dataclasses.replace(TINY, embedding="positional", noise_channels=1)
    noise = torch.tensor([0.3, -2.0], dtype=F64)
    phases = noise[:, None] * torch.logspace(0, -4, 4, dtype=F64)
    want = torch.cat([phases.sin(), phases.cos()], dim=1)
    torch.testing.assert_close(net.build().map_noise(noise), want, rtol=1e-6, atol=1e-7)


def test_fourier_frequencies_have_the_scale_of_the_description():
    for scale in (1.0, 16.0):
        freqs = dataclasses.replace(TINY, noise_channels=256, fourier_scale=scale).build().map_noise.freqs
        assert freqs.shape == (1024,) and 0.9 * scale < freqs.std() < 1.1 * scale


def test_initialisation_is_seeded_and_starts_near_zero():
    torch.manual_seed(1)
    first = TINY.build()
    torch.manual_seed(1)
    second = TINY.build()
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    assert first(torch.randn(2, 1, 8, 8), torch.zeros(2)).abs().max() < 1e-3
    block = first.enc["4x4_block0"]
    bound = (6 / (9 * (8 + 16))) ** 0.5
    assert 0.9 * bound < block.conv0.weight.abs().max() <= bound
    assert block.conv1.weight.abs().max() < 1e-5 and not block.conv1.bias.any()
    assert 0.9 < block.qkv.weight.abs().max() / (0.2 * 6 / (16 + 48)) ** 0.5 <= 1


@torch.no_grad()
def test_channels_last_and_autocast_agree_with_float32():
    f = denoiser(recipe_weights(TINY.build()).eval(), "boundary")
    x, t = torch.randn(4, 1, 8, 8), torch.tensor([0.002, 0.3, 1.0, 80.0])
    want = f(x, t)
    f = f.to(memory_format=torch.channels_last)
    torch.testing.assert_close(f(x.contiguous(memory_format=torch.channels_last), t), want, rtol=1e-5, atol=1e-5)
    with autocast(torch.device("cpu"), "bfloat16"):
        got = f(x, t)
    assert got.dtype == F32 and torch.equal(got[0], x[0])
    assert (got - want).abs().max() < 0.05 * want.abs().max()


def test_times_in_float64_and_images_in_bfloat16():
    f = denoiser(TINY.build(), "edm")
    assert f(torch.randn(2, 1, 8, 8), torch.ones(2, dtype=F64)).dtype == F32
    assert f(torch.randn(2, 1, 8, 8).bfloat16(), torch.ones(2)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"multipliers": []}, "multipliers"),
        ({"multipliers": [1, 0]}, "multipliers"),
        ({"resolution": 6, "multipliers": [1, 2, 2]}, "resolution 6 cannot be halved 2 times"),
        ({"resample_filter": [1, 2, 1]}, "resample_filter"),
        ({"resample_filter": []}, "resample_filter"),
        ({"channels": 2}, "channels 2"),
        ({"channels": 10}, "channels 10"),
        ({"patch": 3}, "resolution 8 cannot be divided into patches of 3 pixels"),
        ({"patch": 4, "multipliers": [1, 1, 1]}, "resolution 2 cannot be halved 2 times"),
    ],
)
def test_impossible_descriptions_are_refused(change, message):
    with pytest.raises(UserError, match=message) as caught:
        dataclasses.replace(TINY, **change).build()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embedding": "furrier"}, "unknown embedding 'furrier'; known: fourier, positional"),
        ({"encoder": "skip"}, "unknown encoder 'skip'"),
    ],
)
def test_unknown_words_are_refused(change, message):
    with pytest.raises(UserError, match=message) as caught:
        make_component("network", {"name": "ncsnpp", **change}, "network")
    assert "\n" not in str(caught.value)


def test_descriptions_do_not_import_torch():
    code = "import sys; import cm.registry as r; r.names('preconditioning')"
    code += "; [r.get('network', name)().check() for name in ('ncsnpp', 'ddpmpp', 'adm')]"
    code += "; import cm.networks.base, cm.checkpoints.openai_names"
    subprocess.run([sys.executable, "-c", f"{code}; assert 'torch' not in sys.modules"], check=True)
