"""ADM against OpenAI's and EDM's implementations, and OpenAI's names for its weights."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from goldens import GOLDEN, assert_golden, load, recipe_array, recipe_weights
from nets import F32, F64, GOLDEN_ADM, TINY_ADM, denoiser, on_meta, parameters, tensor
from torch.nn import functional as F

from cm.checkpoints.openai_names import adm_state_dict, openai_state_dict
from cm.errors import UserError
from cm.networks.adm import ADM

IMAGENET = ADM(classes=1000)
LSUN = ADM(resolution=256, channels=256, multipliers=[1, 1, 2, 2, 4, 4], blocks=2, scale_shift=False)
EDM_IMAGENET = dataclasses.replace(IMAGENET, noise_factor=1.0, group_channels=4)
SMALL = ADM(channels=32, blocks=2, head_channels=32, classes=10, noise_factor=1.0)
SMALLER = ADM(resolution=16, channels=32, multipliers=[1, 2], blocks=1, attention=[8], head_channels=32, classes=5)
SMALL_EDM = dataclasses.replace(GOLDEN_ADM, dropout=0.1)
UNET, DENOISE, EDM = "unet_in64_small.npz", "denoise_unet16.npz", "edm_dhariwal_small.npz"


def openai_weights(net: ADM) -> dict[str, torch.Tensor]:
    """The weights of the golden files under OpenAI's names."""
    names = openai_state_dict(on_meta(net).state_dict(), net)
    return {name: torch.from_numpy(recipe_array(name, tuple(value.shape))) for name, value in names.items()}


def openai_network(net: ADM, dtype: torch.dtype = F32) -> torch.nn.Module:
    module = net.build()
    module.load_state_dict(adm_state_dict(openai_weights(net), net), strict=True)
    return module.to(dtype).eval()


def float32_features(module: torch.nn.Module) -> None:
    """The reference's sines and cosines are float32 ones also in its float64 run; ours are not."""
    module.map_noise.register_forward_hook(lambda own, labels, _: own.forward(labels[0].float()).double())


@torch.no_grad()
@pytest.mark.parametrize(
    ("file", "name", "dtype"), [(UNET, "out_f32", F32), ("unet_in64_small_f64.npz", "out_f64", F64)]
)
def test_openai_network(file, name, dtype):
    data, network = load(UNET), openai_network(SMALL, dtype)
    if dtype == F64:
        float32_features(network)
    labels = F.one_hot(tensor(data["y"], torch.int64), 10).to(dtype)
    assert_golden(file, name, network(tensor(data["x"], dtype), tensor(data["timesteps"], dtype), labels))


@torch.no_grad()
def test_float64_features_are_finer_than_the_references():
    data, network = load(UNET), openai_network(SMALL, F64)
    labels = F.one_hot(tensor(data["y"], torch.int64), 10).to(F64)
    got = network(tensor(data["x"], F64), tensor(data["timesteps"], F64), labels)
    want = tensor(load("unet_in64_small_f64.npz")["out_f64"], F64)
    assert 0 < (got - want).abs().max() < 2e-5 * want.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("scalings", ["edm", "boundary"])
def test_openai_denoiser(scalings):
    data, raw = load(DENOISE), []
    f = denoiser(openai_network(SMALLER), scalings)
    f.network.register_forward_hook(lambda _module, _inputs, output: raw.append(output))
    got = f(tensor(data["x_t"]), tensor(data["sigmas"]), tensor(data["y"], torch.int64))
    assert_golden(DENOISE, f"denoised_{scalings}", got)
    assert_golden(DENOISE, "model_output", raw[0])


@torch.no_grad()
@pytest.mark.parametrize(("name", "dtype"), [("out_f32", F32), ("out_aug_f32", F32), ("out_f64", F64)])
def test_edm_network(name, dtype):
    data, network = load(EDM), recipe_weights(SMALL_EDM.build()).to(dtype).eval()
    augment = tensor(data["augment_labels"]) if "aug" in name else None
    inputs = [tensor(data[array], dtype) for array in ("x", "noise_labels", "class_labels")]
    assert_golden(EDM, name, network(*inputs, augment))


@torch.no_grad()
@pytest.mark.parametrize("name", ["precond_out_f32", "precond_out_nolabel_f32"])
def test_edm_denoiser(name):
    data = load(EDM)
    labels = None if "nolabel" in name else tensor(data["class_labels"]).argmax(1)
    f = denoiser(recipe_weights(SMALL_EDM.build()).eval(), "edm")
    assert_golden(EDM, name, f(tensor(data["precond_x"]), tensor(data["precond_sigma"]), labels))


@pytest.mark.parametrize(("net", "count"), [(IMAGENET, 295_899_267), (LSUN, 526_304_771), (EDM_IMAGENET, 295_899_267)])
def test_published_parameter_counts(net, count):
    assert parameters(on_meta(net)) == count


@pytest.mark.parametrize(("net", "kind"), [(IMAGENET, "imagenet64"), (LSUN, "lsun256")])
def test_names_and_shapes_are_those_of_openai(net, kind):
    want = json.loads((GOLDEN / f"keys_unet_{kind}.json").read_text())["parameters"]
    got = openai_state_dict(on_meta(net).state_dict(), net)
    assert {name: list(value.shape) for name, value in got.items()} == want


def test_names_and_shapes_are_those_of_edm():
    stored, module = json.loads((GOLDEN / "keys_edm_imagenet64_adm.json").read_text()), on_meta(EDM_IMAGENET)
    for want, got in ((stored["parameters"], module.named_parameters()), (stored["buffers"], module.named_buffers())):
        assert {f"model.{name}": list(value.shape) for name, value in got} == want


@pytest.mark.parametrize("net", [IMAGENET, LSUN], ids=["imagenet", "lsun"])
@pytest.mark.parametrize("order", ["flash", "legacy"])
def test_full_size_openai_weights_fill_the_network(net, order):
    own = {name: value.shape for name, value in on_meta(net).state_dict().items()}
    with torch.device("meta"):
        theirs = openai_state_dict({name: torch.empty(shape) for name, shape in own.items()}, net, order=order)
        assert {name: value.shape for name, value in adm_state_dict(theirs, net, order=order).items()} == own


@pytest.mark.parametrize("order", ["flash", "legacy"])
def test_openai_names_there_and_back(order):
    own = recipe_weights(SMALL.build()).state_dict()
    theirs = openai_state_dict(own, SMALL, order=order)
    back = adm_state_dict(theirs, SMALL, order=order)
    assert own.keys() == back.keys() and all(torch.equal(own[name], back[name]) for name in own)
    assert theirs["middle_block.1.qkv.weight"].ndim == (4 if order == "flash" else 3)


@pytest.mark.parametrize(("order", "axes"), [("flash", "three heads dim"), ("legacy", "heads three dim")])
def test_order_of_attention_channels(order, axes):
    heads, dim = 4, 32
    own = SMALL.build().state_dict()
    sizes = {"three": 3, "heads": heads, "dim": dim}
    place = {"three": 1000, "heads": 100, "dim": 1}
    own_axes = [torch.arange(sizes[axis]) * place[axis] for axis in ("heads", "dim", "three")]
    own["dec.8x8_in0.qkv.bias"] = sum(torch.meshgrid(*own_axes, indexing="ij")).flatten().float()
    want = sum(torch.meshgrid(*[torch.arange(sizes[a]) * place[a] for a in axes.split()], indexing="ij")).flatten()
    assert torch.equal(openai_state_dict(own, SMALL, order=order)["middle_block.1.qkv.bias"], want.float())


def lacking(weights):
    del weights["input_blocks.1.0.in_layers.0.weight"]


def left_over(weights):
    weights["input_blocks.99.0.weight"] = torch.zeros(1)


def misshapen(weights):
    weights["out.2.weight"] = torch.zeros(6, 32, 3, 3)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lacking, r"they lack input_blocks\.1\.0\.in_layers\.0\.weight \(1 in all\)"),
        (left_over, r"no place for input_blocks\.99\.0\.weight \(1 in all\)"),
        (misshapen, r"out\.2\.weight is \[6, 32, 3, 3\], not \[3, 32, 3, 3\]"),
    ],
)
def test_openai_weights_of_another_network_are_refused(spoil, message):
    weights = openai_weights(SMALL)
    spoil(weights)
    with pytest.raises(UserError, match=message):
        adm_state_dict(weights, SMALL)


@pytest.mark.parametrize(
    ("net", "order", "message"),
    [
        (dataclasses.replace(SMALL, augment_dim=9), "flash", "augment_dim must be 0, not 9"),
        (SMALL, "flesh", "unknown order of attention channels 'flesh'; known: flash, legacy"),
    ],
)
def test_what_openai_cannot_hold_is_refused(net, order, message):
    with pytest.raises(UserError, match=message):
        openai_state_dict({}, net, order=order)


def test_noise_factor_multiplies_the_noise_label():
    noise, x = torch.tensor([0.5, -1.5]), torch.randn(2, 1, 8, 8)
    slow = recipe_weights(dataclasses.replace(TINY_ADM, noise_factor=1.0).build()).eval()
    fast = recipe_weights(dataclasses.replace(TINY_ADM, noise_factor=1000.0).build()).eval()
    assert torch.equal(fast(x, noise), slow(x, 1000 * noise))
    assert not torch.allclose(fast(x, noise), slow(x, noise), atol=1e-3)


def test_initialisation_gives_zero_and_has_the_bounds_of_edm():
    module = dataclasses.replace(TINY_ADM, classes=50, augment_dim=9).build()
    assert not module(torch.randn(2, 1, 8, 8), torch.zeros(2)).any()
    block = module.enc["4x4_block0"]
    for layer, inputs in ((block.conv0, 9 * 8), (block.qkv, 16), (block.affine, 32), (module.map_layer0, 8)):
        for values in (layer.weight, layer.bias):
            assert 0.8 * inputs**-0.5 < values.abs().max() <= inputs**-0.5
    assert 0.9 < module.map_label.weight.std() < 1.1
    assert not any(layer.weight.any() or layer.bias.any() for layer in (block.conv1, block.proj, module.out_conv))
    assert not module.map_augment.weight.any()


@pytest.mark.parametrize(
    "change", [{}, {"scale_shift": False}, {"multipliers": [2], "attention": []}, {"classes": 10, "augment_dim": 9}]
)
def test_gradients_are_finite_and_reach_every_parameter(change):
    network = recipe_weights(dataclasses.replace(TINY_ADM, dropout=0.1, **change).build())
    labels = torch.arange(4) if "classes" in change else None
    x, t = torch.randn(4, 1, 8, 8, requires_grad=True), torch.tensor([0.002, 0.1, 3.0, 80.0])
    denoiser(network, "edm")(x, t, labels).square().mean().backward()
    silent = {name for name, parameter in network.named_parameters() if parameter.grad is None}
    assert silent == ({"map_augment.weight"} if "augment_dim" in change else set())
    grads = [x.grad, *(p.grad for p in network.parameters() if p.grad is not None)]
    assert all(grad.isfinite().all() and grad.any() for grad in grads)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"multipliers": []}, "multipliers"),
        ({"multipliers": [0, 1]}, "multipliers"),
        ({"resolution": 6, "multipliers": [1, 2, 2]}, "resolution 6 cannot be halved 2 times"),
        ({"channels": 9}, "channels must be even"),
        ({"channels": 10}, "channels 10: 30 channels cannot be split into equal groups of at least 4"),
        ({"head_channels": 12}, "the 16 channels of 4x4_block0 cannot be split into equal attention heads"),
        ({"head_channels": 64}, "the 16 channels of 4x4_block0"),
        ({"double_norm": True, "scale_shift": False}, "double_norm .* needs 'scale_shift: true'"),
    ],
)
def test_impossible_descriptions_are_refused(change, message):
    with pytest.raises(UserError, match=message) as caught:
        dataclasses.replace(TINY_ADM, **change).build()
    assert "\n" not in str(caught.value)
