"""Networks that are conditioned on two times: MeanFlow's network, and one-time networks as they were."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch
from goldens import assert_golden, load, recipe_weights
from nets import F32, F64, FAMILIES, denoiser, on_meta, parameters, tensor

from cm.checkpoints import openai_names, writing
from cm.diffusion.forward import jvp
from cm.errors import UserError
from cm.networks.adm import ADM
from cm.networks.ddpmpp import DDPMpp

FILE = "meanflow_unet.npz"
CIFAR10 = DDPMpp(noise_channels=2, resample_filter=[1, 3, 3, 1], dropout=0.2, augment_dim=6, two_times=True)
SMALL = dataclasses.replace(CIFAR10, resolution=16, channels=32, multipliers=[1, 2], blocks=1, attention=[8])
TWO = {name: dataclasses.replace(net, two_times=True) for name, net in FAMILIES.items()}


def official(dtype: torch.dtype) -> torch.nn.Module:
    """The network with the weights of the official code, whose query, key and value are three blocks of channels."""
    network = recipe_weights(SMALL.build()).eval()
    for name, parameter in network.named_parameters():
        if ".qkv." in name:
            blocks = parameter.data.reshape(3, len(parameter) // 3, *parameter.shape[1:])
            parameter.data = blocks.transpose(0, 1).reshape(parameter.shape)
    return network.to(dtype)


@pytest.mark.parametrize(("bits", "dtype"), [("f32", F32), ("f64", F64)])
def test_the_network_of_meanflow_and_its_derivative(bits, dtype):
    data, network = load(FILE), denoiser(official(dtype), "average-velocity")
    z, direction, t, r, augment = (tensor(data[name], dtype) for name in ("z", "v_z", "t", "r", "aug_cond"))
    assert_golden(FILE, f"u_{bits}", network(z, t, s=r))
    along = (direction, torch.ones_like(t), torch.zeros_like(r))
    u, derivative = jvp(lambda *at: network(at[0], at[1], s=at[2], augment_labels=augment), (z, t, r), along)
    assert_golden(FILE, f"u_aug_{bits}", u)
    assert_golden(FILE, f"dudt_{bits}", derivative)


def test_the_number_of_parameters_on_cifar10():
    assert parameters(on_meta(CIFAR10)) == 55_932_419


@pytest.mark.parametrize("family", FAMILIES)
def test_a_second_time_widens_one_layer_only(family):
    """One-time networks keep their names and shapes, which other tests compare with the official ones."""
    one, two = (on_meta(nets[family]).state_dict() for nets in (FAMILIES, TWO))
    assert one.keys() == two.keys()
    assert {name for name in one if one[name].shape != two[name].shape} == {"map_layer0.weight"}
    width, features = one["map_layer0.weight"].shape
    assert two["map_layer0.weight"].shape == (width, 2 * features)


@pytest.mark.parametrize("family", FAMILIES)
def test_both_times_change_the_output(family):
    network = recipe_weights(TWO[family].build()).double().eval()
    x, t = torch.randn(2, 1, 8, 8, dtype=F64), torch.tensor([[0.7, 0.2], [0.9, 0.4]], dtype=F64)
    outputs = [network(x, t), network(x, t + torch.tensor([0.1, 0.0])), network(x, t + torch.tensor([0.0, 0.1]))]
    assert not any(torch.allclose(outputs[i], outputs[j], rtol=1e-4) for i, j in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.parametrize("family", FAMILIES)
def test_class_and_augmentation_labels_reach_a_network_of_two_times(family):
    network = recipe_weights(dataclasses.replace(TWO[family], classes=3, augment_dim=2).build()).eval()
    x, t = torch.randn(2, 1, 8, 8), torch.rand(2, 2)
    plain = network(x, t)
    assert not torch.allclose(plain, network(x, t, torch.eye(3)[:2]))
    assert not torch.allclose(plain, network(x, t, augment_labels=torch.eye(2)))
    assert torch.equal(plain, network(x, t, torch.zeros(2, 3), torch.zeros(2, 2)))


@pytest.mark.parametrize(("form", "message"), [("openai", "takes one time"), ("diffusers", "two times")])
def test_a_network_of_two_times_has_no_place_in_formats_of_others(form, message, tmp_path):
    net = dataclasses.replace(ADM(), two_times=True)
    with pytest.raises(UserError, match=message) as caught:
        if form == "openai":
            openai_names._parameter_shapes(net)
        else:
            writing.diffusers_folder.unet_config(net)
    assert not re.search("\n", str(caught.value))
