"""Dropout masks as a function of the seed of each image, the layer and the position."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from goldens import recipe_weights
from nets import FAMILIES, denoiser

from cm.networks.classifier import ConvNet
from cm.networks.modules.dropout import Dropout, dropped, mix, name_dropout_layers, random_words

both = pytest.mark.parametrize("family", FAMILIES)
SEEDS = torch.tensor([0, 1, 2, 1 << 32, (1 << 32) + 1, -1, 3 << 61, 12345678901234567])
TIMES = torch.full((len(SEEDS),), 0.5)


def layer(p: float, constant: int = 7) -> Dropout:
    module = Dropout(p)
    module.constant = constant
    return module


def lowbias32(word: int) -> int:
    word = (word ^ word >> 16) * 0x7FEB352D % 2**32
    word = (word ^ word >> 15) * 0x846CA68B % 2**32
    return word ^ word >> 16


def test_the_mixing_function_is_lowbias32():
    words = [0, 1, 2, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xDEADBEEF]
    got = mix(torch.from_numpy(np.array(words, np.uint32).view(np.int32))).numpy().view(np.uint32)
    assert got.tolist() == [lowbias32(word) for word in words]


def test_words_are_those_of_the_formula():
    seed, constant = 0x123456789ABCDEF0, 0x0BCDEF01
    key = lowbias32((seed & 0xFFFFFFFF) ^ lowbias32((seed >> 32) ^ lowbias32(constant)))
    want = [lowbias32(lowbias32(i ^ constant) ^ key) for i in range(50)]
    got = random_words(torch.tensor([seed]), 50, constant)
    assert got.numpy().view(np.uint32)[0].tolist() == want


def test_changing_one_bit_of_the_input_changes_each_bit_of_the_output_half_of_the_time():
    words = torch.randint(-(2**31), 2**31, (20000,)).to(torch.int32)
    for bit in range(32):
        flipped = words ^ (1 << bit if bit < 31 else -(2**31))
        changed = np.unpackbits((mix(words) ^ mix(flipped)).numpy().view(np.uint8)).reshape(-1, 32).mean(0)
        assert np.abs(changed - 0.5).max() < 0.02


def test_bits_are_uniform_and_independent():
    """Each bit is set half of the time, and agrees half of the time with every other bit of this and the next word."""
    words = random_words(torch.arange(64), 4096, 99)
    bits = np.unpackbits(words.numpy().view(np.uint8)).reshape(-1, 32).astype(np.float64) - 0.5
    covariance, lagged = 4 * bits.T @ bits / len(bits), 4 * bits[:-1].T @ bits[1:] / len(bits)
    limit = 5.5 / len(bits) ** 0.5
    assert np.abs(2 * bits.mean(0)).max() < limit
    assert np.abs(covariance - np.eye(32)).max() < limit
    assert np.abs(lagged).max() < limit


@pytest.mark.parametrize("p", [0.1, 0.13, 0.5, 0.9])
def test_the_share_of_dropped_elements(p):
    mask = dropped(torch.arange(256), (256, 3, 5, 7, 11), layer=5, p=p).double()
    deviation = (p * (1 - p)) ** 0.5
    assert abs(mask.mean() - p) < 4 * deviation / mask.numel() ** 0.5
    for axes, limit in (((1, 2, 3, 4), 4.5), (0, 5.0)):  # for each image, and at each position
        means = mask.mean(axes)
        assert (means - p).abs().max() < limit * deviation / (mask.numel() / means.numel()) ** 0.5


def test_masks_of_images_layers_and_seeds_are_independent():
    masks = [dropped(SEEDS, (len(SEEDS), 20000), layer=constant, p=0.5).double() for constant in (0, 1, -1, 12345)]
    signs = 2 * torch.cat(masks) - 1
    correlations = signs @ signs.T / signs.shape[1] - torch.eye(len(signs))
    assert correlations.abs().max() < 5 / signs.shape[1] ** 0.5
    for shift in (1, 2, 3, 32, 1024):  # nor is one the other at another place
        assert (signs[:, shift:] @ signs[:, :-shift].T / signs.shape[1]).abs().max() < 5 / signs.shape[1] ** 0.5


def test_a_mask_depends_on_its_own_seed_only():
    whole = dropped(SEEDS, (8, 4, 3, 3), layer=7, p=0.3)
    for index in range(len(SEEDS)):
        assert torch.equal(dropped(SEEDS[index : index + 1], (1, 4, 3, 3), layer=7, p=0.3)[0], whole[index])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_kept_elements_are_scaled_and_the_gradient_has_the_same_mask(dtype, memory_format):
    x = torch.randn(8, 4, 6, 6, dtype=dtype).contiguous(memory_format=memory_format).requires_grad_()
    out, mask = layer(0.25)(x, SEEDS), dropped(SEEDS, x.shape, layer=7, p=0.25)
    assert out.dtype == dtype and out.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(out, torch.where(mask, 0.0, x / 0.75).to(dtype))
    out.sum().backward()
    torch.testing.assert_close(x.grad, torch.where(mask, 0.0, 1 / 0.75).to(dtype))
    assert abs(layer(0.25)(torch.ones(8, 40000), SEEDS).mean() - 1) < 0.01


def test_no_mask_in_evaluation_or_without_dropout_and_torchs_mask_without_seeds(monkeypatch):
    x = torch.randn(8, 50)
    assert (layer(0.5)(x) == 0).any() and not torch.equal(layer(0.5)(x), layer(0.5)(x))
    monkeypatch.setattr("cm.networks.modules.dropout.dropped", None)
    assert layer(0.0)(x, SEEDS) is x and layer(0.5).eval()(x, SEEDS) is x


@both
def test_dropout_layers_of_a_network_have_distinct_constants_that_depend_on_their_names_only(family):
    nets = [dataclasses.replace(FAMILIES[family], dropout=p).build() for p in (0.1, 0.2)]
    first, second = [[m.constant for m in net.modules() if isinstance(m, Dropout)] for net in nets]
    assert first == second and len(set(first)) == len(first) > 3 and 0 not in first


def test_names_give_constants():
    network = torch.nn.ModuleDict({"a": Dropout(0.1), "b": torch.nn.Sequential(Dropout(0.1))})
    name_dropout_layers(network)
    assert network["a"].constant == 0xE8B7BE43 - (1 << 32) and network["b"][0].constant != network["a"].constant


@both
@pytest.mark.parametrize("checkpointed", [False, True])
def test_the_output_for_an_image_depends_on_its_own_seed_only(family, checkpointed):
    f = denoiser(recipe_weights(dataclasses.replace(FAMILIES[family], dropout=0.5).build()).double(), "edm")
    f.network.set_activation_checkpointing(checkpointed)
    x = torch.randn(8, 1, 8, 8, dtype=torch.float64)
    whole = f(x, TIMES, dropout_seeds=SEEDS)
    torch.testing.assert_close(f(x, TIMES, dropout_seeds=SEEDS), whole, rtol=0, atol=0)
    parts = [f(x[part], TIMES[part], dropout_seeds=SEEDS[part]) for part in (slice(0, 3), slice(3, 8))]
    torch.testing.assert_close(torch.cat(parts), whole)
    other = f(x, TIMES, dropout_seeds=SEEDS + torch.arange(8).eq(2))
    changed = (other - whole).flatten(1).abs().amax(1) > 1e-6
    assert changed.tolist() == [index == 2 for index in range(8)]


def test_the_dropout_of_the_classifier_has_seeds():
    network, x = ConvNet(resolution=8, image_channels=1, dropout=0.5).build(), torch.randn(8, 1, 8, 8)
    assert torch.equal(network(x, dropout_seeds=SEEDS), network(x, dropout_seeds=SEEDS))
    assert not torch.equal(network(x, dropout_seeds=SEEDS), network(x, dropout_seeds=SEEDS + 1))
    assert not torch.equal(network(x), network(x))


def test_masks_are_the_same_when_compiled():
    x, module = torch.randn(8, 4, 6, 6), layer(0.3)
    assert torch.equal(torch.compile(module, backend="aot_eager")(x, SEEDS), module(x, SEEDS))
