"""Perceptual distances: their size and precision, what autograd keeps of them, and their compiled form."""

from __future__ import annotations

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from cm import config
from cm.diffusion.distances import LPIPS
from cm.diffusion.perceptual import FeatureDistance, PerceptualDistance
from cm.errors import UserError


def small_network(dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """Two convolutions with weights that are always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3))
    return network.requires_grad_(False).to(dtype)


def distance_of(network, **settings) -> PerceptualDistance:
    dtype = network[0].weight.dtype

    def maps(x):
        first = network[:2](x.to(dtype))
        return [first, network[2](first)]

    return LPIPS(**settings).with_network(FeatureDistance(maps))


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    a, b = torch.rand(2, 4, 3, 12, 12, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return a.requires_grad_(), b


def value_and_gradient(distance, a, b):
    value = distance(a, b)
    return value.detach(), torch.autograd.grad(value.sum(), a)[0]


class Recorder:
    """The number of tensors that autograd saves within."""

    def __init__(self) -> None:
        self.saved = 0
        self.hooks = saved_tensors_hooks(self.pack, lambda tensor: tensor)

    def pack(self, tensor):
        self.saved += 1
        return tensor


@pytest.mark.parametrize(
    ("resolution", "size", "compared"), [(28, None, 28), (28, 224, 224), (255, 224, 224), (256, 224, 256), (64, 32, 32)]
)
def test_images_are_compared_at_the_size_that_is_stated(resolution, size, compared):
    seen = []
    distance = LPIPS(size=size)
    distance.with_network(lambda a, b: seen.append(a.shape) or a)(*torch.zeros(2, 1, 1, resolution, resolution))
    assert distance.compared_size(resolution) == compared
    assert seen == [(1, 1, compared, compared)]


@pytest.mark.parametrize(("size", "resolution", "shown"), [(8, 32, "8"), (None, 8, "null")])
def test_images_too_small_for_the_network_are_one_clear_line(size, resolution, shown):
    line = (
        f"^a run: distance 'lpips' with size {shown} compares images of 8 pixels, "
        "but vgg needs at least 16: set its size to 16 or more$"
    )
    with pytest.raises(UserError, match=line):
        LPIPS(size=size).check_size(resolution, "vgg", 16, "a run")
    LPIPS(size=16).check_size(resolution, "vgg", 16, "a run")
    LPIPS(size=None).check_size(16, "vgg", 16, "a run")


def test_the_target_has_no_gradient_and_autograd_keeps_nothing_of_its_features():
    network, kept = small_network(), {}
    a, b = pair()
    b.requires_grad_()
    for name, student in {"target": a.detach(), "both": a}.items():
        recorder = Recorder()
        with recorder.hooks:
            value = distance_of(network)(student, b)
        kept[name] = recorder.saved
        assert value.requires_grad == (name == "both")
    assert kept["target"] == 0 < kept["both"]
    assert torch.autograd.grad(value.sum(), b, allow_unused=True) == (None,)


def test_the_maps_of_the_target_are_computed_first_without_autograd():
    modes = []

    def maps(x):
        modes.append(torch.is_grad_enabled())
        return [x]

    PerceptualDistance(FeatureDistance(maps))(*pair())
    assert modes == [False, True]


def test_heads_weigh_channels():
    a, b = pair()
    u, v = ((x + 1) / 2 / ((x + 1).square().sum(1, keepdim=True).sqrt() / 2) for x in (a, b))
    weights = torch.tensor([1.0, 0.0, 3.0])[:, None, None]
    metric = FeatureDistance(lambda x: [x], heads=[lambda squares: (weights * squares).sum(1, keepdim=True)])
    want = (weights * (u - v).square()).sum(1).mean((1, 2))
    torch.testing.assert_close(PerceptualDistance(metric)(a, b), want)


@pytest.mark.parametrize(("precision", "error"), [("bfloat16", 2e-2), ("float16", 2e-3)])
def test_maps_in_lower_precision_are_compared_in_float32(precision, error):
    a, b = pair()
    want, gradient = value_and_gradient(distance_of(small_network()), a, b)
    got, other = value_and_gradient(distance_of(small_network(getattr(torch, precision))), a, b)
    assert got.dtype == other.dtype == torch.float32
    assert 0 < (got / want - 1).abs().max() < error
    assert torch.nn.functional.cosine_similarity(gradient.flatten(1), other.flatten(1)).min() > 1 - error


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_distance_has_the_same_values_and_gradients(backend):
    distance = distance_of(small_network(), size=10)
    compiled = distance.compile(backend=backend)
    assert compiled.compiled is not None and compiled.size == distance.size
    for mine, theirs in zip(value_and_gradient(compiled, *pair()), value_and_gradient(distance, *pair()), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_distance_is_compiled_as_a_whole():
    found = torch._dynamo.explain(distance_of(small_network()).metric)(*pair())
    assert (found.graph_count, found.graph_break_count) == (1, 0)


def test_the_precision_of_a_distance_is_a_variant_and_not_that_of_the_training():
    run = config.Experiments().run("cifar10_reduced/cd/distance.precision~bfloat16/seed0")
    assert (run.objective.distance.precision, run.training.precision) == ("bfloat16", "bfloat16")
    run = config.Experiments().run("cifar10_reduced/cd/precision~float32/seed0")
    assert (run.objective.distance.precision, run.training.precision) == ("float32", "float32")
    run = config.Experiments().run("cifar10_reduced/cd/default/seed0")
    assert (run.objective.distance.precision, run.settings["precision"]) == ("float32", "bfloat16")
