"""DINOv2: the published network's size, its formulae written in another way, and a published file as an extractor."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from cm import registry
from cm.checkpoints import native
from cm.errors import UserError
from cm.evaluation import pretrained
from cm.evaluation.pretrained import sources
from cm.evaluation.pretrained.modules import dinov2
from cm.utils import files

SMALL = dinov2.Sizes(width=12, depth=2, heads=3, patch=14, grid=6)


def random(sizes: dinov2.Sizes = SMALL) -> dict[str, torch.Tensor]:
    """Weights with the checkpoint's names, none of them small."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in network(sizes).state_dict().items()}
    return {name: torch.randn(shape, generator=generator) / 3 for name, shape in shapes.items()}


def network(sizes: dinov2.Sizes = SMALL) -> dinov2.DINOv2:
    return dinov2.DINOv2(registry.get("resizer", "bicubic").device, sizes)


def test_the_network_is_vit_l_14():
    """The parameters of the published checkpoint, by name and in number."""
    with torch.device("meta"):
        state = network(dinov2.VIT_L).state_dict()
    assert sum(tensor.numel() for tensor in state.values()) == 304_368_640
    assert state["pos_embed"].shape == (1, 1370, 1024) and state["patch_embed.proj.weight"].shape == (1024, 3, 14, 14)
    block = {
        *(f"{norm}.{leaf}" for norm in ("norm1", "norm2") for leaf in ("weight", "bias")),
        *(
            f"{layer}.{leaf}"
            for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
            for leaf in ("weight", "bias")
        ),
        *("ls1.gamma", "ls2.gamma"),
    }
    around = {"cls_token", "pos_embed", "mask_token", "norm.weight", "norm.bias"}
    around |= {"patch_embed.proj.weight", "patch_embed.proj.bias"}
    assert set(state) == around | {f"blocks.{index}.{name}" for index in range(24) for name in block}


def cubic(distance: float) -> float:
    """Keys' kernel with a = -3/4."""
    a, d = -0.75, abs(distance)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0.0


def between(grid: int, side: int) -> np.ndarray:
    """[side, grid]: weights of the learned places in those of an image, at (i + 1/2) grid / (side + 0.1) - 1/2."""
    found = np.zeros((side, grid))
    for row, place in zip(found, (np.arange(side) + 0.5) * grid / (side + 0.1) - 0.5, strict=True):
        for near in range(math.floor(place) - 1, math.floor(place) + 3):
            row[min(max(near, 0), grid - 1)] += cubic(place - near)
    return found


def normed(x: np.ndarray, state: dict, name: str) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def linear(x: np.ndarray, state: dict, name: str) -> np.ndarray:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def attention(x: np.ndarray, state: dict, name: str, heads: int) -> np.ndarray:
    """Head by head, of tokens [n, width]."""
    width = x.shape[1]
    q, k, v = np.split(linear(x, state, f"{name}.qkv"), 3, axis=1)
    parts = []
    for head in np.split(np.arange(width), heads):
        score = np.exp(q[:, head] @ k[:, head].T / np.sqrt(width / heads))
        parts.append(score / score.sum(1, keepdims=True) @ v[:, head])
    return linear(np.concatenate(parts, 1), state, f"{name}.proj")


def mlp(x: np.ndarray, state: dict, name: str) -> np.ndarray:
    hidden = linear(x, state, f"{name}.fc1")
    return linear(hidden * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2))) / 2, state, f"{name}.fc2")


def written_out(tensors: dict[str, torch.Tensor], image: np.ndarray, sizes: dinov2.Sizes = SMALL) -> np.ndarray:
    """The class token of one image [3, S, S] in 0..255, in float64."""
    state = {name: tensor.double().numpy() for name, tensor in tensors.items()}
    x = (image / 255 - np.reshape([0.485, 0.456, 0.406], (3, 1, 1))) / np.reshape([0.229, 0.224, 0.225], (3, 1, 1))
    side, patch = x.shape[1] // sizes.patch, sizes.patch
    patches = x.reshape(3, side, patch, side, patch).transpose(1, 3, 0, 2, 4).reshape(side * side, -1)
    kernel = state["patch_embed.proj.weight"].reshape(sizes.width, -1)
    tokens = np.concatenate([state["cls_token"][0], patches @ kernel.T + state["patch_embed.proj.bias"]])
    learned = state["pos_embed"][0, 1:].reshape(sizes.grid, sizes.grid, -1)
    weights_ = between(sizes.grid, side) if side != sizes.grid else np.eye(side)
    places = np.einsum("ia,jb,abw->ijw", weights_, weights_, learned).reshape(side * side, -1)
    x = tokens + np.concatenate([state["pos_embed"][0, :1], places])
    for block in (f"blocks.{index}" for index in range(sizes.depth)):
        mixed = attention(normed(x, state, f"{block}.norm1"), state, f"{block}.attn", sizes.heads)
        x = x + state[f"{block}.ls1.gamma"] * mixed
        x = x + state[f"{block}.ls2.gamma"] * mlp(normed(x, state, f"{block}.norm2"), state, f"{block}.mlp")
    return normed(x, state, "norm")[0]


@pytest.mark.parametrize("grid", [6, 16, 37])
def test_the_class_token_is_the_one_of_the_formulae(grid):
    """Images of 16 patches per side: position embeddings interpolated up, as learned, and down as published."""
    sizes = dinov2.Sizes(width=12, depth=2, heads=3, patch=14, grid=grid)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 224, 224), np.uint8)
    module = dinov2.DINOv2(lambda x, size: x.double(), sizes).double().eval()
    native.restore(module, random(sizes), "here")
    with torch.inference_mode():
        features, logits = module(torch.from_numpy(pixels))
    assert logits is None and features.shape == (2, 12)
    expected = np.stack([written_out(random(sizes), image, sizes) for image in pixels])
    np.testing.assert_allclose(features, expected, rtol=1e-8, atol=1e-8)


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A checkpoint of a small network, as it is published, and the file that `write_weights` writes of it."""
    monkeypatch.setattr(dinov2, "VIT_L", SMALL)
    torch.save(random(), tmp_path / "dinov2.pth")
    pretrained.write_weights("dinov2", tmp_path / "dinov2.safetensors", tmp_path / "dinov2.pth")
    return tmp_path / "dinov2.safetensors"


@pytest.mark.parametrize("resizer", ["bicubic", "clean"])
def test_a_published_file_becomes_an_extractor(file, resizer):
    tensors, description = native.load(file)
    assert (description["weights"], description["logits"], description["source"]) == ("dinov2", False, "dinov2.pth")
    assert description["licence"] and pretrained.digest(file) == description["tensors_sha256"]
    assert all(torch.equal(tensors[name], tensor) for name, tensor in random().items())
    extractor = pretrained.load_extractor(file, resizer=resizer)
    assert (extractor.name, extractor.width) == ("dinov2", 12)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), np.uint8)
    with torch.inference_mode():
        features, logits = extractor.network(extractor.preprocess(pixels))
    by = registry.get("resizer", resizer)
    expected = [written_out(random(), image.double().numpy()) for image in by.device(by.host(pixels, 224), 224)]
    assert logits is None
    np.testing.assert_allclose(features, np.stack(expected), rtol=1e-3, atol=2e-4)
    assert not any(parameter.requires_grad for parameter in extractor.network.parameters())


def test_what_does_not_fit_is_refused(file, tmp_path):
    with pytest.raises(
        UserError, match=r"^extractor dinov2: unknown resizer 'legacy_tensorflow'; known: bicubic, clean$"
    ):
        pretrained.load_extractor(file)
    torch.save(random() | {"register_tokens": torch.zeros(1, 4, 12)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other.pth holds another network: its 'register_tokens' has no place"):
        pretrained.write_weights("dinov2", tmp_path / "out", tmp_path / "other.pth")
    torch.save(random(dinov2.Sizes(width=6, depth=2, heads=3, grid=6)), tmp_path / "other.pth")
    with pytest.raises(
        UserError, match=r"other.pth holds another network: its cls_token is \[1, 1, 6\], not \[1, 1, 12\]"
    ):
        pretrained.write_weights("dinov2", tmp_path / "out", tmp_path / "other.pth")


def test_only_the_publishers_file_in_the_cache_is_taken(file, tmp_path, monkeypatch):
    monkeypatch.setenv("CM_CACHE", str(tmp_path))
    home = tmp_path / "dinov2_vitl14_pretrain.pth"
    torch.save(random(), home)
    with pytest.raises(UserError, match=r"dinov2_vitl14_pretrain.pth has sha256 \w+, not d5383ea8"):
        sources.find("dinov2")
    known = dataclasses.replace(sources.KNOWN["dinov2"], sha256=files.sha256_of(home))
    monkeypatch.setitem(sources.KNOWN, "dinov2", known)
    raw = sources.find("dinov2")
    assert raw.source == known.url and set(raw.state) == set(random())
