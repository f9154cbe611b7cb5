"""Resizers, features and scores against clean-fid in its three modes and torch-fidelity, each on the same files.

The weights are random, with normalised activations; clean-fid and torch-fidelity run their own code.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.linalg
import torch
from cleanfid import fid as clean
from cleanfid import inception_pytorch, inception_torchscript
from cleanfid import resize as clean_resize
from PIL import Image
from torch import nn
from torch.nn import functional
from torch_fidelity import calculate_metrics
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x as tensorflow

from cm import registry
from cm.evaluation import imagesets, metrics, pretrained
from cm.evaluation.moments import Features
from cm.evaluation.pretrained.modules.inception import Inception

MODES = ["legacy_tensorflow", "legacy_pytorch", "clean"]
SHAPES = {"samples": (32, 32), "real": (48, 64)}
COUNT = 10
MIX = np.random.default_rng(8).standard_normal((2048, 6)).astype(np.float32) / 60  # so few that sqrtm takes no time


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two folders of smooth random PNGs, of two shapes."""
    rng, home = np.random.default_rng(0), tmp_path_factory.mktemp("images")
    for name, (height, width) in SHAPES.items():
        (home / name).mkdir()
        for index in range(COUNT):
            coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
            coarse.resize((width, height), Image.Resampling.BICUBIC).save(home / name / f"{index:02}.png")
    return home


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A file as pytorch-fid and torch-fidelity publish the Inception, whose batch norms have seen noise."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Inception(lambda x, size: x, centre=128.0, logits=True).train()
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = 1.0
                nn.init.normal_(layer.weight, 1.0, 0.1)
                nn.init.normal_(layer.bias, 0.0, 0.1)
        nn.init.normal_(network.fc.weight, 0.0, 0.02)
        network(functional.interpolate(256 * torch.rand(16, 3, 8, 8), (139, 139), mode="bilinear"))
        bias = {"fc.bias": torch.randn(1008)}
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.save({name.removeprefix("body."): tensor for name, tensor in network.state_dict().items()} | bias, path)
    return path


@pytest.fixture(scope="module")
def own(folders, published):
    """Our features of both folders with a resizer."""
    path, found = published.with_suffix(".safetensors"), {}
    pretrained.write_weights("inception", path, published)

    def get(resizer):
        if resizer not in found:
            extractor = pretrained.load_extractor(path, resizer=resizer)
            with torch.inference_mode():
                parts = {name: extractor.network(extractor.preprocess(pixels_of(folders / name))) for name in SHAPES}
            found[resizer] = {name: Features(*(part.numpy() for part in parts[name])) for name in SHAPES}
        return found[resizer]

    return get


def pixels_of(folder) -> np.ndarray:
    return np.concatenate(list(imagesets.open_images(folder).batches(5, 1)))


def mixed(found: Features) -> Features:
    return Features(found.features @ MIX)


class TorchScript(nn.Module):
    """What clean-fid loads from NVIDIA's file: layers, behind a resize that imitates TensorFlow's with a grid."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        theta = torch.eye(2, 3)
        theta[0, 2] += 1 / x.shape[3] - 1 / 299
        theta[1, 2] += 1 / x.shape[2] - 1 / 299
        grid = functional.affine_grid(theta[None].repeat(len(x), 1, 1), [len(x), 3, 299, 299], align_corners=False)
        resized = functional.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
        return self.layers((resized - 128) / 128)


@pytest.fixture
def theirs(published, monkeypatch):
    """clean-fid's `compute_fid` and `compute_kid`, whose weights are these and whose features are mixed."""
    root, build, remembered = scipy.linalg.sqrtm, clean.build_feature_extractor, {}
    state = torch.load(published, weights_only=True)
    monkeypatch.setattr(inception_pytorch, "load_state_dict_from_url", lambda url, progress: state)
    monkeypatch.setattr(inception_torchscript, "check_download_inception", lambda fpath: None)
    blocks = inception_pytorch.InceptionV3(resize_input=False).blocks
    monkeypatch.setattr(torch.jit, "load", lambda path: TorchScript(nn.Sequential(*blocks)))
    monkeypatch.setattr(clean, "linalg", type("linalg", (), {"sqrtm": staticmethod(lambda a, disp: (root(a), None))}))

    def built(mode, device, use_dataparallel=True):
        model = build(mode, device, use_dataparallel=False)

        def features(x):
            key = x.numpy().tobytes()
            if key not in remembered:
                remembered[key] = model(x) @ torch.from_numpy(MIX)
            return remembered[key]

        return features

    monkeypatch.setattr(clean, "build_feature_extractor", built)
    how = {"device": torch.device("cpu"), "num_workers": 0, "verbose": False}
    return lambda function, *folders, **mode: function(*map(str, folders), **how, **mode)


@pytest.mark.parametrize("mode", MODES)
def test_scores_are_clean_fids(folders, own, theirs, mode):
    ours = [mixed(own(mode)[name]) for name in SHAPES]
    pair = [folders / name for name in SHAPES]
    expected = theirs(clean.compute_fid, *pair, mode=mode)
    assert expected > 1
    assert metrics.fid(*ours) == pytest.approx(expected, rel=1e-4, abs=0)
    assert abs(metrics.fid(*ours) - expected) < 1e-3
    assert metrics.kid(*ours) == pytest.approx(theirs(clean.compute_kid, *pair, mode=mode), rel=5e-4, abs=0)


def test_the_modes_differ(own):
    """By more than the tolerance of the comparison."""
    values = [metrics.fid(*(mixed(own(mode)[name]) for name in SHAPES)) for mode in MODES]
    assert all(abs(a - b) > 1e-3 * a for index, a in enumerate(values) for b in values[:index])


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_scores_are_torch_fidelitys(folders, own, published):
    found = calculate_metrics(
        input1=str(folders / "samples"),
        input2=str(folders / "real"),
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(published),
        **{"cuda": False, "fid": True, "kid": True, "isc": True, "prc": True},
        **{"kid_subset_size": COUNT, "kid_subsets": 2, "isc_splits": 2, "samples_shuffle": False},
        **{"cache": False, "verbose": False},
    )
    ours = [own("legacy_tensorflow")[name] for name in SHAPES]
    assert metrics.fid(*ours) == pytest.approx(found["frechet_inception_distance"], rel=1e-4)
    assert metrics.kid(*ours) == pytest.approx(found["kernel_inception_distance_mean"], rel=1e-4)
    assert found["inception_score_mean"] > 1.01
    assert metrics.inception_score(*ours, splits=2) == pytest.approx(found["inception_score_mean"], rel=1e-5)
    assert metrics.precision(*ours) == found["precision"]
    assert metrics.recall(*ours) == found["recall"]


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (2, height, width, channels), np.uint8)


def resized(name: str, pixels: np.ndarray, size: int) -> torch.Tensor:
    resizer = registry.get("resizer", name)
    return resizer.device(resizer.host(pixels, size), size)


@pytest.mark.parametrize("shape", [(32, 32), (64, 64), (256, 256), (512, 512), (299, 299), (48, 64), (1, 7)], ids=str)
@pytest.mark.parametrize("size", [299, 64])
def test_legacy_tensorflow_is_torch_fidelitys_to_the_last_bit(shape, size):
    x = torch.from_numpy(noise(*shape)).permute(0, 3, 1, 2).float()
    assert torch.equal(resized("legacy_tensorflow", noise(*shape), size), tensorflow(x, (size, size), None, False))


@pytest.mark.parametrize("mode", ["clean", "legacy_pytorch"])
@pytest.mark.parametrize("shape", [(32, 32), (400, 320), (48, 64)], ids=str)
def test_resizers_outside_of_the_network_are_clean_fids(mode, shape):
    with warnings.catch_warnings():  # clean-fid's legacy_pytorch turns all warnings off
        expected = [clean_resize.build_resizer(mode)(image) for image in noise(*shape)]
    got = resized(mode, noise(*shape), 299).permute(0, 2, 3, 1)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got, np.stack(expected), atol=0, rtol=0)


def test_bicubic_is_edm2s():
    x = torch.from_numpy(noise(64, 48)).permute(0, 3, 1, 2).float()
    expected = functional.interpolate(x, size=(224, 224), mode="bicubic", antialias=True)
    got = resized("bicubic", noise(64, 48), 224)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
    assert got.max() > 255


def test_none_leaves_images_as_they_are():
    pixels = noise(9, 5, 1)
    got = resized("none", pixels, 299)
    assert got.dtype == torch.float32
    assert np.array_equal(got.permute(0, 2, 3, 1), pixels)


@pytest.mark.parametrize("name", sorted(set(registry.names("resizer")) - {"none"}))
@pytest.mark.parametrize("size", [299, 24])
def test_grey_is_repeated_and_values_are_of_the_pixels(name, size):
    grey = noise(32, 40, 1)
    got = resized(name, grey, size)
    assert got.shape == (2, 3, size, size) and got.dtype == torch.float32
    assert torch.equal(got, resized(name, grey.repeat(3, 3), size))
    assert abs(float(got.mean()) - grey.mean()) < 5
    assert -60 < got.min() < got.max() < 320


def test_pillows_warning_of_modes_does_not_come_through(monkeypatch):
    """Even where warnings are errors; only Pillow 11.3 has it."""
    from_array = Image.fromarray

    def warning(*arguments, **named):
        warnings.warn(
            "'mode' parameter is deprecated and will be removed in Pillow 13", DeprecationWarning, stacklevel=2
        )
        return from_array(*arguments, **named)

    monkeypatch.setattr(Image, "fromarray", warning)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resized("clean", noise(8, 8), 16).shape == (2, 3, 16, 16)
