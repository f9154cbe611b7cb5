"""What both families of U-Nets owe: autocast, memory formats, activation checkpointing, attention."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from goldens import recipe_weights
from nets import F64, FAMILIES, denoiser
from torch.nn import functional as F

from cm.diffusion import precision
from cm.diffusion.precision import autocast
from cm.networks.base import set_activation_checkpointing
from cm.networks.classifier import ConvNet
from cm.networks.modules.layers import GroupNorm, attend
from cm.networks.modules.unet import ResidualBlock

both = pytest.mark.parametrize("family", FAMILIES)
TIMES = torch.tensor([0.002, 0.3, 1.0, 80.0])


def module(family: str, **changes) -> torch.nn.Module:
    """The same network at every call, which also seeds what is drawn after it."""
    torch.manual_seed(0)
    return recipe_weights(dataclasses.replace(FAMILIES[family], **changes).build())


@torch.no_grad()
@both
@pytest.mark.parametrize(("name", "near"), [("bfloat16", 0.02), ("float16", 0.001)])
def test_autocast_is_near_float32_and_exact_at_the_boundary(family, name, near):
    f, x = denoiser(module(family, classes=3).eval(), "boundary"), torch.randn(4, 1, 8, 8)
    labels = torch.tensor([0, 1, 2, 0])
    want, seen = f(x, TIMES, labels), []
    for layer in (f.network.map_layer1, f.network.enc["4x4_down"]):
        layer.register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    with autocast(torch.device("cpu"), name):
        got = f(x, TIMES, labels)
        raw = f.network(x, TIMES.log() / 4)
    assert seen == [torch.float32, getattr(torch, name)] * 2 and raw.dtype == got.dtype == torch.float32
    assert torch.equal(got[0], x[0])
    assert 0 < (got - want).abs().max() < near * want.abs().max()


@both
@pytest.mark.parametrize(("name", "near"), [("bfloat16", 0.1), ("float16", 0.01)])
def test_gradients_under_autocast_are_near_those_of_float32(family, name, near):
    gradients = []
    for chosen in ("float32", name):
        network, x = module(family), torch.randn(4, 1, 8, 8)
        with autocast(torch.device("cpu"), chosen):
            loss = denoiser(network, "edm")(x, TIMES).square().mean()
        loss.backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in network.parameters()]))
    want, got = gradients
    assert got.dtype == torch.float32 and (got - want).norm() < near * want.norm()


@torch.no_grad()
@both
def test_channels_last_gives_the_same_and_stays(family):
    network = module(family, dropout=0.1).double().eval()
    x, noise = torch.randn(4, 1, 8, 8, dtype=F64), torch.zeros(4, dtype=F64)
    want, outputs = network(x, noise), []
    blocks = [block for block in network.modules() if isinstance(block, ResidualBlock)]
    for block in blocks:
        block.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    for memory_format in (torch.contiguous_format, torch.channels_last):
        got = network.to(memory_format=memory_format)(x.contiguous(memory_format=memory_format), noise)
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
        assert len(outputs) == len(blocks) and all(out.is_contiguous(memory_format=memory_format) for out in outputs)
        outputs.clear()


@pytest.mark.parametrize("heads", [1, 2, 3])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_attention_is_softmax_over_pixels_within_each_head(heads, memory_format):
    qkv = torch.randn(2, 36, 3, 2, dtype=F64).contiguous(memory_format=memory_format)
    got, want = attend(qkv, heads), torch.empty(2, 12, 3, 2, dtype=F64)
    dim = 12 // heads
    for image in range(2):
        for head in range(heads):
            own = qkv[image, 3 * dim * head : 3 * dim * (head + 1)].flatten(1)
            query, key, value = own[0::3], own[1::3], own[2::3]
            weights = (query.T @ key / dim**0.5).softmax(dim=1)
            want[image, dim * head : dim * (head + 1)] = (value @ weights.T).reshape(dim, 3, 2)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_attention_gives_the_fused_kernels_what_they_want(memory_format, monkeypatch):
    seen, fused = [], torch.nn.functional.scaled_dot_product_attention

    def attention(*parts: torch.Tensor) -> torch.Tensor:
        seen.extend(parts)
        return fused(*parts)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
    attend(torch.randn(2, 36, 3, 2).contiguous(memory_format=memory_format), 2)
    assert [(part.shape, part.stride(-1)) for part in seen] == [((2, 2, 6, 6), 1)] * 3


def loss_and_gradients(network: torch.nn.Module, name: str) -> tuple[list[torch.Tensor], int]:
    """Loss, state of the generator and all gradients of a seeded step; and the bytes kept for the backward pass."""
    torch.manual_seed(5)
    x, kept = torch.randn(4, 1, 8, 8), {}
    own = {parameter.data_ptr() for parameter in network.parameters()}

    def keep(saved: torch.Tensor) -> torch.Tensor:
        storage = saved.untyped_storage()
        kept[storage.data_ptr()] = 0 if storage.data_ptr() in own else storage.nbytes()
        return saved

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        with autocast(torch.device("cpu"), name):
            loss = denoiser(network, "edm")(x, TIMES).square().mean()
        size = sum(kept.values())
    network.zero_grad()
    loss.backward()
    gradients = [parameter.grad.clone() for parameter in network.parameters()]
    return [loss.detach(), torch.get_rng_state(), *gradients], size


@both
@pytest.mark.parametrize("instructions", [True, False])
@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_checkpointing_gives_the_same_gradients_from_less_memory(family, name, instructions, monkeypatch):
    monkeypatch.setattr(precision, "has_instructions", lambda device, name: instructions or name == "float32")
    network = module(family, dropout=0.5)
    names = list(network.state_dict())
    want, plain = loss_and_gradients(network, name)
    network.set_activation_checkpointing(True)
    got, small = loss_and_gradients(network, name)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    assert 4 * small < plain and list(network.state_dict()) == names
    network.set_activation_checkpointing(False)
    again, size = loss_and_gradients(network, name)
    assert size == plain and torch.equal(again[0], want[0])


@pytest.mark.parametrize("instructions", [True, False])
def test_checkpointing_compiles_in_lower_precision(instructions, monkeypatch):
    monkeypatch.setattr(precision, "has_instructions", lambda device, name: instructions)
    found = []
    for backend in (None, "aot_eager"):
        network = module("song")
        network.set_activation_checkpointing(True)
        if backend:
            network.compile(backend=backend, fullgraph=True)
        with autocast(torch.device("cpu"), "bfloat16"):
            loss = network(torch.ones(4, 1, 8, 8), TIMES.log() / 4).square().mean()
        loss.backward()
        found.append(torch.cat([parameter.grad.flatten() for parameter in network.parameters()]))
    want, got = found
    assert (got - want).norm() < 0.05 * want.norm()  # in another order


def test_a_recomputation_under_autocast_of_torch_is_that_of_the_suite(monkeypatch):
    monkeypatch.setattr(precision, "has_instructions", lambda device, name: False)
    network = module("song")
    network.set_activation_checkpointing(True)
    with torch.autocast("cpu", torch.bfloat16):
        loss = network(torch.ones(4, 1, 8, 8), TIMES.log() / 4).square().mean()
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


@both
def test_checkpointing_is_switched_through_a_denoiser_and_ignored_by_other_modules(family):
    network = module(family)
    blocks = [block for block in network.modules() if isinstance(block, ResidualBlock)]
    for on in (True, False):
        set_activation_checkpointing(denoiser(network, "edm"), on)
        set_activation_checkpointing(ConvNet(resolution=8).build(), on)
        assert blocks and all(block.checkpointed is on for block in blocks)


@both
def test_dropout_differs_between_steps_and_is_off_in_evaluation(family):
    network, x, noise = module(family, dropout=0.5), torch.randn(2, 1, 8, 8), torch.zeros(2)
    assert not torch.equal(network(x, noise), network(x, noise))
    network.eval()
    assert torch.equal(network(x, noise), network(x, noise))


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("backend", [None, "aot_eager"])
def test_normalisation_keeps_the_memory_format(device, memory_format, backend):
    """With autocast too, in the dtype of its input."""
    norm, x = GroupNorm(2, 8).to(device), torch.randn(2, 8, 4, 4, device=device)
    normalise = torch.compile(norm, backend=backend) if backend else norm
    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast(device, torch.bfloat16, enabled=dtype == torch.bfloat16):
            got = normalise(x.to(dtype, memory_format=memory_format))
        assert got.is_contiguous(memory_format=memory_format) and got.dtype == dtype


def test_normalisation_keeps_the_memory_format_where_the_kernel_does_not(monkeypatch):
    """As on GPUs in most releases of torch."""
    original, x = F.group_norm, torch.randn(2, 8, 4, 4).to(memory_format=torch.channels_last)
    monkeypatch.setattr(F, "group_norm", lambda *arguments: original(*arguments).contiguous())
    assert GroupNorm(2, 8)(x).is_contiguous(memory_format=torch.channels_last)


@torch.no_grad()
@both
def test_double_normalisation_scales_and_shifts_by_normalised_vectors(family):
    """y = norm(h) s / rms(s) + b / rms(b), whatever the sizes of s and b, [B, C, 1, 1]."""
    block = next(part for part in module(family, double_norm=True).modules() if isinstance(part, ResidualBlock))
    h, conditions = torch.randn(3, 8, 4, 4), torch.randn(3, 16, 1, 1)
    scale, shift = (part / part.square().mean(1, keepdim=True).sqrt() for part in conditions.split(8, dim=1))
    want = block.norm1(h) * scale + shift
    for size in (1e-2, 1.0, 1e3):
        torch.testing.assert_close(block._condition(h, size * conditions), want, rtol=1e-3, atol=1e-4)


@both
def test_double_normalisation_is_an_option_of_the_network(family):
    """It adds weights where there was only a shift, and none where there was a scale; gradients reach all of them."""
    plain, double = (module(family, double_norm=on) for on in (False, True))
    grown = {name for name, weight in double.state_dict().items() if weight.shape != plain.state_dict()[name].shape}
    assert plain.state_dict().keys() == double.state_dict().keys()
    assert all(".affine." in name for name in grown) and bool(grown) is (family == "song")
    denoiser(double, "scm")(torch.randn(4, 1, 8, 8), TIMES).square().mean().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in double.parameters())
